/* How it works: the bridge's entry of the container's MAC is pointed to a TAP port whose other end
 * is a descriptor of ours, and the container's own port is blocked, so that its kernel neither
 * hears nor says anything. A thread moves the frames from the TAP to a bounded queue. On release
 * they are put into the container's veth (or the VXLAN device), past the bridge, in the order of
 * their arrival. What the container's kernel still says is judged apart (last_words.h).
 *
 * The TAP offers no offloads, so the kernel completes checksums and cuts segments before we read
 * them: every frame we hold is a plain one, valid as it stands. */
#include "network/redirector.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "network/backlog.h"
#include "network/capture.h"
#include "network/frame_queue.h"
#include "network/last_words.h"
#include "network/sock_diag.h"

#define DEFAULT_BYTES (16u << 20)
#define DEFAULT_FRAMES 16384u
#define FRAME_MAX 65600
#define SEND_BUFFER (8 << 20)

enum hold_state {
    HOLD_IDLE,    /* prepared: the TAP gets broadcasts only, which are not ours yet */
    HOLD_KNOCKS,  /* queue what begins a connection, the rest into the container's veth */
    HOLD_HOLDING, /* queue */
    HOLD_LOCAL,   /* into the container's veth */
    HOLD_FORWARD, /* into the VXLAN device */
};

struct fm_hold {
    struct fm_hold *next;
    struct fm_fabric *fabric;
    struct fm_hold_limits limits;
    struct fm_port port;
    struct fm_capture *capture; /* macvlan: instead of all down to the thread */
    int away; /* where frames for another host are sent: VXLAN device, or bridge */
    uint8_t bridge_mac[6];
    char tap_name[16];
    int tap_index;
    int tap_fd;
    int packet_fd;
    int stop_fd;
    bool has_thread;
    pthread_t thread;
    pthread_mutex_t lock; /* everything below */
    enum hold_state state;
    struct fm_last_words words;
    struct fm_frame_queue queue;
    struct fm_hold_counters counters;
    uint8_t buffer[FRAME_MAX];
};

/* ---- frames ---- */

static bool send_frame(struct fm_hold *hold, int interface, const uint8_t *frame, size_t len)
{
    struct sockaddr_ll to = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons((uint16_t)(frame[12] << 8 | frame[13])),
        .sll_ifindex = interface,
        .sll_halen = 6,
    };
    ssize_t sent;
    do
        sent = sendto(hold->packet_fd, frame, len, 0, (const struct sockaddr *)&to, sizeof(to));
    while (sent < 0 && errno == EINTR);
    return sent >= 0;
}

static bool is_overlay(const struct fm_hold *hold)
{
    return hold->port.net->spec.mode == FM_NETWORK_OVERLAY;
}

static void deliver(struct fm_hold *hold, uint8_t *frame, size_t len)
{
    bool away = hold->state == HOLD_FORWARD;
    if (away) /* also a broadcast question: to the container alone, the others have heard it */
        memcpy(frame, hold->port.mac, 6);
    if (away && !is_overlay(hold)) /* a switch would take this host for the sender's place */
        memcpy(frame + 6, hold->bridge_mac, 6);
    int interface = away ? hold->away : hold->port.index;
    uint64_t *count = away ? &hold->counters.forwarded : &hold->counters.released;
    if (send_frame(hold, interface, frame, len))
        ++*count;
    else
        hold->counters.dropped++;
}

static void enqueue(struct fm_hold *hold, const uint8_t *bytes, size_t len)
{
    if (hold->queue.frames >= hold->limits.max_frames ||
        hold->queue.bytes + len > hold->limits.max_bytes) {
        hold->counters.dropped++;
        return;
    }
    fm_frame_queue_put(&hold->queue, bytes, len);
    fm_last_words_heard(&hold->words, bytes, len);
    hold->counters.held++;
    hold->counters.held_bytes += len;
}

