#include "network/dns_exchange.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

#define FUDGE_S 300          /* by which clocks may differ (RFC 8945, 10) */
#define HEADER_BYTES 12      /* of a message */
#define DATAGRAM_BYTES 512   /* that every server takes (RFC 1035, 4.2.1) */
#define MESSAGE_BYTES 65535u /* by TCP */

/* Fields of a TSIG record's data. */
enum { TSIG_ALGORITHM, TSIG_TIME, TSIG_FUDGE, TSIG_MAC, TSIG_ID, TSIG_ERROR, TSIG_OTHER };
/* The errors in it (RFC 8945, 3). */
enum { TSIG_BADSIG = 16, TSIG_BADKEY = 17, TSIG_BADTIME = 18 };

struct exchange {
    const struct fm_dns_server *server;
    ldns_pkt *request;
    uint8_t *wire; /* of the request */
    size_t wire_len;
    uint64_t deadline_ms;
    ldns_pkt *reply;
    bool truncated;      /* ask again by TCP */
    enum fm_code code;   /* of … */
    char complaint[256]; /* what was wrong with what came; "": nothing came */
    unsigned times;      /* that something came */
    unsigned attempts;   /* datagrams sent */
    bool nobody_listens; /* says the host */
    struct fm_error cancelled;
};

enum verdict { WRONG = 0, RIGHT = 1 }; /* negative: an error that ends the exchange */

/* ---- is it the answer? ---- */

__attribute__((format(printf, 3, 4))) static int complain(struct exchange *x, enum fm_code code,
                                                          const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(x->complaint, sizeof(x->complaint), fmt, ap);
    va_end(ap);
    x->code = code;
    return WRONG;
}

static uint64_t tsig_number(const ldns_rr *tsig, size_t field)
{
    const ldns_rdf *rdf = ldns_rr_rdf(tsig, field);
    uint64_t value = 0;
    for (size_t i = 0; rdf && i < ldns_rdf_size(rdf) && i < 8; i++)
        value = value << 8 | ldns_rdf_data(rdf)[i];
    return value;
}

static int bad_time(const ldns_rr *tsig, const struct fm_dns_server *server, struct fm_error *err)
{
    /* A length of two bytes, then the server's time in six. */
    uint64_t other = tsig_number(tsig, TSIG_OTHER);
    long long skew =
        other >> 48 == 6 ? (long long)(other & 0xffffffffffff) - (long long)time(NULL) : 0;
    if (skew == 0)
        return fm_error_set(err, FM_E_AUTH,
                            "its clock differs from this host's too much for the key '%s' "
                            "(BADTIME): set both clocks",
                            server->key_name);
    return fm_error_set(err, FM_E_AUTH,
                        "its clock is %lld s %s this host's, too much for the key '%s' "
                        "(BADTIME): set both clocks",
                        skew < 0 ? -skew : skew, skew < 0 ? "behind" : "ahead of",
                        server->key_name);
}

/* Signed with our key and algorithm, for this request, now. */
static int check_signature(struct exchange *x, ldns_pkt *reply, const uint8_t *wire, size_t len,
                           struct fm_error *err)
{
    const struct fm_dns_server *server = x->server;
    const ldns_rr *tsig = ldns_pkt_tsig(reply);
    ldns_pkt_rcode rcode = ldns_pkt_get_rcode(reply);
    if (!tsig || ldns_rr_rd_count(tsig) <= TSIG_OTHER) {
        if (rcode == LDNS_RCODE_FORMERR || rcode == LDNS_RCODE_SERVFAIL ||
            rcode == LDNS_RCODE_NOTIMPL || rcode == LDNS_RCODE_REFUSED ||
            rcode == LDNS_RCODE_NOTAUTH || rcode == LDNS_RCODE_NOTZONE)
            return fm_dns_rcode_error(server, ldns_pkt_get_opcode(x->request), rcode, err);
        return complain(x, FM_E_AUTH, "its answer is not signed with the key '%s'",
                        server->key_name);
    }
    uint64_t error = tsig_number(tsig, TSIG_ERROR);
    if (error == TSIG_BADKEY)
        return fm_error_set(err, FM_E_AUTH,
                            "it does not know the key '%s' with %.*s, or does not allow it this "
                            "(BADKEY): compare network.dns.key and .algorithm with the server's, "
                            "and grant the key queries and updates of the zone there",
                            server->key_name, (int)strlen(server->algorithm) - 1,
                            server->algorithm);
    if (error == TSIG_BADSIG)
        return fm_error_set(err, FM_E_AUTH,
                            "it has another secret for the key '%s' (BADSIG): compare "
                            "network.dns.secret with the server's",
                            server->key_name);

