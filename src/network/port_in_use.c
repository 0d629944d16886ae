#include "network/port_in_use.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "network/sock_diag.h"

#define BY_CHANCE "/proc/sys/net/ipv4/ip_local_port_range"

struct search {
    uint16_t port; /* in network order */
    bool found;
};

static bool is_loopback(const struct inet_diag_msg *m)
{
    const uint8_t *ip = (const uint8_t *)m->id.idiag_src;
    return m->idiag_family == AF_INET
               ? ip[0] == 127
               : IN6_IS_ADDR_LOOPBACK((const struct in6_addr *)m->id.idiag_src);
}

static void look_at(const struct inet_diag_msg *m, void *ctx)
{
    struct search *s = ctx;
    if (m->id.idiag_sport == s->port && !is_loopback(m))
        s->found = true;
}

static bool is_by_chance(uint16_t port)
{
    fm_autofree char *range = NULL;
    unsigned first, last;
    return fm_file_read(BY_CHANCE, 64, &range, NULL, NULL) == 0 &&
           sscanf(range, "%u %u", &first, &last) == 2 && port >= first && port <= last;
}

bool fm_port_in_use(const char *protocol, uint16_t port)
{
    struct search s = {.port = htons(port)};
    bool udp = fm_streq(protocol, "udp");
    if (udp && is_by_chance(port))
        return false;
    fm_autoclose int fd = fm_sock_diag_open(NULL, NULL);
    if (fd >= 0)
        fm_sock_diag_each(fd, udp ? IPPROTO_UDP : IPPROTO_TCP,
                          FM_SOCK_STATE(udp ? TCP_CLOSE : TCP_LISTEN), look_at, &s, NULL);
    return s.found;
}
