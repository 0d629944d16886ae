#include "network/probe.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "network/netns.h"

#define DEFAULT_TIMEOUT_MS 1000

/* ---- targets ---- */

static int split_target(const struct fm_probe_target *target, const char **scheme,
                        const char **authority, struct fm_error *err)
{
    static const char *const schemes[] = {"http://", "https://", "tcp://"};
    const char *text = target->text;
    for (size_t i = 0; i < FM_COUNT(schemes); i++) {
        if (!fm_starts_with(text, schemes[i]))
            continue;
        *scheme = schemes[i];
        *authority = text + strlen(schemes[i]);
        if (fm_streq(target->kind, "tcp") != fm_streq(*scheme, "tcp://"))
            return fm_error_set(err, FM_E_INVALID, "%s '%s' is not of the kind '%s'", target->what,
                                text, target->kind);
        return 0;
    }
    if (strstr(text, "://"))
        return fm_error_set(err, FM_E_INVALID, "%s '%s' is neither http://, https:// nor tcp://",
                            target->what, text);
    *scheme = fm_streq(target->kind, "tcp") ? "tcp://" : "http://";
    *authority = text;
    return 0;
}

/* The length of "host" in "host:port/path" or "[v6]:port"; 0 when it is left out. */
static size_t host_length(const char *authority)
{
    if (authority[0] == '[')
        return strcspn(authority, "]") + 1;
    return strcspn(authority, ":/");
}

static int parse_tcp(const struct fm_probe_target *target, struct fm_probe *p, const char *host,
                     const char *rest, struct fm_error *err)
{
    fm_autofree char *bare = fm_xstrdup(host);
    fm_autofree char *what = fm_strf("%s address", target->what);
    char *address = bare;
    if (address[0] == '[') {
        address[strcspn(address, "]")] = '\0';
        address++;
    }
    int rc = fm_ip_parse(what, address, &p->ip, err);
    if (rc < 0)
        return rc;
    fm_autofree char *digits = fm_xstrdup(rest[0] == ':' ? rest + 1 : "");
    size_t len = strlen(digits);
    if (len && digits[len - 1] == '/')
        digits[len - 1] = '\0';
    int64_t port = 0;
    if (fm_parse_int(digits, 1, 65535, &port, NULL) < 0)
        return fm_error_set(err, FM_E_INVALID, "%s '%s' needs a port (tcp://:6379)", target->what,
                            p->url);
    p->port = (uint16_t)port;
    return 0;
}

int fm_probe_parse(const struct fm_probe_target *target, struct fm_probe *probe,
                   struct fm_error *err)
{
    const char *scheme = NULL;
    const char *authority = "";
    *probe = (struct fm_probe){.timeout_ms = DEFAULT_TIMEOUT_MS};
    if (!fm_streq(target->kind, "http") && !fm_streq(target->kind, "tcp"))
        return fm_error_set(err, FM_E_INVALID, "unknown kind of %s '%s'", target->what,
                            target->kind);
    int rc = split_target(target, &scheme, &authority, err);
    if (rc < 0)
        return rc;
    size_t len = host_length(authority);
    fm_autofree char *host = NULL;
    if (len)
        host = fm_xstrndup(authority, len);
    else if (!target->address)
        return fm_error_set(err, FM_E_INVALID, "%s '%s' names no host", target->what, target->text);
    else
        host = fm_strf(strchr(target->address, ':') ? "[%s]" : "%s", target->address);
    const char *rest = authority + (len <= strlen(authority) ? len : strlen(authority));
    probe->http = !fm_streq(scheme, "tcp://");
    if (snprintf(probe->url, sizeof(probe->url), "%s%s%s", scheme, host, rest) >=
        (int)sizeof(probe->url))
        return fm_error_set(err, FM_E_INVALID, "%s '%s' is too long", target->what, target->text);
    return probe->http ? 0 : parse_tcp(target, probe, host, rest, err);
}

/* ---- one attempt ---- */

static void note(struct fm_probe *p, uint64_t started_us, bool healthy, const char *said)
{
    p->took_us = fm_now_us() - started_us;
    p->healthy = healthy;
    snprintf(p->said, sizeof(p->said), "%s", said);
}

static int finish_connect(int fd, uint64_t timeout_ms)
{
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    int ready;
    do
        ready = poll(&wait, 1, (int)timeout_ms);
    while (ready < 0 && errno == EINTR);
    if (ready == 0)
        return ETIMEDOUT;
    int error = 0;
    socklen_t len = sizeof(error);
    if (ready < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return errno;
    return error;
}

static void try_tcp(struct fm_probe *p)
{
    uint64_t started = fm_now_us();
    fm_autoclose int fd = socket(p->ip.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        note(p, started, false, strerror(errno));
        return;
    }
    struct sockaddr_storage address;
    socklen_t len = fm_ip_sockaddr(&p->ip, p->port, &address);
    int error = 0;
    if (connect(fd, (struct sockaddr *)&address, len) < 0)
        error = errno == EINPROGRESS ? finish_connect(fd, p->timeout_ms) : errno;
    p->timed_out = error == ETIMEDOUT;
    note(p, started, error == 0, error ? strerror(error) : "connected");
}

static size_t discard(char *data, size_t size, size_t count, void *ctx)
{
    (void)data;
    (void)ctx;
    return size * count;
}

static void start_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static void try_http(struct fm_probe *p)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_curl);
    uint64_t started = fm_now_us();
    CURL *curl = curl_easy_init();
    if (!curl) {
        note(p, started, false, "libcurl does not start");
        return;
    }
    curl_easy_setopt(curl, CURLOPT_URL, p->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)p->timeout_ms);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, discard);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "fleximigrate/" FM_VERSION);
    /* Health, not identity, is asked for; a container's certificate rarely names its address. */
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    CURLcode code = curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(curl);
    p->timed_out = code == CURLE_OPERATION_TIMEDOUT;
    char what[64];
    snprintf(what, sizeof(what), "answered %ld", status);
    note(p, started, code == CURLE_OK && status >= 200 && status < 400,
         code == CURLE_OK ? what
         : p->timed_out   ? "does not answer"
                          : curl_easy_strerror(code));
}

static int try_here(void *ctx, struct fm_error *err)
{
    (void)err; /* what it met is in the probe */
    struct fm_probe *p = ctx;
    p->http ? try_http(p) : try_tcp(p);
    return 0;
}

void fm_probe_try(struct fm_probe *probe, const char *netns)
{
    struct fm_error err = {0};
    probe->healthy = probe->timed_out = false;
    probe->took_us = 0;
    if (!netns)
        try_here(probe, &err);
    else if (fm_netns_run(netns, try_here, probe, &err) < 0)
        snprintf(probe->said, sizeof(probe->said), "%.150s", err.text);
}