    fm_autofree char *algorithm = ldns_rdf2str(ldns_rr_rdf(tsig, TSIG_ALGORITHM));
    const ldns_rdf *mac = ldns_rr_rdf(ldns_pkt_tsig(x->request), TSIG_MAC);
    /* The signed time is read before: ldns forgets nothing, but says no more than yes or no. */
    int64_t age = (int64_t)time(NULL) - (int64_t)tsig_number(tsig, TSIG_TIME);
    if (!algorithm || strcasecmp(algorithm, server->algorithm) != 0 ||
        !ldns_pkt_tsig_verify(reply, wire, len, server->key_name, server->secret, mac))
        return complain(x, FM_E_AUTH, "its answer has a wrong signature for the key '%s'",
                        server->key_name);
    if (error == TSIG_BADTIME)
        return bad_time(tsig, server, err);
    if (error)
        return fm_error_set(err, FM_E_AUTH, "it turns our signature down with error %llu",
                            (unsigned long long)error);
    if (age > FUDGE_S || age < -FUDGE_S)
        return complain(x, FM_E_AUTH, "its answer was signed %lld s ago", (long long)age);
    return RIGHT;
}

/* An update's answer may leave the question out (RFC 2136, 3.8). */
static bool is_our_question(const ldns_pkt *request, const ldns_pkt *reply)
{
    if (ldns_pkt_qdcount(reply) == 0)
        return ldns_pkt_get_opcode(request) == LDNS_PACKET_UPDATE;
    return ldns_pkt_qdcount(reply) == 1 &&
           ldns_rr_compare(ldns_rr_list_rr(ldns_pkt_question(request), 0),
                           ldns_rr_list_rr(ldns_pkt_question(reply), 0)) == 0;
}

static int examine(struct exchange *x, const uint8_t *wire, size_t len, struct fm_error *err)
{
    x->times++;
    fm_autopkt ldns_pkt *reply = NULL;
    if (len < HEADER_BYTES || ldns_wire2pkt(&reply, wire, len) != LDNS_STATUS_OK)
        return complain(x, FM_E_PROTOCOL, "what it answered is no DNS message");
    if (!ldns_pkt_qr(reply) || ldns_pkt_id(reply) != ldns_pkt_id(x->request) ||
        ldns_pkt_get_opcode(reply) != ldns_pkt_get_opcode(x->request))
        return complain(x, FM_E_PROTOCOL, "what it answered belongs to another request");
    if (ldns_pkt_tc(reply)) {
        x->truncated = true;
        return RIGHT;
    }
    if (!is_our_question(x->request, reply))
        return complain(x, FM_E_PROTOCOL, "it answered another question");
    int rc = check_signature(x, reply, wire, len, err);
    if (rc == RIGHT)
        x->reply = FM_MOVE(reply);
    return rc;
}

/* ---- sockets ---- */

/* True: ready, or in an error that the next call tells. */
static bool wait_for(struct exchange *x, int fd, short events, uint64_t until_ms)
{
    const struct fm_cancel *cancel = &x->server->cancel;
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        uint64_t now = fm_now_ms();
        if (now >= until_ms)
            return false;
        int n = poll(&p, 1, (int)fm_cancel_slice(cancel, until_ms - now));
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
        if (fm_cancel_check(cancel, &x->cancelled) < 0)
            return false;
    }
}

