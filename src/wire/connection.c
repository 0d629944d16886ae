#include "wire/connection.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/text.h"
#include "wire/socket.h"
#include "wire/transport.h"

/* TLS 1.3 only. AES-128-GCM first: with AES instructions it is the fastest, and pages are many. */
#define PRIORITY                                                                                   \
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:"      \
    "-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:%PROFILE_MEDIUM"
#define DEFAULT_TIMEOUT_MS 30000u
#define RECORD_SIZE 16384u
#define BURST_US 10000u

/* The server's word that it accepted the client's certificate. In TLS 1.3 the client's handshake
 * ends before the server has seen that; without it a refusal would surface somewhere later. */
static const char greeting[4] = {'F', 'M', 'O', 'K'};

struct fm_connection {
    gnutls_session_t session;
    int fd;
    struct fm_transport transport;
    pthread_mutex_t lock; /* one call into GnuTLS at a time; nobody waits while holding it */
    struct fm_tls_peer peer;
    char who[192]; /* the peer in error texts */
    atomic_bool shut;
    _Atomic uint64_t timeout_ms;
    _Atomic uint64_t rate;

    /* The sender's. */
    uint64_t send_sequence;
    uint64_t send_due_us; /* when the rate allows the next frame */
    struct fm_error send_error;
    _Atomic uint64_t sent;

    /* The receiver's. */
    uint64_t recv_sequence;
    uint8_t *payload;
    size_t payload_size;
    struct fm_error recv_error;
    _Atomic uint64_t received;
};

/* ---- TLS over a non-blocking socket ---- */

static bool is_certificate_alert(gnutls_alert_description_t alert)
{
    switch (alert) {
    case GNUTLS_A_BAD_CERTIFICATE:
    case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
    case GNUTLS_A_CERTIFICATE_REVOKED:
    case GNUTLS_A_CERTIFICATE_EXPIRED:
    case GNUTLS_A_CERTIFICATE_UNKNOWN:
    case GNUTLS_A_CERTIFICATE_REQUIRED:
    case GNUTLS_A_UNKNOWN_CA:
    case GNUTLS_A_ACCESS_DENIED:
        return true;
    default:
        return false;
    }
}

static int explain_alert(struct fm_connection *c, struct fm_error *err)
{
    gnutls_alert_description_t alert = gnutls_alert_get(c->session);
    const char *name = gnutls_alert_get_name(alert);

    if (alert == GNUTLS_A_ACCESS_DENIED)
        return fm_error_set(err, FM_E_AUTH,
                            "%s refused our certificate; it wants role %s, issue one with "
                            "`fleximigrate cert issue`",
                            c->who, FM_ROLE_NODE);
    if (is_certificate_alert(alert))
        return fm_error_set(err, FM_E_AUTH,
                            "%s refused our certificate: %s; issue a new one with `fleximigrate "
                            "cert issue`",
                            c->who, name ? name : "?");
    return fm_error_set(err, FM_E_PROTOCOL, "%s ended the connection: %s", c->who,
                        name ? name : "?");
}

/* What a GnuTLS result means once the handshake is over. */
static int explain(struct fm_connection *c, ssize_t ret, int sys_errno, struct fm_error *err)
{
    switch (ret) {
    case 0:
        return fm_error_set(err, FM_E_CLOSED, "%s closed the connection", c->who);
    case GNUTLS_E_PREMATURE_TERMINATION:
        return fm_error_set(err, FM_E_CLOSED, "%s went away without closing the connection",
                            c->who);
    case GNUTLS_E_PULL_ERROR:
    case GNUTLS_E_PUSH_ERROR:
        fm_error_errno(err, sys_errno, "lost the connection to %s", c->who);
        return fm_error_recode(err, sys_errno == ETIMEDOUT ? FM_E_TIMEOUT : FM_E_CLOSED);
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
        return explain_alert(c, err);
    default:
        return fm_error_set(err, FM_E_PROTOCOL, "TLS with %s failed: %s", c->who,
                            gnutls_strerror((int)ret));
    }
}

