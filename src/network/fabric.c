/* Opening and closing the fabric of this host. */
#include "network/fabric.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "network/netns.h"
#include "network/networks.h"
#include "network/outbox.h"
#include "network/redirector.h"
#include "network/relay.h"

/* ---- outboxes ---- */

struct fm_staged {
    struct fm_staged *next;
    int port;
    int outbox;
};

int fm_outbox_take(struct fm_fabric *fabric, int port)
{
    int outbox = -1;
    pthread_mutex_lock(&fabric->lock);
    for (struct fm_staged **at = &fabric->staged; *at; at = &(*at)->next) {
        struct fm_staged *staged = *at;
        if (staged->port != port)
            continue;
        outbox = staged->outbox;
        *at = staged->next;
        free(staged);
        break;
    }
    pthread_mutex_unlock(&fabric->lock);
    return outbox;
}

void fm_outbox_drop(struct fm_fabric *fabric, int port)
{
    int outbox = fm_outbox_take(fabric, port);
    if (outbox >= 0)
        close(outbox);
}

int fm_outbox_start(struct fm_fabric *fabric, int port, struct fm_error *err)
{
    fm_outbox_drop(fabric, port);
    fm_autoclose int outbox = fm_outbox_open(err);
    if (outbox < 0)
        return outbox;
    int rc = fm_outbox_collect(outbox, port, err);
    if (rc < 0)
        return rc;
    struct fm_staged *staged = fm_xcalloc(1, sizeof(*staged));
    *staged = (struct fm_staged){.port = port, .outbox = FM_MOVE_FD(outbox)};
    pthread_mutex_lock(&fabric->lock);
    staged->next = fabric->staged;
    fabric->staged = staged;
    pthread_mutex_unlock(&fabric->lock);
    return 0;
}

/* ---- opening ---- */

static int take_config(struct fm_fabric *fabric, const struct fm_fabric_config *config,
                       struct fm_error *err)
{
    fabric->run_dir = fm_xstrdup(config->run_dir);
    fabric->port = config->port ? config->port : 4789;
    fabric->has_underlay = config->underlay != NULL;
    return fabric->has_underlay
               ? fm_ip_parse("underlay address", config->underlay, &fabric->underlay, err)
               : 0;
}

static int open_sockets(struct fm_fabric *fabric, struct fm_error *err)
{
    int rc = fm_nl_open(&fabric->fast, err);
    if (rc == 0)
        rc = fm_nl_open(&fabric->slow, err);
    if (rc == 0)
        rc = fm_netns_identity("/proc/thread-self/ns/net", &fabric->netns, err);
    if (rc < 0)
        return rc;
    fabric->packet_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fabric->packet_fd < 0)
        return fm_error_errno(err, errno, "cannot open a packet socket");
    return 0;
}

static void warn_about_bridge_netfilter(void)
{
    fm_autofree char *on = fm_file_line("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if (fm_streq(on, "1"))
        fm_warn(FM_NETWORK_MANAGER,
                "The host's iptables rules apply to bridged packets and may drop containers' "
                "traffic (sysctl net.bridge.bridge-nf-call-iptables=0 turns that off).");
}

static int open_fabric(struct fm_fabric *fabric, const struct fm_fabric_config *config,
                       struct fm_error *err)
{
    int rc = take_config(fabric, config, err);
    if (rc == 0)
        rc = open_sockets(fabric, err);
    if (rc == 0)
        rc = fm_residents_read(fabric, err);
    if (rc == 0)
        rc = fm_net_define_configured(fabric, config, err);
    return rc;
}

static void fabric_free(struct fm_fabric *fabric)
{
    while (fabric->holds)
        fm_hold_end(fabric->holds, NULL);
    while (fabric->staged)
        fm_outbox_drop(fabric, fabric->staged->port);
    fm_nl_close(&fabric->fast);
    fm_nl_close(&fabric->slow);
    if (fabric->packet_fd >= 0)
        close(fabric->packet_fd);
    fm_net_free_all(fabric);
    fm_residents_free(fabric);
    free(fabric->relays);
    free(fabric->peers);
    free(fabric->run_dir);
    free(fabric);
}

int fm_fabric_open(const struct fm_fabric_config *config, struct fm_network *network,
                   struct fm_error *err)
{
    *network = (struct fm_network){0};
    struct fm_fabric *fabric = fm_xcalloc(1, sizeof(*fabric));
    fabric->packet_fd = -1;
    pthread_mutex_init(&fabric->make, NULL);
    pthread_mutex_init(&fabric->lock, NULL);
    pthread_mutex_init(&fabric->net_lock, NULL);
    pthread_mutex_init(&fabric->relay_lock, NULL);
    int rc = open_fabric(fabric, config, err);
    if (rc < 0) {
        fabric_free(fabric);
        return fm_error_prefix(err, "cannot open the network");
    }
    warn_about_bridge_netfilter();
    fm_relay_remove_stale();
    *network = (struct fm_network){.ops = &fm_fabric_ops, .ctx = fabric};
    return 0;
}

void fm_fabric_close(struct fm_network *network, bool teardown)
{
    struct fm_fabric *fabric = network->ctx;
    *network = (struct fm_network){0};
    if (!fabric)
        return;
    while (fabric->holds) /* their ports would count as containers */
        fm_hold_end(fabric->holds, NULL);
    if (teardown)
        fm_net_teardown(fabric);
    fabric_free(fabric);
}
