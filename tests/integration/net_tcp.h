/* TCP in the laboratory: a server that can be frozen and whose connection can be moved, as CRIU
 * would. */
#ifndef FM_TESTS_NET_TCP_H
#define FM_TESTS_NET_TCP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct tcp_server {
    int listener, fd; /* of the one connection */
    enum tcp_role {
        TCP_ECHO,
        TCP_SINK,
        TCP_SOURCE
    } role; /* the last two check, or send, a bulk stream */
    pthread_t thread;
    pthread_mutex_t frozen; /* who holds it, freezes */
    atomic_bool stop;
    atomic_ullong received; /* TCP_SOURCE: sent */
    atomic_ullong last_us;  /* when something came */
    uint64_t wrong;         /* bytes that are not what was sent */
    struct tcp_connection *saved;
};
/* Listens in a namespace; tcp_server_accept takes the client's connection and starts the thread. */
void tcp_server_listen(struct tcp_server *s, const char *netns, const char *ip, uint16_t port,
                       enum tcp_role role);
void tcp_server_accept(struct tcp_server *s);
void tcp_server_freeze(struct tcp_server *s);
void tcp_server_thaw(struct tcp_server *s);
void tcp_server_stop(struct tcp_server *s);
/* Saves the frozen server's connection, queues and all (TCP_REPAIR): from then on its kernel sends
 * nothing new. */
void tcp_server_save(struct tcp_server *s);
/* Restores it in another namespace with the same address; saves it first, if nobody has. */
void tcp_server_move(struct tcp_server *s, const char *netns);

int tcp_client(const char *netns, const char *ip, uint16_t port);
unsigned tcp_retransmissions(int fd);
/* The byte at a position of the bulk stream. */
uint8_t tcp_pattern(uint64_t position);

#endif
