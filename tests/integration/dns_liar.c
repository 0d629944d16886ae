#include "dns_liar.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ldns/ldns.h>

#include "dns_world.h"
#include "net_lab.h"

#define MESSAGE 65536

struct message {
    uint8_t bytes[MESSAGE];
    size_t len;
};

struct liar {
    enum lie lie;
    int socket, upstream, listener;
    struct sockaddr_in client;
    struct message request, answer, first;
    unsigned requests;
};

_Noreturn static void die(const char *what)
{
    perror(what);
    _exit(1);
}

static int bound_socket(int type, uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        die("liar: bind");
    return fd;
}

static void answer(struct liar *l, const void *data, size_t len)
{
    /* A client that has gone does not matter. */
    (void)!sendto(l->socket, data, len, 0, (struct sockaddr *)&l->client, sizeof(l->client));
}

static void answer_garbage(struct liar *l)
{
    uint8_t noise[700];
    size_t len = 1 + (l->request.bytes[1] * 7u + l->requests * 13u) % (sizeof(noise) - 1);
    if (getrandom(noise, len, 0) < 0)
        die("liar: getrandom");
    answer(l, noise, len);
    /* A header that fits, and then nonsense. */
    if (len > 12) {
        memcpy(noise, l->request.bytes, 12);
        noise[2] |= 0x80;
        answer(l, noise, len);
    }
}

/* What the real server says to this request; the length is 0 when it says nothing. */
static void ask(struct liar *l)
{
    l->answer.len = 0;
    if (send(l->upstream, l->request.bytes, l->request.len, 0) < 0)
        return;
    struct pollfd p = {.fd = l->upstream, .events = POLLIN};
    while (!l->answer.len && poll(&p, 1, 2000) > 0) {
        ssize_t n = recv(l->upstream, l->answer.bytes, MESSAGE, 0);
        if (n > 2 && memcmp(l->answer.bytes, l->request.bytes, 2) == 0)
            l->answer.len = (size_t)n;
    }
}

static void answer_resigned(struct liar *l, bool sign)
{
    ldns_pkt *request = NULL, *reply = NULL;
    if (ldns_wire2pkt(&request, l->request.bytes, l->request.len) != LDNS_STATUS_OK ||
        ldns_wire2pkt(&reply, l->answer.bytes, l->answer.len) != LDNS_STATUS_OK)
        die("liar: wire2pkt");
    ldns_rdf *mac = ldns_rr_rdf(ldns_pkt_tsig(request), 3);
    ldns_rr_free(ldns_pkt_tsig(reply));
    ldns_pkt_set_tsig(reply, NULL);
    if (sign && ldns_pkt_tsig_sign(reply, WORLD_KEY ".", WORLD_GUEST_SECRET, 300, "hmac-sha256.",
                                   mac) != LDNS_STATUS_OK)
        die("liar: sign");
    uint8_t *wire = NULL;
    size_t len = 0;
    if (ldns_pkt2wire(&wire, reply, &len) != LDNS_STATUS_OK)
        die("liar: pkt2wire");
    answer(l, wire, len);
    free(wire);
    ldns_pkt_free(request);
    ldns_pkt_free(reply);
}

static void answer_forged(struct liar *l)
{
    static const uint8_t address[] = {10, 0, 0, 5};
    for (size_t i = 12; i + 4 <= l->answer.len; i++) {
        if (memcmp(l->answer.bytes + i, address, 4) == 0)
            l->answer.bytes[i + 3] = 66;
    }
    l->answer.bytes[3] ^= 0x10; /* an unused bit of the header, where there is no address */
    answer(l, l->answer.bytes, l->answer.len);
}

static void lie_by_tcp(struct liar *l)
{
    int fd = accept(l->listener, NULL, NULL);
    uint8_t data[MESSAGE];
    if (fd < 0 || recv(fd, data, sizeof(data), 0) < 0)
        die("liar: accept");
    if (l->lie == LIE_TCP_HALF) {
        memset(data, 0xff, 12);
        (void)!send(fd, data, 12, MSG_NOSIGNAL);
    } else if (l->lie == LIE_TCP_GARBAGE) {
        memset(data, 0x5a, 302);
        data[0] = 1;
        data[1] = 44;
        (void)!send(fd, data, 302, MSG_NOSIGNAL);
    }
    if (l->lie == LIE_TCP_CLOSE)
        close(fd);
    /* Else it stays open until the liar ends. */
}

