/* The destination's verdict: the container is healthy, and what it depends on answers from where it
 * is now. */
#include "migration/incoming_internal.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
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

static int run_health_command(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    const struct fm_health *h = &in->container->health;
    const char *const argv[] = {"/bin/sh", "-c", h->target, NULL};
    int exit_code = 0, rc = 0;
    for (int i = 0; i < h->attempts; i++) {
        const int fds[3] = {-1, -1, -1};
        rc = p->runtime.ops->exec(p->runtime.ctx, in->container->name, argv, fds, h->timeout_ms,
                                  &exit_code, err);
        if (rc == 0 && exit_code == 0)
            return 0;
        uint64_t left = fm_incoming_verify_left(in);
        if (left && left <= h->interval_ms)
            break;
        if (i + 1 < h->attempts)
            poll(NULL, 0, (int)h->interval_ms);
    }
    return rc < 0 ? rc
                  : fm_error_set(err, FM_E_FAILED, "health check '%s' exits with %d (%d attempts)",
                                 h->target, exit_code, h->attempts);
}

int fm_incoming_check_health(struct fm_incoming *in, char *report, struct fm_error *err)
{
    const struct fm_health *h = &in->container->health;
    if (!h->kind)
        return 0;
    if (fm_streq(h->kind, "command"))
        return run_health_command(in, err);
    fm_autofree char *address = fm_xstrdup(in->container->ip ? in->container->ip : "127.0.0.1");
    address[strcspn(address, "/")] = '\0';
    struct fm_health_check check = {.kind = h->kind,
                                    .target = h->target,
                                    .address = address,
                                    .netns = in->has_endpoint ? in->endpoint.netns : NULL,
                                    .attempts = h->attempts,
                                    .interval_ms = h->interval_ms,
                                    .timeout_ms = h->timeout_ms,
                                    .limit_ms = fm_incoming_verify_left(in)};
    return fm_verify_health(&check, report, err);
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
