#include "network/publication.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/address.h"
#include "network/netlink.h"

/* ---- text ---- */

static int parse_port(const char *text, uint16_t *port)
{
    int64_t value = 0;
    struct fm_error ignored = {0};
    if (fm_parse_int(text, 1, UINT16_MAX, &value, &ignored) < 0)
        return -FM_E_INVALID;
    *port = (uint16_t)value;
    return 0;
}

int fm_publication_parse(const char *text, struct fm_publication *publication, struct fm_error *err)
{
    *publication = (struct fm_publication){.protocol = "tcp"};
    fm_autofree char *ports = fm_xstrdup(text);
    char *slash = strchr(ports, '/');
    if (slash) {
        *slash = '\0';
        if (!fm_streq(slash + 1, "tcp") && !fm_streq(slash + 1, "udp"))
            return fm_error_set(
                err, FM_E_INVALID,
                "cannot publish '%s': the protocol is tcp or udp, as in 8080:80/udp", text);
        memcpy(publication->protocol, slash + 1, sizeof(publication->protocol));
    }
    char *colon = strchr(ports, ':');
    if (colon && strchr(colon + 1, ':'))
        return fm_error_set(err, FM_E_INVALID,
                            "cannot publish '%s': want [HOST_PORT:]PORT[/tcp|/udp]; a port is "
                            "published on all addresses of all hosts",
                            text);
    if (colon)
        *colon = '\0';
    if (parse_port(ports, &publication->host_port) < 0 ||
        parse_port(colon ? colon + 1 : ports, &publication->port) < 0)
        return fm_error_set(err, FM_E_INVALID,
                            "cannot publish '%s': want [HOST_PORT:]PORT[/tcp|/udp] with ports from "
                            "1 to 65535, as in 8080:80",
                            text);
    return 0;
}

char *fm_publication_format(const struct fm_publication *publication,
                            char text[FM_PUBLICATION_TEXT])
{
    snprintf(text, FM_PUBLICATION_TEXT, "%u:%u/%s", publication->host_port, publication->port,
             publication->protocol);
    return text;
}

/* ---- a list of them ---- */

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

/* ---- processes of the host ---- */

struct listener_search {
    uint16_t port;
    bool found;
};

static int match_socket(const struct nlmsghdr *nlh, void *ctx)
{
    struct listener_search *search = ctx;
    const struct inet_diag_msg *message = mnl_nlmsg_get_payload(nlh);
    if (nlh->nlmsg_len >= mnl_nlmsg_size(sizeof(*message)) && !message->id.idiag_dport &&
        ntohs(message->id.idiag_sport) == search->port)
        search->found = true;
    return 0;
}

static int search_family(struct fm_nl *nl, int family, bool udp, struct listener_search *search,
                         struct fm_error *err)
{
    char buffer[256] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(buffer);
    nlh->nlmsg_type = SOCK_DIAG_BY_FAMILY;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    struct inet_diag_req_v2 *request = mnl_nlmsg_put_extra_header(nlh, sizeof(*request));
    request->sdiag_family = (uint8_t)family;
    request->sdiag_protocol = udp ? IPPROTO_UDP : IPPROTO_TCP;
    request->idiag_states = udp ? ~0u : 1u << TCP_LISTEN; /* UDP has no listening state */
    return fm_nl_query(nl, nlh, match_socket, search, err);
}

int fm_publication_in_use(const char *protocol, uint16_t port, bool *in_use, struct fm_error *err)
{
    *in_use = false;
    struct fm_nl nl = {.lock = PTHREAD_MUTEX_INITIALIZER};
    nl.socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    if (!nl.socket)
        return fm_error_errno(err, errno, "cannot ask for listening sockets");
    struct listener_search search = {.port = port};
    bool udp = fm_streq(protocol, "udp");
    int rc = search_family(&nl, AF_INET, udp, &search, err);
    if (rc == 0)
        rc = search_family(&nl, AF_INET6, udp, &search, err);
    fm_nl_close(&nl);
    *in_use = search.found;
    return rc < 0 ? fm_error_prefix(err, "cannot ask for listening sockets") : 0;
}
