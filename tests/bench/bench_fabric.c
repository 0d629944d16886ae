/* What a migration asks of three hosts' fabrics, timed: first while nothing else is there, then
 * among many containers that are spread over the hosts. Prints the microseconds of every call as
 * JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "net_scene.h"

#define MAX_MOVES 200
#define MAX_CONTAINERS 1000

static struct lab_host *const hosts[] = {&host_a, &host_b, &host_c};

/* The steps of a move, in its order. */
#define STEPS(X)                                                                                   \
    X(STAGE, "destination staged")                                                                 \
    X(PREPARE, "hold prepared")                                                                    \
    X(ENGAGE, "packets held")                                                                      \
    X(ACTIVATE, "destination activated")                                                           \
    X(FORWARD, "held packets forwarded")                                                           \
    X(TELL, "third host told")                                                                     \
    X(UNSTAGE, "source cleaned up")

enum step {
#define X(name, text) name,
    STEPS(X)
#undef X
        STEP_COUNT
};

static const char *const step_texts[] = {
#define X(name, text) [name] = text,
    STEPS(X)
#undef X
};

struct timing {
    uint64_t us[STEP_COUNT][MAX_MOVES];
    size_t moves;
};

/* The same network daemons do all of it, as in a migration; a call is timed where it is served. */
static void move(struct timing *timing, struct lab_host *from, struct lab_host *to)
{
    size_t n = timing->moves++;
    struct lab_request forward = {.op = LAB_HOLD_FORWARD, SERVER};
    snprintf(forward.host, sizeof(forward.host), "%s", to->address);
    timing->us[STAGE][n] = CALL(*to, LAB_STAGE, SERVER).us;
    timing->us[PREPARE][n] = CALL(*from, LAB_HOLD_PREPARE, SERVER).us;
    timing->us[ENGAGE][n] = CALL(*from, LAB_HOLD_ENGAGE, SERVER).us;
    timing->us[ACTIVATE][n] = CALL(*to, LAB_ACTIVATE, SERVER).us;
    timing->us[FORWARD][n] = lab_call(from, forward).us;
    struct lab_request tell = forward;
    tell.op = LAB_SET_REMOTE;
    timing->us[TELL][n] = lab_call(&host_c, tell).us;
    uint64_t since = fm_now_us();
    CALL(*from, LAB_HOLD_END);
    CALL(*from, LAB_UNSTAGE, SERVER);
    lab_call(from, tell);
    timing->us[UNSTAGE][n] = fm_now_us() - since;
}

static void move_there_and_back(struct timing *timing, unsigned moves)
{
    for (unsigned i = 0; i < moves; i++)
        move(timing, hosts[i % 2], hosts[(i + 1) % 2]);
}

/* On one host after the other, and each host knows where the others' are. */
static void add_containers(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct lab_request q = {.op = LAB_STAGE, .flag = true};
        const struct lab_host *home = hosts[i % 3];
        snprintf(q.name, sizeof(q.name), "crowd%u", i);
        snprintf(q.ip, sizeof(q.ip), "10.88.%u.%u", 1 + i / 200, 1 + i % 200);
        lab_call(hosts[i % 3], q);
        q.op = LAB_SET_REMOTE;
        snprintf(q.host, sizeof(q.host), "%s", home->address);
        for (unsigned other = 0; other < 3; other++) {
            if (hosts[other] != home)
                lab_call(hosts[other], q);
        }
    }
}

static void print_timing(const char *name, const struct timing *timing)
{
    printf("\"%s\":{", name);
    for (size_t step = 0; step < STEP_COUNT; step++) {
        printf("%s\"%s\":[", step ? "," : "", step_texts[step]);
        for (size_t i = 0; i < timing->moves; i++)
            printf("%s%" PRIu64, i ? "," : "", timing->us[step][i]);
        printf("]");
    }
    printf("}");
}

int main(int argc, char **argv)
{
    static struct timing empty, crowd;
    unsigned moves = argc > 1 ? (unsigned)atoi(argv[1]) : 0;
    unsigned containers = argc > 2 ? (unsigned)atoi(argv[2]) : 0;
    if (argc != 3 || moves < 1 || moves > MAX_MOVES || containers > MAX_CONTAINERS) {
        fprintf(stderr, "usage: bench_fabric MOVES CONTAINERS\n");
        return 2;
    }
    lab_init();
    start_hosts(false);
    CALL(host_a, LAB_STAGE, SERVER, .flag = true);
    set_remote(&host_b, SERVER_IP, host_a.address);
    set_remote(&host_c, SERVER_IP, host_a.address);
    moves += moves % 2; /* it ends where it began */
    move_there_and_back(&empty, moves);
    add_containers(containers);
    move_there_and_back(&crowd, moves);
    printf("{\"containers\":%u,", containers);
    print_timing("empty", &empty);
    printf(",");
    print_timing("crowd", &crowd);
    printf("}\n");
    stop_hosts();
    return 0;
}
