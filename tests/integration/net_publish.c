#include "net_publish.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "container/container.h"
#include "network/host_port.h"

#define CLIENT_NUMBER 4
#define MTU 1450
#define SAVE_MS 5 /* after the freeze a checkpoint gets to the sockets; it goes on writing */

const struct publish_family publish_ipv4 = {
    .name = "IPv4",
    .subnet = "10.88.0.0/16",
    .gateway = "10.88.0.1",
    .server = "10.88.0.5",
    .neighbour = "10.88.0.9",
    .own = "10.88.255.",
    .outside = "192.0.2.",
};
const struct publish_family publish_ipv6 = {
    .name = "IPv6",
    .subnet = "fd00:88::/64",
    .gateway = "fd00:88::1",
    .server = "fd00:88::5",
    .neighbour = "fd00:88::9",
    .own = "fd00:88::ff:",
    .outside = "2001:db8::",
};

static struct lab_host *const hosts[] = {&host_a, &host_b, &host_c};

void publish_run(const struct lab_host *host, fm_netns_fn run, void *ctx)
{
    struct fm_error err = {0};
    if (fm_netns_run(host->netns, run, ctx, &err) == 0)
        return;
    fprintf(stderr, "net_publish: host %d: %s\n", host->number, err.text);
    exit(1);
}

void publish_bridge_netfilter(bool on)
{
    for (size_t i = 0; i < FM_COUNT(hosts); i++)
        free(lab_sh(hosts[i]->netns,
                    "cd /proc/sys/net/bridge 2>/dev/null || exit 0; "
                    "echo %d >bridge-nf-call-iptables; echo %d >bridge-nf-call-ip6tables",
                    on, on));
}

/* ---- what is done on a host ---- */

struct on_host {
    const struct publish_scene *s;
    int number;
    const struct fm_publication *list;
    size_t count;
};

static struct fm_ip parse(const char *text)
{
    struct fm_ip ip;
    struct fm_error err = {0};
    if (fm_ip_parse("address", text, &ip, &err) < 0) {
        fprintf(stderr, "net_publish: %s\n", err.text);
        exit(1);
    }
    return ip;
}

static struct fm_ip own_address(const struct on_host *h)
{
    fm_autofree char *text = fm_strf("%s%d", h->s->family->own, h->number);
    return parse(text);
}

static int make_host_port(void *ctx, struct fm_error *err)
{
    const struct on_host *h = ctx;
    struct fm_host_port port = {
        .network = "default",
        .bridge = "fmbr0",
        .mtu = MTU,
        .subnet = parse(h->s->family->subnet),
        .address = own_address(h),
    };
    struct fm_nl nl;
    uint8_t mac[6];
    int rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    rc = fm_host_port_make(&nl, &port, mac, err);
    fm_nl_close(&nl);
    return rc;
}

static int apply(void *ctx, struct fm_error *err)
{
    const struct on_host *h = ctx;
    struct fm_firewall_network network = {
        .name = "default", .bridge = "fmbr0", .address = own_address(h)};
    struct fm_firewall firewall = {.networks = &network,
                                   .network_count = 1,
                                   .publications = h->list,
                                   .publication_count = h->count};
    return fm_firewall_apply(&firewall, err);
}

void publish_on(const struct publish_scene *s, const struct lab_host *host,
                const struct fm_publication *list, size_t count)
{
    struct on_host h = {.s = s, .number = host->number, .list = list, .count = count};
    publish_run(host, apply, &h);
}

void publish_everywhere(const struct publish_scene *s, const struct fm_publication *list,
                        size_t count)
{
    for (size_t i = 0; i < FM_COUNT(hosts); i++)
        publish_on(s, hosts[i], list, count);
}

struct fm_publication publish_server(const struct publish_scene *s, const char *text)
{
    struct fm_publish ports;
    struct fm_error err = {0};
    if (fm_publish_parse(text, &ports, &err) < 0) {
        fprintf(stderr, "net_publish: %s\n", err.text);
        exit(1);
    }
    struct fm_publication p = {.host_port = ports.host_port, .port = ports.port};
    snprintf(p.protocol, sizeof(p.protocol), "%s", ports.protocol);
    snprintf(p.container, sizeof(p.container), "server");
    snprintf(p.network, sizeof(p.network), "default");
    snprintf(p.ip, sizeof(p.ip), "%s", s->family->server);
    return p;
}

/* ---- the scene ---- */