static bool would_block(ssize_t ret)
{
    return ret == GNUTLS_E_AGAIN || ret == GNUTLS_E_INTERRUPTED;
}

/* Waits for what the last call lacked. Its direction is read under the same lock. */
static int wait_direction(struct fm_connection *c, int direction, uint64_t deadline,
                          struct fm_error *err)
{
    int ret = fm_socket_wait(c->fd, direction ? POLLOUT : POLLIN, deadline);

    if (atomic_load(&c->shut))
        return fm_error_set(err, FM_E_CLOSED, "the connection to %s was shut down", c->who);
    if (ret == -ETIMEDOUT)
        return fm_error_set(err, FM_E_TIMEOUT, "%s did not answer in time", c->who);
    return ret < 0 ? fm_error_errno(err, -ret, "cannot wait for %s", c->who) : 0;
}

static int read_exact(struct fm_connection *c, void *buf, size_t len, uint64_t deadline,
                      size_t *done, struct fm_error *err)
{
    for (*done = 0; *done < len;) {
        ssize_t ret;
        int direction, sys_errno;

        pthread_mutex_lock(&c->lock);
        errno = 0;
        ret = gnutls_record_recv(c->session, (uint8_t *)buf + *done, len - *done);
        sys_errno = errno;
        direction = gnutls_record_get_direction(c->session);
        pthread_mutex_unlock(&c->lock);
        if (ret > 0) {
            *done += (size_t)ret;
            atomic_fetch_add_explicit(&c->received, (uint64_t)ret, memory_order_relaxed);
        } else if (would_block(ret)) {
            int waited = wait_direction(c, direction, deadline, err);

            if (waited < 0)
                return waited;
        } else if (atomic_load(&c->shut)) {
            return fm_error_set(err, FM_E_CLOSED, "the connection to %s was shut down", c->who);
        } else {
            return explain(c, ret, sys_errno, err);
        }
    }
    return 0;
}

/* The timeout is for progress: as long as the peer takes bytes, a large frame may take its time. */
static int write_all(struct fm_connection *c, const void *buf, size_t len, struct fm_error *err)
{
    uint64_t deadline = fm_deadline_after(atomic_load(&c->timeout_ms));

    for (size_t done = 0; done < len;) {
        ssize_t ret;
        int direction, sys_errno;

        pthread_mutex_lock(&c->lock);
        errno = 0;
        ret = gnutls_record_send(c->session, (const uint8_t *)buf + done, len - done);
        sys_errno = errno;
        direction = gnutls_record_get_direction(c->session);
        pthread_mutex_unlock(&c->lock);
        if (ret > 0) {
            done += (size_t)ret;
            atomic_fetch_add_explicit(&c->sent, (uint64_t)ret, memory_order_relaxed);
            deadline = fm_deadline_after(atomic_load(&c->timeout_ms));
        } else if (would_block(ret)) {
            int waited = wait_direction(c, direction, deadline, err);

            if (waited < 0)
                return waited;
        } else if (atomic_load(&c->shut)) {
            return fm_error_set(err, FM_E_CLOSED, "the connection to %s was shut down", c->who);
        } else {
            return explain(c, ret, sys_errno, err);
        }
    }
    return 0;
}

/* ---- Opening and closing ---- */

/* Takes the descriptor over. */
static struct fm_connection *new_connection(const struct fm_tls_identity *identity, int fd,
                                            unsigned int side, const char *who,
                                            struct fm_error *err)
{
    struct fm_connection *c = fm_xcalloc(1, sizeof(*c));
    int ret;