static int open_socket(const struct fm_dns_server *server, int type, struct fm_error *err)
{
    fm_autoclose int fd = socket(server->address.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot make a socket");
    if (connect(fd, (const struct sockaddr *)&server->address, server->address_len) < 0 &&
        errno != EINPROGRESS) {
        enum fm_code code = errno == ECONNREFUSED || errno == ENETUNREACH || errno == EHOSTUNREACH
                                ? FM_E_UNREACHABLE
                                : FM_E_IO;
        return fm_error_set(err, code, "cannot be reached: %s", strerror(errno));
    }
    return FM_MOVE_FD(fd);
}

/* Takes datagrams until the right one or the time. */
static int receive(struct exchange *x, int fd, uint64_t until_ms, struct fm_error *err)
{
    uint8_t wire[4096];
    while (wait_for(x, fd, POLLIN, until_ms)) {
        ssize_t n = recv(fd, wire, sizeof(wire), 0);
        if (n < 0 && errno == ECONNREFUSED) {
            x->nobody_listens = true; /* perhaps it restarts */
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return fm_error_errno(err, errno, "cannot receive");
        int verdict = examine(x, wire, (size_t)n, err);
        if (verdict != WRONG)
            return verdict;
    }
    return WRONG;
}

/* The same datagram again and again, so that a late answer to the first one counts. */
static int ask_by_udp(struct exchange *x, struct fm_error *err)
{
    fm_autoclose int fd = open_socket(x->server, SOCK_DGRAM, err);
    if (fd < 0)
        return fd;
    uint64_t slice_ms = x->server->timeout_ms / (x->server->retries + 1);
    for (unsigned i = 0; i <= x->server->retries; i++) {
        uint64_t until_ms = fm_now_ms() + slice_ms;
        if (until_ms > x->deadline_ms || i == x->server->retries)
            until_ms = x->deadline_ms;
        if (send(fd, x->wire, x->wire_len, 0) < 0) {
            if (errno != ECONNREFUSED)
                return fm_error_errno(err, errno, "cannot send");
            x->nobody_listens = true;
        }
        x->attempts++;
        int verdict = receive(x, fd, until_ms, err);
        if (verdict != WRONG)
            return verdict;
        if (x->cancelled.code || fm_now_ms() >= x->deadline_ms)
            break;
    }
    return WRONG;
}

static int tcp_problem(struct exchange *x, const char *what, int sys_errno)
{
    return complain(x, FM_E_UNREACHABLE, "%s by TCP: %s", what, strerror(sys_errno));
}

static int transfer(struct exchange *x, int fd, uint8_t *data, size_t len, bool out)
{
    while (len) {
        if (!wait_for(x, fd, out ? POLLOUT : POLLIN, x->deadline_ms))
            return WRONG;
        ssize_t n = out ? send(fd, data, len, MSG_NOSIGNAL) : recv(fd, data, len, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return tcp_problem(x, out ? "cannot send" : "cannot receive", errno);
        if (n == 0)
            return complain(x, FM_E_CLOSED, "it closed the TCP connection without an answer");
        data += n;
        len -= (size_t)n;
    }
    return RIGHT;
}

static int ask_by_tcp(struct exchange *x, struct fm_error *err)
{
    x->truncated = false;
    fm_autoclose int fd = open_socket(x->server, SOCK_STREAM, err);
    if (fd < 0)
        return fd;
    fm_autofree uint8_t *data = fm_xmalloc(2 + MESSAGE_BYTES);
    data[0] = (uint8_t)(x->wire_len >> 8);
    data[1] = (uint8_t)x->wire_len;
    memcpy(data + 2, x->wire, x->wire_len);
    x->attempts++;
    uint8_t prefix[2];
    int verdict = transfer(x, fd, data, 2 + x->wire_len, true);
    if (verdict == RIGHT)
        verdict = transfer(x, fd, prefix, sizeof(prefix), false);
    if (verdict != RIGHT)
        return verdict;
    size_t len = (size_t)(prefix[0] << 8 | prefix[1]);
    verdict = transfer(x, fd, data, len, false);
    if (verdict != RIGHT)
        return verdict;
    verdict = examine(x, data, len, err);
    if (x->truncated)
        return complain(x, FM_E_PROTOCOL, "its answer is cut off by TCP too");
    return verdict;
}

/* ---- the exchange ---- */

static int sign(struct exchange *x, struct fm_error *err)
{
    const struct fm_dns_server *server = x->server;
    uint16_t id = 0;
    if (getrandom(&id, sizeof(id), 0) != sizeof(id))
        return fm_error_errno(err, errno, "cannot get random bytes");
    ldns_pkt_set_id(x->request, id);
    ldns_status status = ldns_pkt_tsig_sign(x->request, server->key_name, server->secret, FUDGE_S,
                                            server->algorithm, NULL);
    if (status == LDNS_STATUS_OK)
        status = ldns_pkt2wire(&x->wire, x->request, &x->wire_len);
    if (status != LDNS_STATUS_OK)
        return fm_error_set(err, FM_E_INVALID, "cannot make a signed message: %s",
                            ldns_get_errorstr_by_id(status));
    return 0;
}

static int no_answer(const struct exchange *x, uint64_t began_ms, struct fm_error *err)
{
    unsigned long long ms = fm_now_ms() - began_ms;
    if (x->cancelled.code)
        return fm_error_set(err, x->cancelled.code, "%s", x->cancelled.text);
    if (x->complaint[0])
        return fm_error_set(err, x->code, "%s (%u answers in %llu ms)", x->complaint, x->times, ms);
    if (x->nobody_listens)
        return fm_error_set(err, FM_E_UNREACHABLE,
                            "nobody listens there (%u attempts in %llu ms): start the server, or "
                            "correct network.dns.server",
                            x->attempts, ms);
    return fm_error_set(err, FM_E_TIMEOUT,
                        "no answer within %llu ms (%u attempts): see whether the server runs and "
                        "network.dns.server is its address",
                        ms, x->attempts);
}

static int ask(struct exchange *x, struct fm_error *err)
{
    x->truncated = x->wire_len > DATAGRAM_BYTES;
    if (!x->truncated) {
        int verdict = ask_by_udp(x, err);
        if (verdict != RIGHT)
            return verdict;
    }
    return x->truncated ? ask_by_tcp(x, err) : RIGHT;
}

int fm_dns_exchange(const struct fm_dns_server *server, ldns_pkt *request, uint64_t deadline_ms,
                    ldns_pkt **reply, struct fm_error *err)
{
    uint64_t began_ms = fm_now_ms();
    struct exchange x = {.server = server, .request = request, .deadline_ms = deadline_ms};
    if (x.deadline_ms > began_ms + server->timeout_ms)
        x.deadline_ms = began_ms + server->timeout_ms;
    int rc = sign(&x, err);
    if (rc < 0)
        return rc;
    int verdict = ask(&x, err);
    free(x.wire);
    if (verdict == WRONG)
        return no_answer(&x, began_ms, err);
    *reply = x.reply;
    return verdict < 0 ? verdict : 0;
}

/* Without the last dot, as people write it. */
int fm_dns_blame(const struct fm_dns_server *server, const char *zone, struct fm_error *err)
{
    return fm_error_prefix(err, "DNS server %s, zone %.*s", server->text, (int)strlen(zone) - 1,
                           zone);
}

/* Also the answer to a question about a zone that a server has not got. */
static int refused(const struct fm_dns_server *server, ldns_pkt_opcode opcode, struct fm_error *err)
{
    if (opcode == LDNS_PACKET_UPDATE)
        return fm_error_set(err, FM_E_REFUSED,
                            "it does not allow updates with the key '%s' (REFUSED): grant the key "
                            "updates of the zone on the server",
                            server->key_name);
    return fm_error_set(err, FM_E_REFUSED,
                        "it has not got this zone, or not for the key '%s' (REFUSED): correct "
                        "network.dns.zone and .reverse_zones, or grant the key queries of the zone "
                        "on the server",
                        server->key_name);
}

int fm_dns_rcode_error(const struct fm_dns_server *server, ldns_pkt_opcode opcode,
                       ldns_pkt_rcode rcode, struct fm_error *err)
{
    switch (rcode) {
    case LDNS_RCODE_REFUSED:
        return refused(server, opcode, err);
    case LDNS_RCODE_NOTAUTH:
        return fm_error_set(err, FM_E_INVALID,
                            "it is not this zone's primary server, or not for the key '%s' "
                            "(NOTAUTH): correct network.dns.zone, .reverse_zones or .server",
                            server->key_name);
    case LDNS_RCODE_NOTZONE:
        return fm_error_set(err, FM_E_INVALID,
                            "a name is not within this zone (NOTZONE): correct network.dns.zone "
                            "and .reverse_zones");
    case LDNS_RCODE_SERVFAIL:
        return fm_error_set(err, FM_E_FAILED,
                            "it failed on its side (SERVFAIL): its log tells why, often that it "
                            "cannot write its zone or journal file");
    case LDNS_RCODE_NOTIMPL:
        return fm_error_set(err, FM_E_FAILED,
                            "it knows no dynamic updates (NOTIMP): network.dns needs a server "
                            "with RFC 2136");
    case LDNS_RCODE_FORMERR:
        return fm_error_set(err, FM_E_PROTOCOL, "it does not understand our message (FORMERR)");
    default:
        return fm_error_set(err, FM_E_PROTOCOL, "it answered with the unexpected code %d",
                            (int)rcode);
    }
}
