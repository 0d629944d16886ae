#include "network/fdb.h"

#include <errno.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

/* ---- requests ---- */

struct neighbour {
    const char *what;
    uint16_t type, flags;
    uint8_t owner; /* NTF_MASTER: the bridge's table; NTF_SELF: the VXLAN device's */
    uint16_t state;
    int index;
    const uint8_t *mac;
    const struct fm_ip *host;
};

static void add_neighbour(struct fm_nl_batch *batch, const struct neighbour *n)
{
    struct nlmsghdr *nlh = fm_nl_add(batch, n->what, n->type, n->flags);
    struct ndmsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->ndm_family = AF_BRIDGE;
    info->ndm_ifindex = n->index;
    info->ndm_state = n->state;
    info->ndm_flags = n->owner;
    mnl_attr_put(nlh, NDA_LLADDR, 6, n->mac);
    if (n->host)
        mnl_attr_put(nlh, NDA_DST, fm_ip_size(n->host), n->host->bytes);
    if (n->type == RTM_DELNEIGH) {
        fm_nl_ignore(batch, ENOENT);
        fm_nl_ignore(batch, ENODEV);
        fm_nl_ignore(batch, EINVAL); /* the port has left the bridge */
    }
}

void fm_fdb_put_port(struct fm_nl_batch *batch, const uint8_t mac[6], int port)
{
    add_neighbour(batch, &(struct neighbour){
                             .what = "cannot set a forwarding entry of the bridge",
                             .type = RTM_NEWNEIGH,
                             .flags = NLM_F_CREATE | NLM_F_REPLACE,
                             .owner = NTF_MASTER,
                             .state = NUD_NOARP, /* static: no ageing */
                             .index = port,
                             .mac = mac,
                         });
}

void fm_fdb_put_learned(struct fm_nl_batch *batch, const uint8_t mac[6], int port)
{
    add_neighbour(batch, &(struct neighbour){
                             .what = "cannot set a forwarding entry of the bridge",
                             .type = RTM_NEWNEIGH,
                             .flags = NLM_F_CREATE | NLM_F_REPLACE,
                             .owner = NTF_MASTER,
                             .state = NUD_REACHABLE,
                             .index = port,
                             .mac = mac,
                         });
}

void fm_fdb_delete_port(struct fm_nl_batch *batch, const uint8_t mac[6], int port)
{
    add_neighbour(batch, &(struct neighbour){
                             .what = "cannot remove a forwarding entry of the bridge",
                             .type = RTM_DELNEIGH,
                             .owner = NTF_MASTER,
                             .index = port,
                             .mac = mac,
                         });
}

void fm_fdb_put_remote(struct fm_nl_batch *batch, const uint8_t mac[6], int vxlan,
                       const struct fm_ip *host)
{
    add_neighbour(batch, &(struct neighbour){
                             .what = "cannot set a forwarding entry of the VXLAN device",
                             .type = RTM_NEWNEIGH,
                             .flags = NLM_F_CREATE | NLM_F_REPLACE,
                             .owner = NTF_SELF,
                             .state = NUD_PERMANENT,
                             .index = vxlan,
                             .mac = mac,
                             .host = host,
                         });
}

void fm_fdb_delete_remote(struct fm_nl_batch *batch, const uint8_t mac[6], int vxlan)
{
    add_neighbour(batch, &(struct neighbour){
                             .what = "cannot remove a forwarding entry of the VXLAN device",
                             .type = RTM_DELNEIGH,
                             .owner = NTF_SELF,
                             .index = vxlan,
                             .mac = mac,
                         });
}

static const uint8_t all_zero[6];

void fm_fdb_put_flood(struct fm_nl_batch *batch, int vxlan, const struct fm_ip *host)
{
    add_neighbour(batch, &(struct neighbour){
                             .what = "cannot add a peer to the VXLAN device",
                             .type = RTM_NEWNEIGH,
                             .flags = NLM_F_CREATE | NLM_F_APPEND,
                             .owner = NTF_SELF,
                             .state = NUD_PERMANENT,
                             .index = vxlan,
                             .mac = all_zero,
                             .host = host,
                         });
    fm_nl_ignore(batch, EEXIST);
}

void fm_fdb_delete_flood(struct fm_nl_batch *batch, int vxlan, const struct fm_ip *host)
{
    add_neighbour(batch, &(struct neighbour){
                             .what = "cannot remove a peer from the VXLAN device",
                             .type = RTM_DELNEIGH,
                             .owner = NTF_SELF,
                             .index = vxlan,
                             .mac = all_zero,
                             .host = host,
                         });
}

/* ---- read back ---- */

struct walk {
    fm_fdb_each_fn each;
    void *ctx;
};

static int step_entry(const struct nlmsghdr *nlh, void *ctx)
{
    const struct walk *walk = ctx;
    const struct ndmsg *info = mnl_nlmsg_get_payload(nlh);
    if (nlh->nlmsg_type != RTM_NEWNEIGH || info->ndm_family != AF_BRIDGE)
        return 0;
    struct fm_fdb_entry entry = {.index = info->ndm_ifindex};
    entry.learned = !(info->ndm_state & (NUD_PERMANENT | NUD_NOARP));
    bool has_mac = false;
    const struct nlattr *attr;
    mnl_attr_for_each(attr, nlh, sizeof(*info))
    {
        size_t len = mnl_attr_get_payload_len(attr);
        switch (mnl_attr_get_type(attr)) {
        case NDA_LLADDR:
            has_mac = len == 6;
            if (has_mac)
                memcpy(entry.mac, mnl_attr_get_payload(attr), 6);
            break;
        case NDA_MASTER:
            entry.bridge = (int)mnl_attr_get_u32(attr);
            break;
        case NDA_DST:
            if (len == 4 || len == 16) {
                entry.host.family = len == 4 ? AF_INET : AF_INET6;
                entry.host.prefix = (uint8_t)(len * 8);
                memcpy(entry.host.bytes, mnl_attr_get_payload(attr), len);
            }
            break;
        default:
            break;
        }
    }
    return has_mac ? walk->each(&entry, walk->ctx) : 0;
}

int fm_fdb_each(struct fm_nl *nl, fm_fdb_each_fn each, void *ctx, struct fm_error *err)
{
    char request[64] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(request);
    nlh->nlmsg_type = RTM_GETNEIGH;
    nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    struct ndmsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));
    info->ndm_family = AF_BRIDGE;
    struct walk walk = {each, ctx};
    return fm_nl_query(nl, nlh, step_entry, &walk, err);
}
