/* Hosts a and b with real certificates, b listening; for tests of one connection at a time. */
#ifndef FM_TESTS_WIRE_HOSTS_H
#define FM_TESTS_WIRE_HOSTS_H

#include <pthread.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "scratch.h"
#include "wire/authority.h"
#include "wire/connection.h"

#define WAIT_MS 10000u

/* Who is there: a and b are good nodes, s is of another authority, u is an operator. */
static struct fm_tls_identity *a, *b, *s, *u;
static struct fm_listener *listener;

/* What the serving side has got; one connection at a time. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    struct fm_connection *connection;
    struct fm_error err;
} served = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* The server is b. */
static inline void serve(int fd, void *ctx)
{
    struct fm_error err = {0};
    struct fm_connection *c = fm_connection_accept(b, fd, WAIT_MS, &err);

    (void)ctx;
    pthread_mutex_lock(&served.lock);
    served.connection = c;
    served.err = err;
    served.done = true;
    pthread_cond_signal(&served.changed);
    pthread_mutex_unlock(&served.lock);
}

static inline struct fm_connection *take_served(struct fm_error *err)
{
    struct fm_connection *c;

    pthread_mutex_lock(&served.lock);
    while (!served.done)
        pthread_cond_wait(&served.changed, &served.lock);
    served.done = false;
    c = FM_MOVE(served.connection);
    if (err)
        *err = served.err;
    pthread_mutex_unlock(&served.lock);
    return c;
}

static inline int issue(const char *ca, const char *name, const char *role, int days)
{
    struct fm_error err = {0};
    const struct fm_certificate_request request = {
        .name = name,
        .role = role,
        .days = days,
        .out_dir = at(ca),
    };

    if (fm_authority_issue(at(ca), &request, &err) == 0)
        return 0;
    print_error("%s\n", err.text);
    return -1;
}

static inline struct fm_tls_identity *load(const char *dir, const char *name)
{
    fm_autofree char *ca = fm_strf("%s/%s/ca.pem", scratch, dir);
    fm_autofree char *cert = fm_strf("%s/%s/%s.pem", scratch, dir, name);
    fm_autofree char *key = fm_strf("%s/%s/%s.key", scratch, dir, name);
    const struct fm_tls_paths paths = {.ca = ca, .cert = cert, .key = key};
    struct fm_error err = {0};
    struct fm_tls_identity *identity = fm_tls_identity_load(&paths, &err);

    if (!identity)
        print_error("%s\n", err.text);
    return identity;
}

static inline int set_up(void **state)
{
    struct fm_error err = {0};

    if (make_scratch(state) < 0 || fm_authority_init(at("ours"), "Ours", 30, &err) < 0 ||
        fm_authority_init(at("theirs"), "Theirs", 30, &err) < 0 ||
        issue("ours", "a", FM_ROLE_NODE, 30) < 0 || issue("ours", "b", FM_ROLE_NODE, 30) < 0 ||
        issue("ours", "u", FM_ROLE_OPERATOR, 30) < 0 ||
        issue("ours", "late", FM_ROLE_NODE, -2) < 0 || issue("theirs", "s", FM_ROLE_NODE, 30) < 0)
        return -1;
    a = load("ours", "a");
    b = load("ours", "b");
    u = load("ours", "u");
    s = load("theirs", "s");
    listener = fm_listener_start("127.0.0.1", 0, serve, NULL, &err);
    return a && b && u && s && listener ? 0 : -1;
}

static inline int tear_down(void **state)
{
    fm_listener_stop(listener);
    fm_tls_identity_free(a);
    fm_tls_identity_free(b);
    fm_tls_identity_free(u);
    fm_tls_identity_free(s);
    return remove_scratch(state);
}

/* Both ends of one good connection from a to b. */
struct ends {
    struct fm_connection *client, *server;
};

static inline struct ends join(void)
{
    struct fm_error err = {0};
    struct ends e;

    e.client = fm_connection_open(a, "127.0.0.1", fm_listener_port(listener), "b", WAIT_MS, &err);
    if (!e.client)
        fail_msg("%s", err.text);
    e.server = take_served(&err);
    if (!e.server)
        fail_msg("%s", err.text);
    return e;
}

static inline void part(struct ends *e)
{
    fm_connection_close(e->client);
    fm_connection_close(e->server);
}

#endif
