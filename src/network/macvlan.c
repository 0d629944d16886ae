#include "network/macvlan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "network/announce.h"
#include "network/netns.h"
#include "network/outbox.h"

#define QUEUE_FRAMES 1000

/* ---- who is there ---- */

struct look {
    struct fm_macvlan_port port;
    bool found;
};

static int take_own(const struct fm_link *link, void *ctx)
{
    struct look *look = ctx;
    if (!fm_streq(link->kind, "macvlan") || !fm_owner_parse(link->alias, &look->port.owner))
        return 0;
    look->port.parent = link->peer;
    look->port.open = !link->deaf && (link->flags & IFF_UP);
    look->found = true;
    return 0;
}

static int look_inside(void *ctx, struct fm_error *err)
{
    struct fm_nl nl;
    int rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    rc = fm_link_each(&nl, take_own, ctx, err);
    fm_nl_close(&nl);
    return rc;
}

bool fm_macvlan_look(const struct fm_fabric *fabric, const char *container,
                     struct fm_macvlan_port *port)
{
    fm_autofree char *netns = fm_strf("%s/netns/%s", fabric->run_dir, container);
    struct look look = {0};
    struct fm_error vanished = {0};
    bool found = fm_netns_exists(netns) &&
                 fm_netns_run(netns, look_inside, &look, &vanished) == 0 && look.found;
    *port = look.port;
    return found;
}

static bool has_veth(struct fm_fabric *fabric, const char *container)
{
    char name[16];
    struct fm_link link;
    struct fm_error missing = {0};
    fm_host_if_name(container, name);
    return fm_link_by_name(&fabric->slow, name, &link, &missing) == 0;
}

int fm_macvlan_each(struct fm_fabric *fabric, fm_macvlan_each_fn each, void *ctx,
                    struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/netns", fabric->run_dir);
    fm_autoclosedir DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? 0 : fm_error_errno(err, errno, "cannot read %s", path);
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir))) {
        struct fm_macvlan_port port;
        if (entry->d_name[0] != '.' && !has_veth(fabric, entry->d_name) &&
            fm_macvlan_look(fabric, entry->d_name, &port))
            rc = each(&port, ctx);
    }
    return rc;
}

/* ---- switching ---- */

struct opening {
    const struct fm_endpoint *ep;
    struct fm_macvlan_switch *out;
};

static int open_inside(void *ctx, struct fm_error *err)
{
    struct opening *o = ctx;
    struct fm_link link;
    int rc = fm_nl_open(&o->out->nl, err);
    if (rc == 0)
        rc = fm_link_by_name(&o->out->nl, o->ep->ifname, &link, err);
    if (rc < 0)
        return rc;
    if (!fm_streq(link.kind, "macvlan"))
        return fm_error_set(err, FM_E_REFUSED, "interface %s of the container is not a macvlan",
                            o->ep->ifname);
    o->out->index = link.index;
    o->out->packet_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    return o->out->packet_fd < 0 ? fm_error_errno(err, errno, "cannot open a packet socket") : 0;
}

int fm_macvlan_switch_open(const struct fm_endpoint *ep, struct fm_macvlan_switch *out,
                           struct fm_error *err)
{
    *out = (struct fm_macvlan_switch){.packet_fd = -1};
    if (!fm_netns_exists(ep->netns) && !fm_starts_with(ep->netns, "/proc/"))
        return fm_error_set(err, FM_E_NOT_FOUND, "the container has no namespace %s on this host",
                            ep->netns);
    struct opening opening = {ep, out};
    int rc = fm_netns_run(ep->netns, open_inside, &opening, err);
    if (rc < 0)
        fm_macvlan_switch_close(out);
    return rc;
}

void fm_macvlan_switch_close(struct fm_macvlan_switch *s)
{
    fm_nl_close(&s->nl);
    if (s->packet_fd >= 0)
        fm_outbox_close_later(s->packet_fd);
    s->packet_fd = -1;
}

int fm_macvlan_switch_set(struct fm_macvlan_switch *s, bool open, struct fm_error *err)
{
    struct fm_nl_batch batch = {0};
    fm_link_put_fifo(&batch, s->index, open ? QUEUE_FRAMES : 0);
    fm_link_put_macvlan_deaf(&batch, s->index, !open);
    return fm_nl_run(&s->nl, &batch, err);
}

/* Announced from inside: the parent's other macvlans hear it as well as the wire. */
int fm_macvlan_open(const struct fm_endpoint *ep, const struct fm_port *port, struct fm_error *err)
{
    struct fm_macvlan_switch s;
    int rc = fm_macvlan_switch_open(ep, &s, err);
    if (rc < 0)
        return rc;
    rc = fm_macvlan_switch_set(&s, true, err);
    for (size_t i = 0; rc == 0 && i < FM_COUNT(port->ips); i++)
        if (port->ips[i].family)
            rc = fm_announce(s.packet_fd, s.index, &port->ips[i], port->mac, err);
    fm_macvlan_switch_close(&s);
    return rc;
}

