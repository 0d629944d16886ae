/* The short forms that people write on a command line: --health and --volume. */
#include "container/container.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "container/check.h"

#define DEFAULT_ATTEMPTS 3
#define DEFAULT_INTERVAL_MS 1000
#define DEFAULT_TIMEOUT_MS 2000
#define MAX_TARGET 4096

/* "HOST:PORT" or ":PORT"; `end` is where the port ends. */
static bool is_endpoint(const char *s, const char *end)
{
    fm_autofree char *text = fm_xstrndup(s, (size_t)(end - s));
    char *colon = strrchr(text, ':');
    int64_t port;

    if (!colon || fm_parse_int(colon + 1, 1, 65535, &port, NULL) < 0)
        return false;
    *colon = '\0';
    return *text == '\0' || fm_is_address(text, false) || fm_check_name("host", text, NULL) == 0;
}

static const char *kind_of(const char *text, const char **target)
{
    if (fm_starts_with(text, "http://")) {
        const char *host = text + strlen("http://");

        *target = text;
        return is_endpoint(host, host + strcspn(host, "/")) ? "http" : NULL;
    }
    if (fm_starts_with(text, "tcp://")) {
        *target = text + strlen("tcp://");
        return is_endpoint(*target, *target + strlen(*target)) ? "tcp" : NULL;
    }
    if (fm_starts_with(text, "cmd:")) {
        *target = text + strlen("cmd:");
        *target += strspn(*target, " ");
        return **target ? "command" : NULL;
    }
    return NULL;
}

int fm_health_parse(const char *text, struct fm_health *health, struct fm_error *err)
{
    const char *target = NULL;
    const char *kind = fm_is_text(text, MAX_TARGET) ? kind_of(text, &target) : NULL;

    *health = (struct fm_health){0};
    if (!kind)
        return fm_error_set(err, FM_E_USAGE,
                            "health check '%.100s' is not understood: use http://:PORT/PATH, "
                            "tcp://:PORT or cmd:COMMAND",
                            text ? text : "");
    *health = (struct fm_health){
        .kind = fm_xstrdup(kind),
        .target = fm_xstrdup(target),
        .attempts = DEFAULT_ATTEMPTS,
        .interval_ms = DEFAULT_INTERVAL_MS,
        .timeout_ms = DEFAULT_TIMEOUT_MS,
    };
    return 0;
}

static bool take_flag(const char *flag, struct fm_volume *volume)
{
    if (fm_streq(flag, "ro"))
        volume->read_only = true;
    else if (fm_streq(flag, "shared"))
        volume->shared = true;
    else
        return fm_streq(flag, "rw");
    return true;
}

int fm_volume_parse(const char *text, struct fm_volume *volume, struct fm_error *err)
{
    fm_autofree char *copy = fm_xstrdup(text ? text : "");
    char *rest = copy;
    const char *source = strsep(&rest, ":");
    const char *target = strsep(&rest, ":");
    struct fm_volume v = {0};
    bool ok =
        fm_is_clean_path(source) && target && fm_is_clean_path(target) && !fm_streq(target, "/");

    *volume = v;
    while (ok && rest)
        ok = take_flag(strsep(&rest, ":"), &v);
    if (!ok)
        return fm_error_set(err, FM_E_USAGE,
                            "volume '%.200s' is not understood: use SOURCE:TARGET[:ro][:shared] "
                            "with absolute paths",
                            text ? text : "");
    v.source = fm_xstrdup(source);
    v.target = fm_xstrdup(target);
    *volume = v;
    return 0;
}