    c->fd = fd;
    pthread_mutex_init(&c->lock, NULL);
    atomic_init(&c->timeout_ms, DEFAULT_TIMEOUT_MS);
    snprintf(c->who, sizeof(c->who), "%s", who);
    fm_socket_tune(fd);
    ret = gnutls_init(&c->session, side | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS);
    if (ret == 0)
        ret = gnutls_priority_set_direct(c->session, PRIORITY, NULL);
    if (ret == 0)
        ret = gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE,
                                     fm_tls_identity_credentials(identity));
    if (ret < 0) {
        fm_error_set(err, FM_E_FAILED, "cannot set up TLS: %s", gnutls_strerror(ret));
        fm_connection_close(c);
        return NULL;
    }
    if (side == GNUTLS_SERVER) {
        gnutls_certificate_server_set_request(c->session, GNUTLS_CERT_REQUIRE);
        /* Told whom we trust, a client would keep a foreign certificate to itself, and we could
         * not say whose it is. */
        gnutls_certificate_send_x509_rdn_sequence(c->session, 1);
    }
    fm_transport_attach(&c->transport, c->session, fd);
    return c;
}

static int explain_handshake(struct fm_connection *c, int ret, int sys_errno, struct fm_error *err)
{
    switch (ret) {
    case GNUTLS_E_PULL_ERROR:
    case GNUTLS_E_PUSH_ERROR:
        fm_error_errno(err, sys_errno, "lost %s while shaking hands", c->who);
        return fm_error_recode(err, FM_E_UNREACHABLE);
    case GNUTLS_E_PREMATURE_TERMINATION:
        return fm_error_set(err, FM_E_UNREACHABLE,
                            "%s hung up while shaking hands; is it a fleximigrated?", c->who);
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
        return explain_alert(c, err);
    case GNUTLS_E_NO_CERTIFICATE_FOUND:
    case GNUTLS_E_CERTIFICATE_REQUIRED:
        return fm_error_set(err, FM_E_AUTH, "%s presented no certificate", c->who);
    default:
        return fm_error_set(err, FM_E_PROTOCOL, "%s does not speak TLS 1.3 as we do: %s", c->who,
                            gnutls_strerror(ret));
    }
}

static int shake_hands(struct fm_connection *c, uint64_t deadline, struct fm_error *err)
{
    for (;;) {
        int ret, sys_errno;

        errno = 0;
        ret = gnutls_handshake(c->session);
        sys_errno = errno;
        if (ret == 0)
            return 0;
        if (would_block(ret)) {
            ret = wait_direction(c, gnutls_record_get_direction(c->session), deadline, err);
            if (ret < 0)
                return fm_error_prefix(err, "no TLS handshake");
        } else if (gnutls_error_is_fatal(ret)) {
            gnutls_alert_send_appropriate(c->session, ret);
            return explain_handshake(c, ret, sys_errno, err);
        }
    }
}

/* Tells the peer why we will not talk to it. */
static void send_refusal(struct fm_connection *c, bool wrong_role)
{
    gnutls_alert_description_t alert = GNUTLS_A_BAD_CERTIFICATE;
    unsigned int status = 0;

    if (gnutls_certificate_verify_peers2(c->session, &status) == 0 && status) {
        if (status & GNUTLS_CERT_EXPIRED)
            alert = GNUTLS_A_CERTIFICATE_EXPIRED;
        else if (status & GNUTLS_CERT_SIGNER_NOT_FOUND)
            alert = GNUTLS_A_UNKNOWN_CA;
    } else if (wrong_role) {
        alert = GNUTLS_A_ACCESS_DENIED;
    }
    gnutls_alert_send(c->session, GNUTLS_AL_FATAL, alert);
}

static int check_peer(struct fm_connection *c, const char *expect_name, struct fm_error *err)
{
    struct fm_tls_peer *peer = &c->peer;

    if (fm_tls_verify_peer(c->session, expect_name, peer, err) < 0) {
        send_refusal(c, false);
        return -FM_E_AUTH;
    }
    if (strcmp(peer->role, FM_ROLE_NODE) != 0) {
        send_refusal(c, true);
        return fm_error_set(err, FM_E_AUTH, "certificate of '%s' has role %s, not %s", peer->name,
                            peer->role[0] ? peer->role : "(none)", FM_ROLE_NODE);
    }
    snprintf(c->who, sizeof(c->who), "%s", peer->name);
    return 0;
}

