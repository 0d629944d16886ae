/* A network namespace with HAProxy, web servers behind it and clients before it. All on loopback;
 * everything ends with the test. */
#ifndef FM_TESTS_BALANCER_WORLD_H
#define FM_TESTS_BALANCER_WORLD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#define WORLD_DIR "/mnt" /* a tmpfs of this process's own */
#define ADMIN_SOCKET WORLD_DIR "/admin.sock"
#define USER_SOCKET WORLD_DIR "/user.sock"
#define ADMIN_TCP "127.0.0.1:9999"
#define OLD_IP "127.0.0.2"
#define OTHER_IP "127.0.0.3"
#define NEW_IP "127.0.0.4"

/* Private network and mount namespaces for this process. */
void world_init(void);
void world_sleep_ms(unsigned ms);
/* A child that dies with this process. */
pid_t world_start(const char *const *argv);
/* SIGSTOP, and has stopped. */
void world_stop(pid_t pid);
void world_end(pid_t pid);
/* Answers "word" on port 8080 of an address. */
pid_t web_start(const char *ip, const char *word);
/* Backend "app": web, weight 50 (OLD_IP), and other, weight 100 (OTHER_IP); backend "lone": web
 * only. The frontend on 127.0.0.1:8000 leads to "app". */
pid_t haproxy_start(void);
/* "127.0.0.2 8080 50" of a server, asked for without the code under test; static. */
const char *haproxy_server(const char *backend, const char *server);
/* The runtime API, likewise. */
void haproxy_tell(const char *command);

struct clients {
    atomic_bool stop;
    atomic_uint failed, old, other, moved; /* answers, by the server's word */
    unsigned long threads[4];              /* pthread_t */
};
void clients_start(struct clients *c);
void clients_stop(struct clients *c);

#endif