static void serve_one(struct liar *l)
{
    struct message *a = &l->answer;
    l->requests++;
    if (l->lie == LIE_REQUEST_SPOILT && l->request.len > 20)
        l->request.bytes[3] ^= 0x10; /* "checking disabled": nobody minds but the signature */
    if (l->lie != LIE_SILENCE)
        ask(l);
    switch (l->lie) {
    case LIE_SILENCE:
        return;
    case LIE_LOST_ANSWER:
        if (l->requests > 1)
            answer(l, a->bytes, a->len);
        return;
    case LIE_LATE:
        lab_sleep_ms(150);
        break;
    case LIE_GARBAGE:
        answer_garbage(l);
        return;
    case LIE_FLOOD:
        for (int i = 0; i < 20000; i++)
            answer_garbage(l);
        return;
    case LIE_NOISE:
        answer_garbage(l);
        a->bytes[0] ^= 1;
        answer(l, a->bytes, a->len);
        a->bytes[0] ^= 1;
        answer_resigned(l, false);
        answer_resigned(l, true);
        break;
    case LIE_OTHER_ID:
        a->bytes[1] ^= 0x55;
        break;
    case LIE_FORGED:
        answer_forged(l);
        return;
    case LIE_UNSIGNED:
    case LIE_OTHER_KEY:
        answer_resigned(l, l->lie == LIE_OTHER_KEY);
        return;
    case LIE_REPLAY:
        if (l->requests == 1)
            l->first = *a;
        memcpy(l->first.bytes, l->request.bytes, 2);
        answer(l, l->first.bytes, l->first.len);
        return;
    case LIE_CUT_OFF:
    case LIE_TCP_SILENCE:
    case LIE_TCP_CLOSE:
    case LIE_TCP_HALF:
    case LIE_TCP_GARBAGE:
        a->bytes[2] |= 2;
        break;
    case LIE_NONE:
    case LIE_REQUEST_SPOILT:
        break;
    }
    answer(l, a->bytes, a->len);
}

_Noreturn static void serve(struct liar *l)
{
    for (;;) {
        struct pollfd p[] = {{.fd = l->socket, .events = POLLIN},
                             {.fd = l->listener, .events = POLLIN}};
        if (poll(p, 2, -1) < 0)
            die("liar: poll");
        if (p[1].revents)
            lie_by_tcp(l);
        if (!p[0].revents)
            continue;
        socklen_t client_len = sizeof(l->client);
        ssize_t n = recvfrom(l->socket, l->request.bytes, MESSAGE, 0, (struct sockaddr *)&l->client,
                             &client_len);
        if (n < 0)
            die("liar: recvfrom");
        l->request.len = (size_t)n;
        serve_one(l);
    }
}

pid_t liar_start(enum lie lie)
{
    static struct liar liar; /* too large for the stack */
    liar = (struct liar){.lie = lie, .socket = bound_socket(SOCK_DGRAM, LIAR_PORT), .listener = -1};
    liar.upstream = bound_socket(SOCK_DGRAM, 0);
    struct sockaddr_in real = {.sin_family = AF_INET, .sin_port = htons(WORLD_PORT)};
    real.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(liar.upstream, (struct sockaddr *)&real, sizeof(real)) < 0)
        die("liar: connect");
    if (lie >= LIE_TCP_SILENCE && lie <= LIE_TCP_GARBAGE) {
        liar.listener = bound_socket(SOCK_STREAM, LIAR_PORT);
        if (listen(liar.listener, 8) < 0)
            die("liar: listen");
    }
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        die("liar: fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        serve(&liar);
    }
    close(liar.socket);
    close(liar.upstream);
    if (liar.listener >= 0)
        close(liar.listener);
    return pid;
}

void liar_stop(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}