static int await_greeting(struct fm_connection *c, uint64_t deadline, struct fm_error *err)
{
    char word[sizeof(greeting)];
    size_t done;
    int ret = read_exact(c, word, sizeof(word), deadline, &done, err);

    if (ret < 0)
        return ret;
    if (memcmp(word, greeting, sizeof(greeting)) != 0)
        return fm_error_set(err, FM_E_PROTOCOL, "%s is not a fleximigrated of this version",
                            c->who);
    return 0;
}

struct fm_connection *fm_connection_open(const struct fm_tls_identity *identity, const char *host,
                                         int port, const char *expect_name, uint64_t timeout_ms,
                                         struct fm_error *err)
{
    uint64_t deadline = fm_deadline_after(timeout_ms);
    fm_autofree char *who = fm_strf("%s port %d", host, port);
    struct fm_connection *c;
    int fd = fm_socket_connect(host, port, deadline, err);

    if (fd < 0)
        return NULL;
    c = new_connection(identity, fd, GNUTLS_CLIENT, who, err);
    if (c && (shake_hands(c, deadline, err) < 0 || check_peer(c, expect_name, err) < 0 ||
              await_greeting(c, deadline, err) < 0)) {
        fm_connection_close(c);
        return NULL;
    }
    return c;
}

struct fm_connection *fm_connection_accept(const struct fm_tls_identity *identity, int fd,
                                           uint64_t timeout_ms, struct fm_error *err)
{
    uint64_t deadline = fm_deadline_after(timeout_ms);
    struct fm_connection *c = new_connection(identity, fd, GNUTLS_SERVER, "the caller", err);

    if (c && (shake_hands(c, deadline, err) < 0 || check_peer(c, NULL, err) < 0 ||
              write_all(c, greeting, sizeof(greeting), err) < 0)) {
        fm_connection_close(c);
        return NULL;
    }
    return c;
}

void fm_connection_close(struct fm_connection *c)
{
    if (!c)
        return;
    if (c->session) {
        gnutls_bye(c->session, GNUTLS_SHUT_WR);
        gnutls_deinit(c->session);
        fm_transport_clear(&c->transport);
    }
    shutdown(c->fd, SHUT_WR);
    close(c->fd);
    pthread_mutex_destroy(&c->lock);
    free(c->payload);
    free(c);
}

void fm_connection_drain(struct fm_connection *c, uint64_t timeout_ms)
{
    uint64_t deadline = fm_now_ms() + timeout_ms;
    char junk[65536];
    ssize_t n;

    do {
        if (fm_socket_wait(c->fd, POLLIN, deadline) < 0)
            return;
        n = recv(c->fd, junk, sizeof(junk), MSG_DONTWAIT);
    } while (n > 0 || (n < 0 && errno == EAGAIN));
}

void fm_connection_shutdown(struct fm_connection *c)
{
    atomic_store(&c->shut, true);
    shutdown(c->fd, SHUT_RDWR);
}

const struct fm_tls_peer *fm_connection_peer(const struct fm_connection *c)
{
    return &c->peer;
}

uint64_t fm_connection_sent(const struct fm_connection *c)
{
    return atomic_load_explicit(&c->sent, memory_order_relaxed);
}

uint64_t fm_connection_received(const struct fm_connection *c)
{
    return atomic_load_explicit(&c->received, memory_order_relaxed);
}

void fm_connection_set_timeout(struct fm_connection *c, uint64_t timeout_ms)
{
    atomic_store(&c->timeout_ms, timeout_ms);
}

void fm_connection_set_rate(struct fm_connection *c, uint64_t bytes_per_second)
{
    atomic_store(&c->rate, bytes_per_second);
}

