/* Two ends of one real TLS connection over loopback, for tests of what travels on it. */
#ifndef FM_TESTS_WIRE_PAIR_H
#define FM_TESTS_WIRE_PAIR_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "wire/authority.h"
#include "wire/connection.h"

struct wire_pair {
    char dir[32]; /* certificates */
    struct fm_tls_identity *identity_a;
    struct fm_tls_identity *identity_b;
    struct fm_connection *a; /* the one that connected: the sender by convention */
    struct fm_connection *b;
};

static inline struct fm_tls_identity *wire_pair_identity(const char *dir, const char *name)
{
    const char *const addresses[] = {"127.0.0.1"};
    struct fm_certificate_request request = {.name = name,
                                             .role = FM_ROLE_NODE,
                                             .addresses = addresses,
                                             .address_count = 1,
                                             .days = 2,
                                             .out_dir = dir};
    struct fm_error err = {0};
    char ca[64];
    char cert[64];
    char key[64];

    snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
    snprintf(cert, sizeof(cert), "%s/%s.pem", dir, name);
    snprintf(key, sizeof(key), "%s/%s.key", dir, name);
    struct fm_tls_paths paths = {.ca = ca, .cert = cert, .key = key};
    struct fm_tls_identity *identity = NULL;
    if (fm_authority_issue(dir, &request, &err) == 0)
        identity = fm_tls_identity_load(&paths, &err);
    if (!identity)
        fprintf(stderr, "wire pair: %s\n", err.text);
    return identity;
}

struct wire_pair_accept {
    struct wire_pair *pair;
    int listener;
};

static inline void *wire_pair_serve(void *arg)
{
    struct wire_pair_accept *job = arg;
    struct fm_error err = {0};

    int fd = accept(job->listener, NULL, NULL);
    job->pair->b = fm_connection_accept(job->pair->identity_b, fd, 10000, &err);
    if (!job->pair->b)
        fprintf(stderr, "wire pair: %s\n", err.text);
    return NULL;
}

/* Connects once more, for tests that have spoilt their connection. */
static inline int wire_pair_connect(struct wire_pair *p)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    struct fm_error err = {0};
    pthread_t thread;

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, len) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &len) < 0)
        return -1;
    struct wire_pair_accept job = {p, listener};
    if (pthread_create(&thread, NULL, wire_pair_serve, &job) != 0)
        return -1;
    p->a = fm_connection_open(p->identity_a, "127.0.0.1", ntohs(address.sin_port), "node-b", 10000,
                              &err);
    if (!p->a) {
        fprintf(stderr, "wire pair: %s\n", err.text);
        shutdown(listener, SHUT_RDWR);
    }
    pthread_join(thread, NULL);
    close(listener);
    return p->a && p->b ? 0 : -1;
}

static inline void wire_pair_disconnect(struct wire_pair *p)
{
    fm_connection_close(p->a);
    fm_connection_close(p->b);
    p->a = p->b = NULL;
}

static inline int wire_pair_open(struct wire_pair *p)
{
    struct fm_error err = {0};

    *p = (struct wire_pair){.dir = "/tmp/fm-pair-XXXXXX"};
    if (!mkdtemp(p->dir) || fm_authority_init(p->dir, "test", 2, &err) < 0) {
        fprintf(stderr, "wire pair: %s\n", err.text);
        return -1;
    }
    p->identity_a = wire_pair_identity(p->dir, "node-a");
    p->identity_b = wire_pair_identity(p->dir, "node-b");
    return p->identity_a && p->identity_b ? wire_pair_connect(p) : -1;
}

static inline void wire_pair_close(struct wire_pair *p)
{
    wire_pair_disconnect(p);
    fm_tls_identity_free(p->identity_a);
    fm_tls_identity_free(p->identity_b);
    fm_remove_tree(p->dir, NULL);
}

#endif
