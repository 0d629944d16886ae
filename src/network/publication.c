#include "network/publication.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/address.h"

static int check_one(const struct fm_publication *p, struct fm_error *err)
{
    int rc = fm_check_name("container", p->container, err);
    if (rc == 0)
        rc = fm_check_name("network", p->network, err);
    if (rc < 0)
        return rc;
    if (!fm_streq(p->protocol, "tcp") && !fm_streq(p->protocol, "udp"))
        return fm_error_set(err, FM_E_INVALID,
                            "cannot publish a port of '%s': protocol '%s' is "
                            "neither tcp nor udp",
                            p->container, p->protocol);
    if (!p->host_port || !p->port)
        return fm_error_set(err, FM_E_INVALID, "cannot publish port 0 of '%s'; choose 1 to 65535",
                            p->container);
    struct fm_ip ip;
    if (fm_ip_parse("address", p->ip, &ip, err) < 0)
        return fm_error_prefix(err, "cannot publish port %u of '%s'", p->port, p->container);
    if (!p->ip6[0])
        return 0;
    struct fm_ip ip6;
    if (fm_ip_parse("address", p->ip6, &ip6, err) < 0)
        return fm_error_prefix(err, "cannot publish port %u of '%s'", p->port, p->container);
    if (ip6.family == ip.family)
        return fm_error_set(err, FM_E_INVALID,
                            "cannot publish port %u of '%s': %s and %s are of the same family",
                            p->port, p->container, p->ip, p->ip6);
    return 0;
}

/* A port of the hosts, and who wants it. */
struct claim {
    const struct fm_publication *by;
};

static int by_host_port(const void *a, const void *b)
{
    const struct fm_publication *left = ((const struct claim *)a)->by;
    const struct fm_publication *right = ((const struct claim *)b)->by;
    int order = strcmp(left->protocol, right->protocol);
    return order ? order : (int)left->host_port - (int)right->host_port;
}

int fm_publication_check(const struct fm_publication *list, size_t count, struct fm_error *err)
{
    fm_autofree struct claim *claims = fm_xcalloc(count + 1, sizeof(*claims));
    for (size_t i = 0; i < count; i++) {
        int rc = check_one(&list[i], err);
        if (rc < 0)
            return rc;
        claims[i].by = &list[i];
    }
    qsort(claims, count, sizeof(*claims), by_host_port);
    for (size_t i = 1; i < count; i++) {
        if (by_host_port(&claims[i - 1], &claims[i]) != 0)
            continue;
        const struct fm_publication *first = claims[i - 1].by, *second = claims[i].by;
        if (first > second) { /* in the order of the list */
            first = claims[i].by;
            second = claims[i - 1].by;
        }
        return fm_error_set(err, FM_E_EXISTS,
                            "port %u/%s is published by container '%s' already; choose another "
                            "port of the hosts for '%s', as in --publish PORT:%u",
                            first->host_port, first->protocol, first->container, second->container,
                            second->port);
    }
    return 0;
}