void fm_connection_set_backlog(struct fm_connection *c, uint32_t bytes)
{
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof(bytes));
}

/* ---- Frames ---- */

/* Holds sends to the rate. A shutdown (POLLHUP) ends the wait early. */
static void pace(struct fm_connection *c, size_t bytes)
{
    uint64_t rate = atomic_load_explicit(&c->rate, memory_order_relaxed);
    uint64_t now;

    if (!rate)
        return;
    now = fm_now_us();
    if (c->send_due_us + BURST_US < now)
        c->send_due_us = now - BURST_US;
    if (c->send_due_us > now) {
        uint64_t wait_us = c->send_due_us - now;
        struct timespec wait = {.tv_sec = (time_t)(wait_us / 1000000u),
                                .tv_nsec = (long)(wait_us % 1000000u) * 1000};
        struct pollfd p = {.fd = c->fd};

        (void)ppoll(&p, 1, &wait, NULL);
    }
    c->send_due_us += (uint64_t)((unsigned __int128)bytes * 1000000u / rate);
}

static void hold_output(struct fm_connection *c)
{
    pthread_mutex_lock(&c->lock);
    c->transport.hold = true;
    pthread_mutex_unlock(&c->lock);
}

static int release_output(struct fm_connection *c, struct fm_error *err)
{
    uint64_t deadline = fm_deadline_after(atomic_load(&c->timeout_ms));

    for (;;) {
        int ret;

        pthread_mutex_lock(&c->lock);
        c->transport.hold = false;
        ret = fm_transport_flush(&c->transport);
        pthread_mutex_unlock(&c->lock);
        if (ret == 0)
            return 0;
        ret = ret == -EAGAIN ? wait_direction(c, 1, deadline, err)
                             : explain(c, GNUTLS_E_PUSH_ERROR, -ret, err);
        if (ret < 0)
            return ret;
    }
}

/* The header shares its TLS record with the begin of the payload; the rest is encrypted from where
 * the caller has it. */
static int send_frame(struct fm_connection *c, const uint8_t header[FM_FRAME_HEADER_SIZE],
                      const uint8_t *payload, size_t len, struct fm_error *err)
{
    uint8_t first[RECORD_SIZE];
    size_t head =
        len < RECORD_SIZE - FM_FRAME_HEADER_SIZE ? len : RECORD_SIZE - FM_FRAME_HEADER_SIZE;
    int ret;

    memcpy(first, header, FM_FRAME_HEADER_SIZE);
    if (head > 0)
        memcpy(first + FM_FRAME_HEADER_SIZE, payload, head);
    if (head == len)
        return write_all(c, first, FM_FRAME_HEADER_SIZE + head, err);
    hold_output(c);
    ret = write_all(c, first, FM_FRAME_HEADER_SIZE + head, err);
    if (ret == 0)
        ret = write_all(c, payload + head, len - head, err);
    return ret == 0 ? release_output(c, err) : ret;
}

static bool must_corrupt(enum fm_frame_type type)
{
    return fm_fault("wire.corrupt") || (type == FM_FRAME_DATA && fm_fault("wire.corrupt-data")) ||
           (type == FM_FRAME_PAGES && fm_fault("wire.corrupt-pages"));
}

int fm_connection_send(struct fm_connection *c, enum fm_frame_type type, const void *payload,
                       size_t len, struct fm_error *err)
{
    struct fm_frame_header header = {.type = (uint16_t)type, .length = (uint32_t)len};
    uint8_t encoded[FM_FRAME_HEADER_SIZE];

    if (c->send_error.code)
        return fm_error_set(err, c->send_error.code, "%s", c->send_error.text);
    if (len > FM_FRAME_MAX_PAYLOAD)
        return fm_error_set(err, FM_E_INVALID, "%zu bytes do not fit into one frame (%u)", len,
                            FM_FRAME_MAX_PAYLOAD);
    header.sequence = c->send_sequence++;
    fm_frame_checksum(payload, len, header.checksum);
    if (must_corrupt(type))
        header.checksum[0] ^= 0xff;
    fm_frame_header_encode(&header, encoded);
    pace(c, FM_FRAME_HEADER_SIZE + len);
    if (fm_fault("wire.send"))
        fm_error_set(&c->send_error, FM_E_CLOSED, "lost the connection to %s", c->who);
    else
        send_frame(c, encoded, payload, len, &c->send_error);
    /* Half a frame may be out: nothing can follow it. */
    if (c->send_error.code)
        return fm_error_set(err, c->send_error.code, "%s", c->send_error.text);
    return 0;
}

