#include "network/verifier.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "network/netns.h"
#include "network/probe.h"
#include "network/solicit.h"

#define DEFAULT_LATENCY_MS 1000
#define MAX_LATENCY_MS 600000
#define DEFAULT_ATTEMPTS 3
#define DEFAULT_INTERVAL_MS 1000
#define DEFAULT_PATIENCE_MS 1000

/* ---- attempts ---- */

/* How often, how long; one attempt more as long as `again` says so. */
struct course {
    int attempts;
    uint64_t interval_ms, timeout_ms, limit_ms;
    uint64_t started_ms;
    int made;
    bool cut; /* by the limit */
};

static void pause_ms(uint64_t ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

static uint64_t time_left(const struct course *c)
{
    uint64_t gone = fm_now_ms() - c->started_ms;
    return !c->limit_ms ? UINT64_MAX : gone < c->limit_ms ? c->limit_ms - gone : 0;
}

/* True when there is an attempt to make now; it then has *timeout_ms. */
static bool next_attempt(struct course *c, uint64_t *timeout_ms)
{
    if (c->made >= c->attempts)
        return false;
    if (c->made > 0 && time_left(c) > c->interval_ms)
        pause_ms(c->interval_ms);
    else if (c->made > 0)
        c->cut = true;
    if (c->cut)
        return false;
    uint64_t left = time_left(c);
    *timeout_ms = left < c->timeout_ms ? left : c->timeout_ms;
    if (*timeout_ms == 0)
        *timeout_ms = 1; /* 0 would be for ever */
    c->made++;
    return true;
}

static struct course course_begin(int attempts, uint64_t interval_ms, uint64_t timeout_ms,
                                  uint64_t limit_ms)
{
    return (struct course){.attempts = attempts > 0 ? attempts : 1,
                           .interval_ms = interval_ms,
                           .timeout_ms = timeout_ms,
                           .limit_ms = limit_ms,
                           .started_ms = fm_now_ms()};
}

/* "3 attempts", "1 attempt within the limit of 500 ms". */
static const char *course_text(const struct course *c, char text[96])
{
    int len = snprintf(text, 96, "%d attempt%s", c->made, c->made == 1 ? "" : "s");
    if (c->cut)
        snprintf(text + len, 96 - (size_t)len, " within the limit of %" PRIu64 " ms", c->limit_ms);
    return text;
}

static void write_report(char *report, const struct fm_probe *p)
{
    fm_autofree char *text =
        fm_strf("%.90s %s in %.1f ms", p->url, p->said, (double)p->took_us / 1000.0);
    if (report)
        snprintf(report, FM_VERIFY_REPORT, "%s", text);
}

/* ---- health ---- */

int fm_verify_health(const struct fm_health_check *check, char *report, struct fm_error *err)
{
    struct fm_probe p;
    const struct fm_probe_target target = {.what = "health check",
                                           .kind = check->kind,
                                           .text = check->target,
                                           .address = check->address};
    int rc = fm_probe_parse(&target, &p, err);
    if (rc < 0)
        return rc;
    struct course c =
        course_begin(check->attempts, check->interval_ms,
                     check->timeout_ms ? check->timeout_ms : p.timeout_ms, check->limit_ms);
    while (!p.healthy && next_attempt(&c, &p.timeout_ms))
        fm_probe_try(&p, check->netns);
    write_report(report, &p);
    char text[96];
    return p.healthy ? 0
                     : fm_error_set(err, FM_E_FAILED, "health check %s %s in %.1f ms (%s)", p.url,
                                    p.said, (double)p.took_us / 1000.0, course_text(&c, text));
}

/* ---- dependencies ---- */

static int say_misunderstood(const char *text, const char *why, struct fm_error *err)
{
    fm_autofree char *reason = *why ? fm_strf(" (%s)", why) : fm_xstrdup("");
    return fm_error_set(err, FM_E_USAGE,
                        "dependency '%.100s' is not understood%s: use tcp://ADDRESS:PORT or "
                        "http://ADDRESS[:PORT]/PATH, and ,500ms for the time that it may take",
                        text, reason);
}

/* By address: in the container's namespace nobody here can look up names as it does. */
static bool names_address(const struct fm_probe *p)
{
    const char *host = strstr(p->url, "://") + strlen("://");
    bool six = *host == '[';
    host += six;
    fm_autofree char *text = fm_xstrndup(host, strcspn(host, six ? "]/" : ":/?#"));
    struct fm_ip ip;
    return fm_ip_parse("", text, &ip, NULL) == 0 && !ip.with_prefix;
}

/* The latency stands behind the last comma; a path may have commas of its own. */
static int split_latency(char *text, uint64_t *ms, struct fm_error *err)
{
    char *comma = strrchr(text, ',');
    *ms = DEFAULT_LATENCY_MS;
    if (!comma)
        return 0;
    *comma = '\0';
    int rc = fm_parse_duration(comma + 1, ms, err);
    return rc == 0 && (*ms == 0 || *ms > MAX_LATENCY_MS)
               ? fm_error_set(err, FM_E_USAGE, "the time must be from 1ms to 10m")
               : rc;
}

static int parse_probe(const struct fm_dependency *d, struct fm_probe *p, struct fm_error *err)
{
    const struct fm_probe_target target = {
        .what = "dependency", .kind = d->kind, .text = d->target};
    return fm_probe_parse(&target, p, err);
}

int fm_dependency_parse(const char *text, struct fm_dependency *dependency, struct fm_error *err)
{
    fm_autofree char *target = fm_xstrdup(text);
    struct fm_error why = {0};
    struct fm_probe p;
    *dependency =
        (struct fm_dependency){.attempts = DEFAULT_ATTEMPTS, .interval_ms = DEFAULT_INTERVAL_MS};
    if (split_latency(target, &dependency->max_latency_ms, &why) < 0)
        return say_misunderstood(text, why.text, err);
    if (!strstr(target, "://") || strlen(target) >= sizeof(dependency->target))
        return say_misunderstood(text, "", err);
    snprintf(dependency->kind, sizeof(dependency->kind), "%s",
             fm_starts_with(target, "tcp://") ? "tcp" : "http");
    snprintf(dependency->target, sizeof(dependency->target), "%s", target);
    if (parse_probe(dependency, &p, &why) < 0)
        return say_misunderstood(text, why.text, err);
    return names_address(&p) ? 0 : say_misunderstood(text, "the host is not an address", err);
}

/* Waits longer than it is allowed to take, so that the verdict can tell how long it took. */
static uint64_t patience_ms(const struct fm_dependency *d)
{
    uint64_t more = d->max_latency_ms > DEFAULT_LATENCY_MS ? d->max_latency_ms : DEFAULT_LATENCY_MS;
    return d->max_latency_ms + more;
}

static int judge_dependency(const struct fm_dependency *d, const struct fm_probe *p,
                            const struct course *c, struct fm_error *err)
{
    char text[96];
    course_text(c, text);
    if (p->timed_out)
        return fm_error_set(err, FM_E_FAILED,
                            "dependency %s does not answer within %" PRIu64 " ms, allowed %" PRIu64
                            " ms (%s)",
                            p->url, p->timeout_ms, d->max_latency_ms, text);
    if (!p->healthy)
        return fm_error_set(err, FM_E_FAILED, "dependency %s does not work: %s (%s)", p->url,
                            p->said, text);
    return fm_error_set(err, FM_E_FAILED,
                        "dependency %s answers in %" PRIu64 " ms, allowed %" PRIu64 " ms (%s)",
                        p->url, p->took_us / 1000, d->max_latency_ms, text);
}

int fm_verify_dependency(const struct fm_dependency *dependency, const char *netns,
                         uint64_t limit_ms, char *report, struct fm_error *err)
{
    struct fm_probe p;
    int rc = parse_probe(dependency, &p, err);
    if (rc < 0)
        return rc;
    struct course c = course_begin(dependency->attempts, dependency->interval_ms,
                                   patience_ms(dependency), limit_ms);
    bool in_time = false;
    while (!in_time && next_attempt(&c, &p.timeout_ms)) {
        fm_probe_try(&p, netns);
        in_time = p.healthy && p.took_us <= dependency->max_latency_ms * 1000;
    }
    write_report(report, &p);
    return in_time ? 0 : judge_dependency(dependency, &p, &c, err);
}

/* ---- reachability ---- */

struct view {
    const struct fm_reach *reach;
    struct fm_solicitation link;
};

static int solicit(void *ctx, struct fm_error *err)
{
    return fm_solicit(ctx, err);
}

static int view_link(struct view *v, struct fm_error *err)
{
    const char *netns = v->reach->netns;
    return netns ? fm_netns_run(netns, solicit, &v->link, err) : fm_solicit(&v->link, err);
}

static int view_tcp(struct view *v, struct fm_error *err)
{
    char text[FM_IP_TEXT];
    struct fm_probe p = {
        .ip = v->link.ip, .port = v->reach->port, .timeout_ms = v->link.timeout_ms};
    fm_probe_try(&p, v->reach->netns);
    v->link.took_us = p.took_us;
    return p.healthy
               ? 0
               : fm_error_set(err, FM_E_UNREACHABLE, "address %s does not answer at port %u: %s",
                              fm_ip_format(&v->link.ip, text), v->reach->port, p.said);
}

static int check_mac(const struct view *v, const char *mac, struct fm_error *err)
{
    char text[FM_IP_TEXT];
    if (!v->reach->mac || strcasecmp(mac, v->reach->mac) == 0)
        return 0;
    return fm_error_set(err, FM_E_FAILED, "address %s is answered by %s, expected %s",
                        fm_ip_format(&v->link.ip, text), mac, v->reach->mac);
}

static int look(struct view *v, struct fm_reach_answer *answer, struct fm_error *err)
{
    bool tcp = v->reach->port > 0;
    int attempts = v->reach->attempts > 0 ? v->reach->attempts : DEFAULT_ATTEMPTS;
    int rc = -FM_E_UNREACHABLE;
    while (rc == -FM_E_UNREACHABLE && answer->attempts < attempts) {
        rc = tcp ? view_tcp(v, err) : view_link(v, err);
        answer->attempts++;
    }
    answer->latency_us = v->link.took_us;
    if (rc == -FM_E_UNREACHABLE) {
        fm_autofree char *why = fm_xstrdup(err ? err->text : "");
        return fm_error_set(err, FM_E_UNREACHABLE, "%s (%d attempt%s)", why, attempts,
                            attempts == 1 ? "" : "s");
    }
    if (rc < 0 || tcp)
        return rc;
    fm_mac_format(v->link.mac, answer->mac);
    return check_mac(v, answer->mac, err);
}

int fm_verify_reachable(const struct fm_reach *reach, struct fm_reach_answer *answer,
                        struct fm_error *err)
{
    struct view v = {
        .reach = reach,
        .link = {.interface = reach->interface,
                 .timeout_ms = reach->timeout_ms ? reach->timeout_ms : DEFAULT_PATIENCE_MS}};
    *answer = (struct fm_reach_answer){0};
    int rc = fm_ip_parse("address", reach->address, &v.link.ip, err);
    if (rc == 0 && !reach->port && !reach->interface)
        return fm_error_set(err, FM_E_INVALID, "asking for %s needs an interface or a port",
                            reach->address);
    return rc < 0 ? rc : look(&v, answer, err);
}
