/* The destination's verdict: what the container depends on answers from where it is now. */
#include "migration/incoming_internal.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "network/verifier.h"

uint64_t fm_incoming_verify_left(const struct fm_incoming *in)
{
    uint64_t now = fm_now_ms();
    if (!in->verify_until_ms)
        return 0;
    return now < in->verify_until_ms ? in->verify_until_ms - now : 1;
}

static int check_one(struct fm_incoming *in, const char *text, struct fm_error *err)
{
    struct fm_dependency dependency;
    char report[FM_VERIFY_REPORT] = "";
    int rc = fm_dependency_parse(text, &dependency, err);
    if (rc == 0)
        rc = fm_verify_dependency(&dependency, in->has_endpoint ? in->endpoint.netns : NULL,
                                  fm_incoming_verify_left(in), report, err);
    if (rc == 0)
        fm_info(FM_NETWORK_MANAGER, "Dependency of %s: %s.", in->container->name, report);
    return rc;
}

/* All of them are asked, so that one migration tells all that is wrong. */
int fm_incoming_check_dependencies(struct fm_incoming *in, int health, struct fm_error *err)
{
    const struct fm_strv *depends = &in->container->depends;
    int result = health;
    for (size_t i = 0; i < depends->count; i++) {
        struct fm_error here = {0};
        const struct fm_error before = *err;
        int rc = check_one(in, depends->items[i], &here);
        if (rc < 0 && result < 0)
            fm_error_set(err, before.code, "%s; %s", before.text, here.text);
        else if (rc < 0)
            *err = here;
        result = result < 0 ? result : rc;
    }
    return result;
}