static void take_frame(struct fm_hold *hold, size_t len)
{
    enum fm_hold_class class = fm_hold_classify(hold->buffer, len, &hold->port);
    if (class == FM_HOLD_NOT_OURS || hold->state == HOLD_IDLE)
        return;
    if (hold->state == HOLD_HOLDING ||
        (hold->state == HOLD_KNOCKS && fm_hold_is_knock(hold->buffer, len)))
        enqueue(hold, hold->buffer, len);
    else if (class == FM_HOLD_UNICAST) /* a broadcast reaches the running container by itself */
        deliver(hold, hold->buffer, len);
}

/* Takes what the kernel has queued behind the TAP, `limit` frames at most; false when there is no
 * more. */
static bool drain_tap(struct fm_hold *hold, unsigned limit)
{
    while (limit-- > 0) {
        ssize_t got = read(hold->tap_fd, hold->buffer, sizeof(hold->buffer));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        take_frame(hold, (size_t)got);
    }
    return true;
}

static void flush_queue(struct fm_hold *hold)
{
    struct fm_frame *frame;
    while ((frame = fm_frame_queue_take(&hold->queue))) {
        deliver(hold, frame->bytes, frame->len);
        free(frame);
    }
}

static void discard_queue(struct fm_hold *hold)
{
    struct fm_frame *frame;
    while ((frame = fm_frame_queue_take(&hold->queue))) {
        hold->counters.dropped++;
        free(frame);
    }
}

static void *reader(void *arg)
{
    struct fm_hold *hold = arg;
    struct pollfd fds[] = {
        {.fd = hold->tap_fd, .events = POLLIN},
        {.fd = hold->stop_fd, .events = POLLIN},
        {.fd = hold->words.outbox, .events = POLLIN},
        {.fd = hold->words.late_fd, .events = POLLIN},
    };
    for (;;) {
        if (poll(fds, FM_COUNT(fds), -1) < 0 && errno != EINTR)
            return NULL;
        if (fds[1].revents)
            return NULL;
        if (fds[0].revents & (POLLERR | POLLHUP | POLLNVAL)) /* somebody removed the TAP */
            fds[0].fd = -1;
        pthread_mutex_lock(&hold->lock);
        if (fds[0].revents & POLLIN)
            drain_tap(hold, 64); /* not for ever: a release wants the lock too */
        if (fds[2].revents && hold->state == HOLD_HOLDING)
            fm_last_words_say(&hold->words);
        else if (fds[2].revents && hold->state != HOLD_IDLE) /* who ended the hold has emptied it */
            fds[2].fd = -1;
        if (fds[3].revents) { /* after what came before */
            fm_last_words_late(&hold->words);
            fds[3].fd = -1;
        }
        pthread_mutex_unlock(&hold->lock);
    }
}

/* ---- the TAP ---- */

static int open_tap(struct fm_hold *hold, struct fm_error *err)
{
    hold->tap_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (hold->tap_fd < 0)
        return fm_error_errno(err, errno, "cannot open /dev/net/tun (is the tun module loaded?)");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    snprintf(request.ifr_name, sizeof(request.ifr_name), FM_HOLD_PREFIX "%%d");
    if (ioctl(hold->tap_fd, TUNSETIFF, &request) < 0)
        return fm_error_errno(err, errno, "cannot make a TAP device");
    snprintf(hold->tap_name, sizeof(hold->tap_name), "%.15s", request.ifr_name);
    if (ioctl(hold->tap_fd, TUNSETOFFLOAD, 0) < 0)
        return fm_error_errno(err, errno, "cannot turn off the offloads of %s", hold->tap_name);
    if (ioctl(hold->packet_fd, SIOCGIFINDEX, &request) < 0)
        return fm_error_errno(err, errno, "cannot find %s in the fabric's namespace",
                              hold->tap_name);
    hold->tap_index = request.ifr_ifindex;
    return 0;
}