int fm_macvlan_close(const struct fm_endpoint *ep, struct fm_error *err)
{
    struct fm_macvlan_switch s;
    int rc = fm_macvlan_switch_open(ep, &s, err);
    if (rc < 0)
        return rc;
    rc = fm_macvlan_switch_set(&s, false, err);
    fm_macvlan_switch_close(&s);
    return rc;
}

/* ---- making ---- */

struct making {
    const struct fm_endpoint *ep;
    const struct fm_port *port;
    bool active;
    bool whole; /* what is there is what we would make */
};

static int judge_inside(void *ctx, struct fm_error *err)
{
    struct making *m = ctx;
    struct fm_nl nl;
    struct fm_link link;
    struct fm_error missing = {0};
    int rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    if (fm_link_by_name(&nl, m->ep->ifname, &link, &missing) == 0) {
        m->whole = fm_streq(link.kind, "macvlan") && link.peer == m->port->net->parent_index &&
                   memcmp(link.mac, m->port->mac, 6) == 0;
        struct fm_nl_batch batch = {0};
        if (!m->whole) {
            fm_link_put_delete(&batch, link.index);
            rc = fm_nl_run(&nl, &batch, err);
        }
    }
    fm_nl_close(&nl);
    return rc;
}

static int set_up_inside(void *ctx, struct fm_error *err)
{
    struct making *m = ctx;
    struct fm_macvlan_switch s = {.packet_fd = -1};
    struct opening opening = {m->ep, &s};
    int rc = open_inside(&opening, err);
    if (rc == 0 && !(m->whole && m->active)) /* one that runs is not interrupted */
        rc = fm_macvlan_switch_set(&s, false, err);
    struct fm_nl_batch batch = {0};
    char alias[256];
    fm_owner_format(m->ep, alias);
    if (rc == 0) {
        fm_link_put_alias(&batch, s.index, alias);
        fm_link_put_quiet(&batch, s.index);
        fm_link_put_up(&batch, s.index);
        rc = fm_endpoint_put_addresses(&batch, s.index, m->ep, m->port, err);
    }
    if (rc == 0)
        rc = fm_nl_run(&s.nl, &batch, err);
    if (rc == 0)
        rc = fm_endpoint_wait_heard(&s.nl, s.index, m->port, err);
    fm_macvlan_switch_close(&s);
    return rc;
}

int fm_macvlan_stage(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                     const struct fm_port *port, bool active, struct fm_error *err)
{
    bool old = fm_netns_exists(ep->netns);
    int rc = fm_netns_create(ep->netns, err);
    struct making making = {.ep = ep, .port = port, .active = active};
    if (rc == 0 && old)
        rc = fm_netns_run(ep->netns, judge_inside, &making, err);
    if (rc < 0)
        return rc;
    if (!making.whole) {
        fm_autoclose int netns = open(ep->netns, O_RDONLY | O_CLOEXEC);
        if (netns < 0)
            return fm_error_errno(err, errno, "cannot open %s", ep->netns);
        struct fm_macvlan macvlan = {.name = ep->ifname,
                                     .parent = port->net->parent_index,
                                     .netns = netns,
                                     .mac = port->mac,
                                     .mtu = port->net->mtu,
                                     .deaf = true};
        struct fm_nl_batch batch = {0};
        fm_link_put_macvlan(&batch, &macvlan);
        rc = fm_nl_run(&fabric->slow, &batch, err);
    }
    if (rc < 0)
        return rc;
    fm_residents_put(fabric, ep, port);
    return fm_netns_run(ep->netns, set_up_inside, &making, err);
}

static int delete_inside(void *ctx, struct fm_error *err)
{
    const struct fm_endpoint *ep = ctx;
    struct fm_nl nl;
    struct fm_link link;
    struct fm_owner owner;
    struct fm_error missing = {0};
    int rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    if (fm_link_by_name(&nl, ep->ifname, &link, &missing) == 0 && fm_streq(link.kind, "macvlan") &&
        (!link.alias[0] ||
         (fm_owner_parse(link.alias, &owner) && fm_streq(owner.name, ep->name)))) {
        struct fm_nl_batch batch = {0};
        fm_link_put_delete(&batch, link.index);
        rc = fm_nl_run(&nl, &batch, err);
    }
    fm_nl_close(&nl);
    return rc;
}

int fm_macvlan_unstage(const struct fm_endpoint *ep, struct fm_error *err)
{
    struct fm_endpoint copy = *ep;
    return fm_netns_exists(ep->netns) ? fm_netns_run(ep->netns, delete_inside, &copy, err) : 0;
}
