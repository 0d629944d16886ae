#include "migration/policy.h"

#include <jansson.h>

#include "base/cleanup.h"

/* A rule says why it denies; 0 means that it has no objection. */
typedef int (*rule_fn)(const struct fm_policy_request *request, struct fm_error *err);

static int immovable(const struct fm_policy_request *request, struct fm_error *err)
{
    const json_t *label = json_object_get(request->container->labels, FM_LABEL_IMMOVABLE);

    if (!label || !fm_streq(json_string_value(label), "true"))
        return 0;
    return fm_error_set(err, FM_E_REFUSED,
                        "container '%s' is labelled " FM_LABEL_IMMOVABLE
                        "=true and stays on '%s'; run it without this label to make it movable",
                        request->container->name, request->source);
}

static int cordoned(const struct fm_policy_request *request, struct fm_error *err)
{
    if (!request->destination_cordoned)
        return 0;
    return fm_error_set(
        err, FM_E_REFUSED,
        "host '%s' is cordoned and takes no containers; run `fleximigrate host uncordon %s`",
        request->destination, request->destination);
}

/* Rules that always hold. Policies that operators write are asked after these. */
static const rule_fn built_in[] = {immovable, cordoned};

int fm_policy_decide(const struct fm_policy_request *request, struct fm_error *err)
{
    for (size_t i = 0; i < FM_COUNT(built_in); i++) {
        int rc = built_in[i](request, err);

        if (rc < 0)
            return rc;
    }
    return 0;
}