static int attach_tap(struct fm_hold *hold, struct fm_error *err)
{
    struct fm_fabric *fabric = hold->fabric;
    struct fm_nl_batch batch = {0};
    fm_link_put_quiet(&batch, hold->tap_index);
    fm_link_put_mtu(&batch, hold->tap_index, hold->port.net->mtu);
    fm_link_put_queue(&batch, hold->tap_index, hold->limits.max_frames);
    fm_link_put_up(&batch, hold->tap_index);
    int rc = fm_nl_run(&fabric->slow, &batch, err);
    if (rc == 0)
        rc = fm_link_wait_up(&fabric->slow, hold->tap_index, err);
    if (rc < 0)
        return rc;
    struct fm_port_flags flags = {.learning = false, .unicast_flood = false, .group_flood = true};
    fm_link_put_master(&batch, hold->tap_index, hold->port.net->bridge_index);
    fm_link_put_port_flags(&batch, hold->tap_index, &flags);
    return fm_nl_run(&fabric->slow, &batch, err);
}

static int open_packet_socket(struct fm_hold *hold, struct fm_error *err)
{
    hold->packet_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (hold->packet_fd < 0)
        return fm_error_errno(err, errno, "cannot open a packet socket");
    int size = SEND_BUFFER;
    setsockopt(hold->packet_fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    return 0;
}

static int start_reader(struct fm_hold *hold, struct fm_error *err)
{
    hold->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (hold->stop_fd < 0)
        return fm_error_errno(err, errno, "cannot make an event descriptor");
    int rc = pthread_create(&hold->thread, NULL, reader, hold);
    if (rc != 0)
        return fm_error_errno(err, rc, "cannot start the hold's thread");
    hold->has_thread = true;
    return 0;
}

static void stop_reader(struct fm_hold *hold)
{
    if (!hold->has_thread)
        return;
    uint64_t one = 1;
    while (write(hold->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    pthread_join(hold->thread, NULL);
    hold->has_thread = false;
}

static void hold_free(struct fm_hold *hold)
{
    stop_reader(hold);
    discard_queue(hold);
    fm_last_words_close(&hold->words);
    fm_capture_close(hold->capture, NULL);
    int fds[] = {hold->tap_fd, hold->packet_fd,
                 hold->stop_fd}; /* the TAP goes with its descriptor */
    for (size_t i = 0; i < FM_COUNT(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_mutex_destroy(&hold->lock);
    free(hold);
}

/* The bridge that the TAP joins has to be the one of the container. */
static int check_port(struct fm_hold *hold, const struct fm_endpoint *ep, struct fm_error *err)
{
    struct fm_fabric *fabric = hold->fabric;
    const struct fm_net *net = hold->port.net;
    struct fm_link link;
    int rc = fm_link_by_index(&fabric->slow, hold->port.index, &link, err);
    if (rc < 0)
        return rc;
    if (link.master != net->bridge_index)
        return fm_error_set(err, FM_E_REFUSED,
                            "interface %s of the container is not on bridge %s; attach it there "
                            "(ip link set %s master %s)",
                            ep->host_if, net->bridge, ep->host_if, net->bridge);
    hold->away = is_overlay(hold) ? net->vxlan_index : net->bridge_index;
    rc = fm_link_by_index(&fabric->slow, net->bridge_index, &link, err);
    memcpy(hold->bridge_mac, link.mac, 6);
    return rc;
}

static void list_add(struct fm_hold *hold)
{
    pthread_mutex_lock(&hold->fabric->lock);
    hold->next = hold->fabric->holds;
    hold->fabric->holds = hold;
    pthread_mutex_unlock(&hold->fabric->lock);
}

static void list_remove(struct fm_hold *hold)
{
    pthread_mutex_lock(&hold->fabric->lock);
    for (struct fm_hold **at = &hold->fabric->holds; *at; at = &(*at)->next) {
        if (*at != hold)
            continue;
        *at = hold->next;
        break;
    }
    pthread_mutex_unlock(&hold->fabric->lock);
}

static int open_words(struct fm_hold *hold, struct fm_error *err)
{
    struct fm_last_words_place place = {.port = hold->port.index,
                                        .bridge = hold->port.net->bridge_index};
    memcpy(place.mac, hold->port.mac, sizeof(place.mac));
    memcpy(place.bridge_mac, hold->bridge_mac, sizeof(place.bridge_mac));
    return fm_last_words_open(&hold->words, &place, err);
}

static int prepare_tap(struct fm_hold *hold, const struct fm_endpoint *ep, struct fm_error *err)
{
    int rc = check_port(hold, ep, err);
    if (rc == 0)
        rc = open_packet_socket(hold, err);
    if (rc == 0)
        rc = open_words(hold, err);
    if (rc == 0)
        rc = open_tap(hold, err);
    if (rc == 0)
        rc = attach_tap(hold, err);
    return rc < 0 ? rc : start_reader(hold, err);
}

const struct fm_net *fm_hold_net(const struct fm_hold *hold)
{
    return hold->port.net;
}

int fm_hold_prepare(struct fm_fabric *fabric, const struct fm_endpoint *ep,
                    const struct fm_hold_limits *limits, struct fm_hold **out, struct fm_error *err)
{
    *out = NULL;
    if (fm_fault("hold-prepare"))
        return fm_error_set(err, FM_E_FAILED, "fault injected at hold-prepare");
    struct fm_hold *hold = fm_xcalloc(1, sizeof(*hold));
    hold->fabric = fabric;
    hold->limits.max_bytes = limits && limits->max_bytes ? limits->max_bytes : DEFAULT_BYTES;
    hold->limits.max_frames = limits && limits->max_frames ? limits->max_frames : DEFAULT_FRAMES;
    hold->tap_fd = hold->packet_fd = hold->stop_fd = -1;
    hold->words = (struct fm_last_words)FM_LAST_WORDS_NONE;
    pthread_mutex_init(&hold->lock, NULL);
    int rc = fm_port_find(fabric, ep, &hold->port, err);
    if (rc == 0 && hold->port.net->spec.mode == FM_NETWORK_MACVLAN)
        rc = fm_capture_open(fabric, ep, &hold->port, &hold->limits, &hold->capture, err);
    else if (rc == 0)
        rc = prepare_tap(hold, ep, err);
    if (rc < 0) {
        hold_free(hold);
        return fm_error_prefix(err, "cannot prepare the hold of '%s'", ep->name);
    }
    list_add(hold);
    *out = hold;
    return 0;
}

/* ---- the four switches ---- */

/* The bridge's entry of the container. On the user's bridge it moves when the container is heard
 * elsewhere, as any other. */
static void point_to(struct fm_nl_batch *batch, const struct fm_hold *hold, int port)
{
    if (is_overlay(hold))
        fm_fdb_put_port(batch, hold->port.mac, port);
    else
        fm_fdb_put_learned(batch, hold->port.mac, port);
}

static int release_capture(struct fm_hold *hold, struct fm_error *err)
{
    pthread_mutex_lock(&hold->lock);
    bool held = hold->state == HOLD_HOLDING;
    hold->state = HOLD_LOCAL;
    int rc = held ? fm_capture_release(hold->capture, &hold->counters, err) : 0;
    pthread_mutex_unlock(&hold->lock);
    return rc < 0 ? fm_error_prefix(err, "cannot give the held packets back") : 0;
}

/* Frames go through the TAP from here on, and no later one overtakes those that did not. */
static int hold_knocks(struct fm_hold *hold, struct fm_error *err)
{
    struct fm_nl_batch batch = {0};
    pthread_mutex_lock(&hold->lock);
    hold->state = HOLD_KNOCKS;
    point_to(&batch, hold, hold->tap_index);
    int rc = fm_nl_run(&hold->fabric->fast, &batch, err);
    pthread_mutex_unlock(&hold->lock);
    return rc < 0 ? fm_error_prefix(err, "cannot hold the container's packets") : 0;
}

int fm_hold_settle(struct fm_hold *hold, const struct fm_endpoint *ep, uint64_t patience_ms,
                   struct fm_error *err)
{
    struct fm_backlog backlog;
    if (hold->capture) /* takes all or nothing */
        return 0;
    fm_autoclose int fd = fm_sock_diag_open(ep->netns, err);
    int rc = fd < 0 ? fd : fm_backlog_look(fd, &backlog, err);
    if (rc < 0 || !backlog.listening)
        return rc;
    rc = hold_knocks(hold, err);
    return rc < 0 ? rc : fm_backlog_await(fd, patience_ms, err);
}

static int engage(struct fm_hold *hold, struct fm_error *err)
{
    struct fm_nl_batch batch = {0};
    int rc = fm_last_words_begin(&hold->words, err);
    if (rc < 0)
        return rc;
    point_to(&batch, hold, hold->tap_index);
    fm_link_put_port_state(&batch, hold->port.index, FM_PORT_BLOCKED);
    rc = fm_nl_run(&hold->fabric->fast, &batch, err);
    return rc < 0 ? rc : fm_last_words_port_is_shut(&hold->words, err);
}

int fm_hold_engage(struct fm_hold *hold, struct fm_error *err)
{
    if (fm_fault("hold-engage"))
        return fm_error_set(err, FM_E_FAILED, "fault injected at hold-engage");
    pthread_mutex_lock(&hold->lock);
    hold->state = HOLD_HOLDING;
    int rc = hold->capture ? fm_capture_engage(hold->capture, err) : engage(hold, err);
    pthread_mutex_unlock(&hold->lock);
    return rc < 0 ? fm_error_prefix(err, "cannot hold the container's packets") : 0;
}

int fm_hold_release_local(struct fm_hold *hold, struct fm_error *err)
{
    struct fm_fabric *fabric = hold->fabric;
    struct fm_nl_batch batch = {0};
    if (hold->capture)
        return release_capture(hold, err);
    fm_last_words_stop(&hold->words);
    fm_link_put_port_state(&batch, hold->port.index, FM_PORT_OPEN); /* answers get out */
    int rc = fm_nl_run(&fabric->fast, &batch, err);

    pthread_mutex_lock(&hold->lock);
    fm_last_words_say_all(&hold->words);
    bool held = hold->state == HOLD_HOLDING || hold->state == HOLD_KNOCKS;
    if (held) {
        drain_tap(hold, hold->limits.max_frames);
        hold->state = HOLD_LOCAL;
        flush_queue(hold);
    }
    /* Only now may frames take the short way, or they would overtake those in the queue. */
    point_to(&batch, hold, hold->port.index);
    struct fm_error second = {0};
    int rc2 = fm_nl_run(&fabric->fast, &batch, rc < 0 ? &second : err);
    if (held)
        drain_tap(hold, hold->limits.max_frames);
    pthread_mutex_unlock(&hold->lock);
    rc = rc < 0 ? rc : rc2;
    return rc < 0 ? fm_error_prefix(err, "cannot give the held packets back") : 0;
}

int fm_hold_forward(struct fm_hold *hold, const struct fm_ip *host, struct fm_error *err)
{
    struct fm_fabric *fabric = hold->fabric;
    if (fm_fault("hold-forward"))
        return fm_error_set(err, FM_E_FAILED, "fault injected at hold-forward");
    struct fm_nl_batch batch = {0};
    if (is_overlay(hold))
        fm_fdb_put_remote(&batch, hold->port.mac, hold->away, host);
    else if (!hold->capture) /* else what we send would come back to us */
        fm_fdb_delete_port(&batch, hold->port.mac, hold->tap_index);
    int rc = fm_nl_run(&fabric->fast, &batch, err);
    if (rc < 0)
        return fm_error_prefix(err, "cannot send the held packets on");
    if (!hold->capture)
        fm_last_words_stop(&hold->words);

    pthread_mutex_lock(&hold->lock);
    if (hold->state == HOLD_HOLDING && hold->capture) {
        hold->state = HOLD_FORWARD;
        fm_capture_forward(hold->capture, &hold->counters);
    } else if (hold->state == HOLD_HOLDING) {
        fm_last_words_finish(&hold->words);
        drain_tap(hold, hold->limits.max_frames);
        hold->state = HOLD_FORWARD;
        flush_queue(hold);
    }
    pthread_mutex_unlock(&hold->lock);
    return 0;
}

void fm_hold_end(struct fm_hold *hold, struct fm_hold_counters *counters)
{
    struct fm_fabric *fabric = hold->fabric;
    list_remove(hold); /* set_remote may point the entry elsewhere from here on */
    pthread_mutex_lock(&hold->lock);
    bool relaying = hold->state == HOLD_FORWARD && is_overlay(hold);
    pthread_mutex_unlock(&hold->lock);
    if (relaying) {
        struct fm_nl_batch batch = {0};
        fm_fdb_put_port(&batch, hold->port.mac, hold->away);
        struct fm_error err = {0};
        if (fm_nl_run(&fabric->fast, &batch, &err) < 0)
            fm_warn(FM_NETWORK_MANAGER, "The end of a hold left no route to the new host: %s.",
                    err.text);
    }
    stop_reader(hold);
    drain_tap(hold, hold->limits.max_frames);
    discard_queue(hold);
    fm_capture_close(FM_MOVE(hold->capture), &hold->counters);
    if (counters)
        *counters = hold->counters;
    if (hold->counters.dropped)
        fm_warn(FM_NETWORK_MANAGER, "The hold dropped %llu of %llu packets.",
                (unsigned long long)hold->counters.dropped,
                (unsigned long long)(hold->counters.dropped + hold->counters.held));
    hold_free(hold);
}

static bool is_of(const struct fm_hold *hold, const struct fm_net *net, const uint8_t mac[6])
{
    return memcmp(hold->port.mac, mac, 6) == 0 &&
           fm_streq(hold->port.net->spec.name, net->spec.name);
}

void fm_hold_came_back(struct fm_fabric *fabric, const struct fm_port *port)
{
    pthread_mutex_lock(&fabric->lock);
    for (struct fm_hold *hold = fabric->holds; hold; hold = hold->next) {
        if (!is_of(hold, port->net, port->mac))
            continue;
        pthread_mutex_lock(&hold->lock);
        if (hold->state == HOLD_FORWARD) {
            hold->state = HOLD_LOCAL;
            hold->port.index = port->index;
        }
        pthread_mutex_unlock(&hold->lock);
    }
    pthread_mutex_unlock(&fabric->lock);
}

bool fm_hold_owns(struct fm_fabric *fabric, const struct fm_net *net, const uint8_t mac[6])
{
    bool owns = false;
    pthread_mutex_lock(&fabric->lock);
    for (struct fm_hold *hold = fabric->holds; hold && !owns; hold = hold->next) {
        pthread_mutex_lock(&hold->lock);
        owns = is_of(hold, net, mac) && hold->state != HOLD_IDLE && hold->state != HOLD_LOCAL;
        pthread_mutex_unlock(&hold->lock);
    }
    pthread_mutex_unlock(&fabric->lock);
    return owns;
}

struct stale {
    struct fm_fabric *fabric;
    const struct fm_net *net;
    struct fm_nl_batch batch;
};

static bool is_in_use(struct fm_fabric *fabric, int index)
{
    bool used = false;
    pthread_mutex_lock(&fabric->lock);
    for (const struct fm_hold *hold = fabric->holds; hold && !used; hold = hold->next)
        used = hold->tap_index == index || fm_capture_uses(hold->capture, index);
    pthread_mutex_unlock(&fabric->lock);
    return used;
}

static int collect_stale(const struct fm_link *link, void *ctx)
{
    struct stale *stale = ctx;
    const struct fm_net *net = stale->net;
    bool tap = fm_streq(link->kind, "tun") && link->master && link->master == net->bridge_index;
    bool helper = fm_streq(link->kind, "macvlan") && link->peer && link->peer == net->parent_index;
    if (fm_starts_with(link->name, FM_HOLD_PREFIX) && (tap || helper) &&
        !is_in_use(stale->fabric, link->index) && stale->batch.count < FM_NL_BATCH_COUNT)
        fm_link_put_delete(&stale->batch, link->index);
    return 0;
}

int fm_hold_remove_stale(struct fm_fabric *fabric, const struct fm_net *net, struct fm_error *err)
{
    for (;;) {
        struct stale stale = {.fabric = fabric, .net = net};
        int rc = fm_link_each(&fabric->slow, collect_stale, &stale, err);
        bool again = stale.batch.count == FM_NL_BATCH_COUNT;
        if (rc == 0)
            rc = fm_nl_run(&fabric->slow, &stale.batch, err);
        if (rc < 0 || !again)
            return rc;
    }
}
