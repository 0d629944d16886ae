#include "migration/strategy.h"

#include <stdio.h>

#include "base/cleanup.h"
#include "base/text.h"

static const char *text_of(const json_t *engine, const char *key)
{
    const char *text = json_string_value(json_object_get(engine, key));
    return text && *text ? text : "this version has no state engine";
}

static bool works(const json_t *engine, const char *part)
{
    return json_is_true(json_object_get(engine, part));
}

/* Why memory cannot travel on its own between these hosts; false: it can. */
static bool is_bound(const json_t *source, const json_t *destination, char *reason, size_t len)
{
    if (!works(source, "skeleton"))
        snprintf(reason, len, "no skeleton dump on the source: %s",
                 text_of(source, "skeleton_reason"));
    else if (!works(source, "pager")) /* the way back */
        snprintf(reason, len, "no pager on the source: %s", text_of(source, "pager_reason"));
    else if (!works(destination, "pager"))
        snprintf(reason, len, "no pager on the destination: %s",
                 text_of(destination, "pager_reason"));
    else
        return false;
    return true;
}

static bool tracks(const json_t *engine)
{
    const char *tracker = json_string_value(json_object_get(engine, "tracker"));
    return tracker && !fm_streq(tracker, "none");
}

enum fm_strategy fm_strategy_choose(enum fm_strategy asked, const json_t *here, const json_t *there,
                                    char *reason, size_t len)
{
    snprintf(reason, len, "%s", "");
    if (asked == FM_STRATEGY_COLD || is_bound(here, there, reason, len))
        return FM_STRATEGY_COLD;
    if (asked == FM_STRATEGY_POST_COPY || tracks(here))
        return asked == FM_STRATEGY_AUTO ? FM_STRATEGY_PRE_COPY : asked;
    snprintf(reason, len, "written pages cannot be tracked on the source: %s",
             text_of(here, "tracker_reason"));
    /* Nothing is lost with its source but what it was asked to risk. */
    return asked == FM_STRATEGY_HYBRID ? FM_STRATEGY_POST_COPY : FM_STRATEGY_COLD;
}