static int recv_header(struct fm_connection *c, struct fm_frame_header *header, bool *begun,
                       struct fm_error *err)
{
    uint8_t encoded[FM_FRAME_HEADER_SIZE];
    size_t done = 0;
    int ret = read_exact(c, encoded, sizeof(encoded),
                         fm_deadline_after(atomic_load(&c->timeout_ms)), &done, err);

    *begun = done > 0;
    if (ret == -FM_E_CLOSED && done > 0 && !atomic_load(&c->shut))
        return fm_error_set(err, FM_E_PROTOCOL, "%s ended the connection in the middle of a frame",
                            c->who);
    if (ret < 0)
        return ret;
    if (fm_frame_header_decode(encoded, header, err) < 0)
        return fm_error_prefix(err, "%s broke the protocol", c->who);
    if (header->sequence != c->recv_sequence)
        return fm_error_set(err, FM_E_PROTOCOL,
                            "%s broke the protocol: frame %" PRIu64 " where %" PRIu64
                            " was expected",
                            c->who, header->sequence, c->recv_sequence);
    c->recv_sequence++;
    return 0;
}

static int recv_payload(struct fm_connection *c, const struct fm_frame_header *header,
                        struct fm_error *err)
{
    uint8_t checksum[16];
    size_t done;
    int ret;

    if (c->payload_size < (size_t)header->length + 1) {
        c->payload_size = (size_t)header->length + 1;
        c->payload = fm_xrealloc(c->payload, c->payload_size);
    }
    ret = read_exact(c, c->payload, header->length, fm_deadline_after(atomic_load(&c->timeout_ms)),
                     &done, err);
    if (ret == -FM_E_CLOSED && !atomic_load(&c->shut))
        return fm_error_set(err, FM_E_PROTOCOL, "%s ended the connection in the middle of a frame",
                            c->who);
    if (ret < 0)
        return ret;
    c->payload[header->length] = '\0';
    fm_frame_checksum(c->payload, header->length, checksum);
    if (memcmp(checksum, header->checksum, sizeof(checksum)) != 0)
        return fm_error_set(err, FM_E_CHECKSUM,
                            "a %s frame from %s arrived damaged (checksum mismatch)",
                            fm_frame_type_name(header->type), c->who);
    return 0;
}

int fm_connection_recv(struct fm_connection *c, struct fm_frame *frame, struct fm_error *err)
{
    struct fm_frame_header header = {0};
    struct fm_error why = {0};
    bool begun = true;
    int ret;

    if (c->recv_error.code)
        return fm_error_set(err, c->recv_error.code, "%s", c->recv_error.text);
    if (fm_fault("wire.recv"))
        ret = fm_error_set(&why, FM_E_CLOSED, "lost the connection to %s", c->who);
    else
        ret = recv_header(c, &header, &begun, &why);
    if (ret == 0)
        ret = recv_payload(c, &header, &why);
    if (ret < 0) {
        /* Only a wait that saw no byte may be repeated. */
        if (begun || why.code != FM_E_TIMEOUT)
            c->recv_error = why;
        return fm_error_set(err, why.code, "%s", why.text);
    }
    *frame = (struct fm_frame){
        .type = (enum fm_frame_type)header.type,
        .length = header.length,
        .payload = c->payload,
    };
    return 0;
}
