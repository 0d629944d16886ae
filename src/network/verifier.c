#include "network/verifier.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "network/address.h"
#include "network/netns.h"

#define REPORT_BYTES 256

struct attempt {
    bool http;
    char url[512]; /* complete, for HTTP and for people */
    struct fm_ip ip;
    uint16_t port;
    uint64_t timeout_ms;
    char answer[160]; /* "answered 200 in 1.3 ms" */
};

/* ---- targets ---- */

static int split_target(const struct fm_health_check *check, const char **scheme,
                        const char **authority, struct fm_error *err)
{
    const char *target = check->target;
    static const char *const schemes[] = {"http://", "https://", "tcp://"};
    for (size_t i = 0; i < FM_COUNT(schemes); i++) {
        if (!fm_starts_with(target, schemes[i]))
            continue;
        *scheme = schemes[i];
        *authority = target + strlen(schemes[i]);
        if (fm_streq(check->kind, "tcp") != fm_streq(*scheme, "tcp://"))
            return fm_error_set(err, FM_E_INVALID, "health check '%s' is not of the kind '%s'",
                                target, check->kind);
        return 0;
    }
    if (strstr(target, "://"))
        return fm_error_set(err, FM_E_INVALID,
                            "health check '%s' is neither http://, https:// nor tcp://", target);
    *scheme = fm_streq(check->kind, "tcp") ? "tcp://" : "http://";
    *authority = target;
    return 0;
}

/* The length of "host" in "host:port/path" or "[v6]:port"; 0 when it is left out. */
static size_t host_length(const char *authority)
{
    if (authority[0] == '[')
        return strcspn(authority, "]") + 1;
    return strcspn(authority, ":/");
}

static int parse_tcp(struct attempt *a, const char *host, const char *rest, struct fm_error *err)
{
    fm_autofree char *bare = fm_xstrdup(host);
    char *address = bare;
    if (address[0] == '[') {
        address[strcspn(address, "]")] = '\0';
        address++;
    }
    int rc = fm_ip_parse("health check address", address, &a->ip, err);
    if (rc < 0)
        return rc;
    fm_autofree char *digits = fm_xstrdup(rest[0] == ':' ? rest + 1 : "");
    size_t len = strlen(digits);
    if (len && digits[len - 1] == '/')
        digits[len - 1] = '\0';
    int64_t port = 0;
    struct fm_error ignored = {0};
    if (fm_parse_int(digits, 1, 65535, &port, &ignored) < 0)
        return fm_error_set(err, FM_E_INVALID, "health check '%s' needs a port (tcp://:6379)",
                            a->url);
    a->port = (uint16_t)port;
    return 0;
}

static int parse_target(const struct fm_health_check *check, struct attempt *a,
                        struct fm_error *err)
{
    const char *scheme = NULL;
    const char *authority = "";
    if (!fm_streq(check->kind, "http") && !fm_streq(check->kind, "tcp"))
        return fm_error_set(err, FM_E_INVALID, "unknown kind of health check '%s'", check->kind);
    int rc = split_target(check, &scheme, &authority, err);
    if (rc < 0)
        return rc;
    size_t len = host_length(authority);
    fm_autofree char *host = NULL;
    if (len)
        host = fm_xstrndup(authority, len);
    else if (!check->address)
        return fm_error_set(err, FM_E_INVALID, "health check '%s' names no host", check->target);
    else
        host = fm_strf(strchr(check->address, ':') ? "[%s]" : "%s", check->address);
    const char *rest = authority + (len <= strlen(authority) ? len : strlen(authority));
    a->http = !fm_streq(scheme, "tcp://");
    a->timeout_ms = check->timeout_ms ? check->timeout_ms : 1000;
    if (snprintf(a->url, sizeof(a->url), "%s%s%s", scheme, host, rest) >= (int)sizeof(a->url))
        return fm_error_set(err, FM_E_INVALID, "health check '%s' is too long", check->target);
    return a->http ? 0 : parse_tcp(a, host, rest, err);
}

/* ---- one attempt ---- */

static int describe(struct attempt *a, uint64_t started_us, bool healthy, const char *what)
{
    snprintf(a->answer, sizeof(a->answer), "%s in %.1f ms", what,
             (double)(fm_now_us() - started_us) / 1000.0);
    return healthy ? 0 : -FM_E_FAILED;
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

static int try_tcp(struct attempt *a)
{
    uint64_t started = fm_now_us();
    fm_autoclose int fd = socket(a->ip.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return describe(a, started, false, strerror(errno));
    struct sockaddr_storage address;
    socklen_t len = fm_ip_sockaddr(&a->ip, a->port, &address);
    int error = 0;
    if (connect(fd, (struct sockaddr *)&address, len) < 0)
        error = errno == EINPROGRESS ? finish_connect(fd, a->timeout_ms) : errno;
    return describe(a, started, error == 0, error ? strerror(error) : "connected");
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

static int try_http(struct attempt *a)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_curl);
    uint64_t started = fm_now_us();
    CURL *curl = curl_easy_init();
    if (!curl)
        return describe(a, started, false, "libcurl does not start");
    curl_easy_setopt(curl, CURLOPT_URL, a->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)a->timeout_ms);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, discard);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "fleximigrate/" FM_VERSION);
    /* Health, not identity, is asked for; a container's certificate rarely names its address. */
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    CURLcode code = curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(curl);
    if (code != CURLE_OK)
        return describe(a, started, false, curl_easy_strerror(code));
    char what[64];
    snprintf(what, sizeof(what), "answered %ld", status);
    return describe(a, started, status >= 200 && status < 400, what);
}

static int attempt_once(void *ctx, struct fm_error *err)
{
    (void)err; /* the answer says it */
    struct attempt *a = ctx;
    return a->http ? try_http(a) : try_tcp(a);
}

static void pause_ms(uint64_t ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

int fm_verify_health(const struct fm_health_check *check, char *report, struct fm_error *err)
{
    struct attempt a = {0};
    int rc = parse_target(check, &a, err);
    if (rc < 0)
        return rc;
    int attempts = check->attempts > 0 ? check->attempts : 1;
    for (int i = 0; i < attempts; i++) {
        if (i > 0)
            pause_ms(check->interval_ms);
        struct fm_error here = {0};
        rc = check->netns ? fm_netns_run(check->netns, attempt_once, &a, &here)
                          : attempt_once(&a, &here);
        if (rc < 0 && here.text[0]) /* did not even get into the namespace */
            snprintf(a.answer, sizeof(a.answer), "%.150s", here.text);
        if (rc == 0)
            break;
    }
    if (report)
        snprintf(report, REPORT_BYTES, "%.90s %s", a.url, a.answer);
    if (rc == 0)
        return 0;
    return fm_error_set(err, FM_E_FAILED, "health check %s %s (%d attempt%s)", a.url, a.answer,
                        attempts, attempts == 1 ? "" : "s");
}
