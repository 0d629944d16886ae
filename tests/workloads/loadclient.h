/**
 * @file
 * @brief The parts of loadclient: requests and replies, the control socket, the loop.
 */
#ifndef LOADCLIENT_H
#define LOADCLIENT_H

#include "workload.h"

#define MAX_CONTROLS 8
#define GAP_THRESHOLD_US 10000

enum kind { FILL, SET, GET, READ_BACK };
enum phase { PRELOAD, LOAD, VERIFY, DONE };

struct request {
    enum kind kind;
    uint64_t key; /* keys from `keys` upwards are the preloaded ones */
    uint32_t version;
    uint64_t sent_us;
};

struct control {
    int fd;
    bool wants_ready;
    size_t length;
    char line[64];
};

struct options {
    struct sockaddr_storage server;
    uint64_t rate;
    uint64_t outstanding;
    uint64_t preload_mib;
    uint64_t duration_ms;
    uint64_t keys;
    uint64_t value_size;
    uint64_t connect_timeout_ms;
    uint64_t interval_us;
    bool verify;
    bool until_stdin_eof;
    const char *control;
    const char *ready_file;
};

struct client {
    struct options options;
    enum phase phase;
    int fd;
    int stop_fd;
    int control_listener;
    struct control controls[MAX_CONTROLS];
    bool stopping;
    bool broken; /* the one connection is gone */

    struct request *ring;
    uint64_t ring_size;
    uint64_t issued;
    uint64_t answered;

    uint64_t fill_count;
    uint64_t next_item; /* of the phase */
    uint64_t next_send_us;
    uint64_t phase_end_us;
    uint32_t *sent_version;
    uint32_t *acked_version;

    unsigned char *out;
    size_t out_length;
    unsigned char *in;
    size_t in_size, in_length;
    unsigned char *expected;

    uint64_t load_start_us, load_end_us;
    uint64_t last_reply_us;
    struct wl_gaps gaps;
    struct wl_gaps since_mark;
    uint64_t acknowledged, read_back, wrong_reads, errors, resets, lost, filled;
    uint64_t unanswered;
    uint64_t verified_until; /* every key below is judged */
    bool verified;
};

/** Requests that have no reply yet, and the oldest of them. */
uint64_t client_outstanding(const struct client *client);
struct request *client_oldest(struct client *client);

/** When the silence began that lasts until now, or until the next reply. */
uint64_t client_silent_since(struct client *client);

/** Records the silence that ends at @p now, a wl_now_us() time; only the load's count. */
void client_note_silence(struct client *client, uint64_t now);

/** Issues what the depth and the rate allow. False when the phase has no more requests. */
bool client_issue(struct client *client);

/** Moves bytes as far as the socket allows; judges whole replies. */
void client_transmit(struct client *client);
void client_receive(struct client *client);

/** Counts as lost what the verification did not reach. */
void client_give_up(struct client *client);

/** The unix socket on which `ready`, `mark`, `status` and `stop` are answered. */
int control_listen(const char *path);
void control_accept(struct client *client);
void control_read(struct client *client, struct control *control);

/** Answers those who asked for `ready`. */
void control_tell_ready(struct client *client);

/** The other end: sends one command, prints the answer; an exit code. */
int control_ask(const char *path, const char *command);

/** Prints the totals that both the control socket and the report carry. */
void client_print_totals(const struct client *client, FILE *out);

#endif