static void give_outside_address(struct publish_scene *s, const struct lab_host *host)
{
    snprintf(s->outside[host->number], sizeof(s->outside[0]), "%s%d", s->family->outside,
             host->number);
    if (strchr(s->outside[host->number], ':'))
        free(lab_sh(host->netns, "ip addr add %s/64 dev u nodad", s->outside[host->number]));
}

static struct lab_request about_server(const struct publish_scene *s, enum lab_op op)
{
    struct lab_request q = {.op = op, .name = "server"};
    snprintf(q.ip, sizeof(q.ip), "%s", s->family->server);
    return q;
}

static void start_host(struct publish_scene *s, struct lab_host *host)
{
    struct lab_request q = {.op = LAB_OPEN, .name = "0", .number = 42};
    snprintf(q.ip, sizeof(q.ip), "%s", s->family->subnet);
    snprintf(q.host, sizeof(q.host), "%s", s->family->gateway);
    lab_call(host, q);
    for (size_t i = 0; i < FM_COUNT(hosts); i++)
        if (hosts[i] != host)
            join_peers(host, (const struct lab_host *const[]){hosts[i]}, 1);
    give_outside_address(s, host);
    /* Such machines are. */
    free(lab_sh(host->netns, "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter"));
    struct on_host h = {.s = s, .number = host->number};
    publish_run(host, make_host_port, &h);
    for (size_t i = 0; i < FM_COUNT(hosts); i++) {
        fm_autofree char *own = fm_strf("%s%d", s->family->own, hosts[i]->number);
        if (hosts[i] != host)
            set_remote(host, own, hosts[i]->address);
    }
}

void publish_scene_start(struct publish_scene *s, const struct publish_family *family)
{
    *s = (struct publish_scene){.family = family};
    for (size_t i = 0; i < FM_COUNT(hosts); i++)
        lab_host_start(hosts[i], (int)i + 1);
    for (size_t i = 0; i < FM_COUNT(hosts); i++)
        start_host(s, hosts[i]);
    lab_host_start(&s->client, CLIENT_NUMBER);
    give_outside_address(s, &s->client);

    struct lab_request stage = about_server(s, LAB_STAGE);
    stage.flag = true;
    snprintf(s->a, sizeof(s->a), "%.120s", lab_call(&host_a, stage).ep.netns);
    set_remote(&host_b, family->server, host_a.address);
    set_remote(&host_c, family->server, host_a.address);
}

void publish_scene_stop(struct publish_scene *s)
{
    lab_host_stop(&s->client);
    stop_hosts();
}

/* As a migration does: else the first packet on the new host waits for an answer to ARP. */
static void take_neighbours(const struct lab_host *from, const char *place)
{
    fm_autofree char *netns = fm_strf("%s/netns/server", lab_run_dir(from));
    fm_autofree char *commands =
        lab_sh(netns, "ip neigh show dev eth0 | awk '/lladdr/ { print \"ip neigh replace\", $1, "
                      "\"lladdr\", $3, \"dev eth0 nud stale\" }'");
    free(lab_sh(place, "%s", commands));
}

uint64_t publish_move(const struct publish_scene *s, struct lab_host *from, struct lab_host *to,
                      const struct publish_actor *actor, unsigned stand_ms)
{
    struct lab_reply place = lab_call(to, about_server(s, LAB_STAGE));
    set_remote(to, s->family->server, from->address);
    lab_call(from, about_server(s, LAB_HOLD_PREPARE));
    take_neighbours(from, place.ep.netns);

    actor->freeze(actor->ctx);
    uint64_t frozen = fm_now_us();
    lab_call(from, about_server(s, LAB_HOLD_ENGAGE));
    if (actor->save && stand_ms > SAVE_MS) {
        lab_sleep_ms(SAVE_MS);
        actor->save(actor->ctx);
        stand_ms -= SAVE_MS;
    }
    lab_sleep_ms(stand_ms);
    actor->take_along(actor->ctx, place.ep.netns);
    lab_call(to, about_server(s, LAB_ACTIVATE));
    actor->thaw(actor->ctx);
    uint64_t stood = fm_now_us() - frozen;
    struct lab_request forward = about_server(s, LAB_HOLD_FORWARD);
    snprintf(forward.host, sizeof(forward.host), "%s", to->address);
    lab_call(from, forward);

    for (size_t i = 0; i < FM_COUNT(hosts); i++)
        set_remote(hosts[i], s->family->server, to->address);
    lab_sleep_ms(100); /* the old host relays what is still under way */
    lab_call(from, about_server(s, LAB_HOLD_END));
    lab_call(from, about_server(s, LAB_UNSTAGE));
    return stood;
}
