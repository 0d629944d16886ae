/* The short forms that people write on a command line: --health, --volume and --publish. */
#include "container/container.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "container/check.h"

#define DEFAULT_ATTEMPTS 3
#define DEFAULT_INTERVAL_MS 1000
#define DEFAULT_TIMEOUT_MS 2000
#define MAX_TARGET 4096
#define MAX_PUBLISH 64

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

static bool take_port(const char *text, uint16_t *port)
{
    int64_t value = 0;
    bool ok = text && fm_parse_int(text, 1, 65535, &value, NULL) == 0;

    *port = (uint16_t)value;
    return ok;
}

int fm_publish_parse(const char *text, struct fm_publish *publish, struct fm_error *err)
{
    fm_autofree char *copy = fm_is_text(text, 32) ? fm_xstrdup(text) : fm_xstrdup("");
    char *rest = copy;
    const char *ports = strsep(&rest, "/");
    const char *protocol = rest ? rest : "tcp";
    fm_autofree char *pair = fm_xstrdup(ports);
    char *port = pair;
    const char *host_port = strsep(&port, ":");

    *publish = (struct fm_publish){0};
    if (!take_port(host_port, &publish->host_port) || !take_port(port, &publish->port) ||
        (!fm_streq(protocol, "tcp") && !fm_streq(protocol, "udp")))
        return fm_error_set(err, FM_E_USAGE,
                            "published port '%.64s' is not understood: use HOSTPORT:PORT, with "
                            "/udp when it is not TCP",
                            text ? text : "");
    memcpy(publish->protocol, protocol, sizeof(publish->protocol));
    return 0;
}

char *fm_publish_format(const struct fm_publish *publish)
{
    return fm_strf("%u:%u/%s", publish->host_port, publish->port, publish->protocol);
}

int fm_publish_check(struct fm_strv *list, struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv full = {0};
    struct fm_publish one, other;

    if (list->count > MAX_PUBLISH)
        return fm_error_set(err, FM_E_USAGE, "a container publishes %d ports at most", MAX_PUBLISH);
    for (size_t i = 0; i < list->count; i++) {
        int rc = fm_publish_parse(list->items[i], &one, err);

        for (size_t k = 0; k < i && rc == 0; k++)
            if (fm_publish_parse(full.items[k], &other, err) == 0 &&
                other.host_port == one.host_port && fm_streq(other.protocol, one.protocol))
                rc = fm_error_set(err, FM_E_USAGE, "port %u/%s is published twice", one.host_port,
                                  one.protocol);
        if (rc < 0)
            return rc;
        fm_autofree char *text = fm_publish_format(&one);
        fm_strv_add(&full, text);
    }
    fm_strv_free(list);
    *list = full;
    full = (struct fm_strv){0};
    return 0;
}
