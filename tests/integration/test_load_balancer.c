/* Load balancers that follow a container: HAProxy itself, and commands. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "balancer_world.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "cancel_at.h"
#include "network/load_balancer.h"

#define BEFORE OLD_IP " 8080 50"
#define DRAINED OLD_IP " 8080 0"
#define TIMEOUT_MS 400
/* What a call may take beyond its timeout on a machine that has other things to do. */
#define GRACE_MS 600

static const char *const web_only[] = {"web", NULL};

static const struct fm_move moves_along = {.migration = "m1",
                                           .container = "web",
                                           .network = "default",
                                           .mac = "02:fd:00:00:00:02",
                                           .old_ip = OLD_IP,
                                           .new_ip = OLD_IP,
                                           .old_ip6 = "",
                                           .new_ip6 = "",
                                           .source = "host-a",
                                           .destination = "host-b",
                                           .source_address = "192.0.2.1",
                                           .destination_address = "192.0.2.2"};

static struct fm_move move_to(const char *new_ip)
{
    struct fm_move move = moves_along;
    move.new_ip = new_ip;
    return move;
}

static void close_follower(struct fm_follower *f)
{
    fm_load_balancer_close(f);
}
#define autofollower fm_cleanup(close_follower) struct fm_follower

static struct fm_follower open_haproxy(struct fm_haproxy_config haproxy,
                                       const char *const *containers)
{
    struct fm_load_balancer_config config = {
        .name = "edge", .containers = containers, .timeout_ms = 2000, .haproxy = &haproxy};
    if (!haproxy.socket)
        haproxy.socket = ADMIN_SOCKET;
    if (!haproxy.backend)
        haproxy.backend = "app";
    struct fm_follower follower;
    struct fm_error err = {0};
    if (fm_load_balancer_open(&config, &follower, &err) < 0)
        fail_msg("%s", err.text);
    return follower;
}

#define STEP(f, step, move, before)                                                                \
    do {                                                                                           \
        struct fm_error step_err = {0};                                                            \
        if ((f).ops->step((f).ctx, (move), (before), &step_err) < 0)                               \
            fail_msg(#step ": %s", step_err.text);                                                 \
    } while (0)

/* The step fails with this code, and says this. */
#define REFUSED(f, step, move, before, with, says)                                                 \
    do {                                                                                           \
        struct fm_error step_err = {0};                                                            \
        assert_int_equal((f).ops->step((f).ctx, (move), (before), &step_err), -(with));            \
        printf("  %s\n", step_err.text);                                                           \
        assert_non_null(strstr(step_err.text, says));                                              \
        assert_null(strchr(step_err.text, '\n'));                                                  \
    } while (0)

static json_t *read_before(const struct fm_follower *f, const struct fm_move *move)
{
    struct fm_error err = {0};
    json_t *before = NULL;
    if (f->ops->read(f->ctx, move, &before, &err) < 0)
        fail_msg("read: %s", err.text);
    return before;
}

/* ---- HAProxy alive ---- */

struct scene {
    pid_t haproxy, old, other, moved;
};

static int start_scene(void **state)
{
    static struct scene s;
    s = (struct scene){.old = web_start(OLD_IP, "old"),
                       .other = web_start(OTHER_IP, "other"),
                       .moved = web_start(NEW_IP, "moved")};
    s.haproxy = haproxy_start();
    *state = &s;
    return 0;
}

static int stop_scene(void **state)
{
    struct scene *s = *state;
    world_end(s->haproxy);
    world_end(s->old);
    world_end(s->other);
    world_end(s->moved);
    return 0;
}

static double ms_of(uint64_t since_us)
{
    return (double)(fm_now_us() - since_us) / 1000.0;
}

/* Everything twice, as a daemon does that dies in between. */
static void test_no_request_fails(void **state)
{
    struct scene *s = *state;
    struct fm_move move = move_to(NEW_IP);
    struct clients clients;
    autofollower f = open_haproxy((struct fm_haproxy_config){.drain_wait_ms = 2000}, NULL);
    clients_start(&clients);
    world_sleep_ms(200);
    assert_true(clients.old > 0 && clients.other > 0);

    json_auto_t *before = read_before(&f, &move);
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
    uint64_t since = fm_now_us();
    STEP(f, prepare, &move, before);
    double prepared_ms = ms_of(since);
    STEP(f, prepare, &move, before);
    assert_string_equal(haproxy_server("app", "web"), DRAINED);
    kill(s->old, SIGKILL); /* nobody is sent there any more */
    world_sleep_ms(300);
    since = fm_now_us();
    STEP(f, switch_over, &move, before);
    double switched_ms = ms_of(since);
    STEP(f, switch_over, &move, before);
    assert_string_equal(haproxy_server("app", "web"), NEW_IP " 8080 50");
    STEP(f, finish, &move, before);
    STEP(f, finish, &move, before);
    unsigned served = clients.moved;
    world_sleep_ms(300);
    clients_stop(&clients);
    printf("  drained in %.1f ms, switched in %.1f ms; answers: %u old, %u other, %u moved, %u "
           "failed\n",
           prepared_ms, switched_ms, clients.old, clients.other, clients.moved, clients.failed);
    assert_true(clients.moved > served);
    assert_int_equal(clients.failed, 0);
}

static void test_address_moves_along(void **state)
{
    (void)state;
    struct clients clients;
    autofollower f = open_haproxy((struct fm_haproxy_config){.socket = ADMIN_TCP}, web_only);
    clients_start(&clients);
    json_auto_t *before = read_before(&f, &moves_along);
    STEP(f, prepare, &moves_along, before);
    assert_string_equal(haproxy_server("app", "web"), DRAINED);
    STEP(f, switch_over, &moves_along, before);
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
    STEP(f, finish, &moves_along, before);
    clients_stop(&clients);
    assert_int_equal(clients.failed, 0);
}

static void test_published_port_follows_its_host(void **state)
{
    (void)state;
    struct fm_move move = moves_along;
    move.old_ip = move.new_ip = "10.88.0.5";
    move.source_address = OLD_IP;
    move.destination_address = NEW_IP;
    autofollower f = open_haproxy((struct fm_haproxy_config){0}, web_only);
    json_auto_t *before = read_before(&f, &move);
    STEP(f, prepare, &move, before);
    STEP(f, switch_over, &move, before);
    assert_string_equal(haproxy_server("app", "web"), NEW_IP " 8080 50");
    STEP(f, undo, &move, before);
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
}

static void test_ipv6(void **state)
{
    (void)state;
    struct fm_move move = moves_along;
    move.container = "six";
    move.old_ip6 = "0:0::1";
    move.new_ip6 = "fd00:88:0::2";
    autofollower f = open_haproxy((struct fm_haproxy_config){.backend = "lone"}, NULL);
    json_auto_t *before = read_before(&f, &move);
    STEP(f, prepare, &move, before);
    assert_string_equal(haproxy_server("lone", "six"), "::1 8080 0");
    STEP(f, switch_over, &move, before);
    STEP(f, finish, &move, before); /* it was not up before either */
    assert_string_equal(haproxy_server("lone", "six"), "fd00:88::2 8080 10");
    STEP(f, undo, &move, before);
    assert_string_equal(haproxy_server("lone", "six"), "::1 8080 10");
}

static void test_undo(void **state)
{
    (void)state;
    struct fm_move move = move_to(NEW_IP);
    autofollower f = open_haproxy((struct fm_haproxy_config){.drain_percent = 25}, web_only);
    for (int steps = 0; steps <= 3; steps++) {
        json_auto_t *before = read_before(&f, &move);
        if (steps > 0)
            STEP(f, prepare, &move, before);
        if (steps == 1)
            assert_string_equal(haproxy_server("app", "web"), OLD_IP " 8080 13");
        if (steps > 1)
            STEP(f, switch_over, &move, before);
        if (steps > 2)
            STEP(f, finish, &move, before);
        STEP(f, undo, &move, before);
        STEP(f, undo, &move, before);
        assert_string_equal(haproxy_server("app", "web"), BEFORE);
        assert_string_equal(haproxy_server("app", "other"), OTHER_IP " 8080 100");
    }
    /* Half of the switch: the daemon died between the address and the weight. */
    json_auto_t *before = read_before(&f, &move);
    STEP(f, prepare, &move, before);
    haproxy_tell("set server app/web addr " NEW_IP " port 8080");
    STEP(f, undo, &move, before);
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
}

static void test_somebody_else(void **state)
{
    (void)state;
    struct fm_move move = move_to(NEW_IP);
    autofollower f = open_haproxy((struct fm_haproxy_config){0}, web_only);
    json_auto_t *before = read_before(&f, &move);
    STEP(f, prepare, &move, before);
    STEP(f, switch_over, &move, before);
    haproxy_tell("set server app/web weight 7");
    REFUSED(f, switch_over, &move, before, FM_E_REFUSED, "weight 7 where 0 is expected");
    REFUSED(f, undo, &move, before, FM_E_REFUSED, "somebody else has changed it, it stays");
    assert_string_equal(haproxy_server("app", "web"), OLD_IP " 8080 7"); /* the address is back */

    haproxy_tell("set server app/web weight 0");
    haproxy_tell("set server app/web addr 127.0.0.9 port 8081");
    REFUSED(f, undo, &move, before, FM_E_REFUSED, "address 127.0.0.9 port 8081 where");
    assert_string_equal(haproxy_server("app", "web"), "127.0.0.9 8081 50"); /* the weight is back */
    json_t *none = NULL;
    struct fm_error err = {0};
    assert_int_equal(f.ops->read(f.ctx, &move, &none, &err), -FM_E_REFUSED);
    printf("  %s\n", err.text);
    assert_non_null(strstr(err.text, "neither the container's (" OLD_IP ")"));
}

/* The last one that answers is not drained; nor when the others go while it waits. */
static void test_last_server(void **state)
{
    struct scene *s = *state;
    autofollower lone = open_haproxy((struct fm_haproxy_config){.backend = "lone"}, web_only);
    json_auto_t *before = read_before(&lone, &moves_along);
    STEP(lone, prepare, &moves_along, before);
    assert_string_equal(haproxy_server("lone", "web"), BEFORE);

    autofollower f = open_haproxy((struct fm_haproxy_config){.drain_wait_ms = 300}, web_only);
    json_auto_t *both = read_before(&f, &moves_along);
    STEP(f, prepare, &moves_along, both);
    assert_string_equal(haproxy_server("app", "web"), DRAINED);
    kill(s->other, SIGKILL);
    world_sleep_ms(500);
    STEP(f, prepare, &moves_along, both);
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
}

static void test_waits_for_sessions(void **state)
{
    struct scene *s = *state;
    struct clients clients;
    autofollower f = open_haproxy((struct fm_haproxy_config){.drain_wait_ms = 500}, web_only);
    world_stop(s->old); /* its requests hang */
    clients_start(&clients);
    world_sleep_ms(60);
    json_auto_t *before = read_before(&f, &moves_along);
    uint64_t since = fm_now_us();
    STEP(f, prepare, &moves_along, before);
    double ms = ms_of(since);
    printf("  waited %.0f ms of 500 for sessions that do not end\n", ms);
    assert_true(ms >= 500 && ms < 500 + GRACE_MS);
    kill(s->old, SIGCONT);
    STEP(f, switch_over, &moves_along, before);
    clients_stop(&clients);
    assert_int_equal(clients.failed, 0);
}

/* The step ends soon after somebody has cancelled the move. */
static void assert_cancelled(const struct fm_follower *f, bool read, const json_t *before)
{
    uint64_t at_ms = fm_now_ms() + CANCEL_AFTER_MS;
    struct fm_move move = moves_along;
    move.cancel = (struct fm_cancel){.check = cancel_at, .ctx = &at_ms};
    struct fm_error err = {0};
    json_t *none = NULL;
    int rc = read ? f->ops->read(f->ctx, &move, &none, &err)
                  : f->ops->prepare(f->ctx, &move, before, &err);
    long late_ms = (long)(fm_now_ms() - at_ms);
    printf("  %ld ms after the cancel: %s\n", late_ms, err.text);
    assert_int_equal(rc, -FM_E_CANCELLED);
    assert_true(late_ms >= 0 && late_ms < CANCEL_GRACE_MS);
}

static void test_cancelled_while_it_waits_for_sessions(void **state)
{
    struct scene *s = *state;
    struct clients clients;
    autofollower f = open_haproxy((struct fm_haproxy_config){.drain_wait_ms = 20000}, web_only);
    world_stop(s->old); /* its requests hang */
    clients_start(&clients);
    world_sleep_ms(60);
    json_auto_t *before = read_before(&f, &moves_along);
    assert_cancelled(&f, false, before);
    assert_string_equal(haproxy_server("app", "web"), DRAINED);
    STEP(f, undo, &moves_along, before);
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
    kill(s->old, SIGCONT);
    clients_stop(&clients);
    assert_int_equal(clients.failed, 0);
}

static void test_cancelled_while_haproxy_is_silent(void **state)
{
    struct scene *s = *state;
    autofollower f = open_haproxy((struct fm_haproxy_config){0}, web_only);
    json_auto_t *before = read_before(&f, &moves_along);
    world_stop(s->haproxy);
    assert_cancelled(&f, true, NULL);
    assert_cancelled(&f, false, before);
    kill(s->haproxy, SIGCONT);
    STEP(f, undo, &moves_along, before);
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
}

static void test_unknown_names(void **state)
{
    (void)state;
    struct fm_move stranger = moves_along;
    stranger.container = "database";
    json_t *none = NULL;
    struct fm_error err = {0};

    autofollower any = open_haproxy((struct fm_haproxy_config){0}, NULL);
    assert_null(read_before(&any, &stranger));
    autofollower one = open_haproxy((struct fm_haproxy_config){0}, web_only);
    assert_null(read_before(&one, &stranger));

    autofollower server = open_haproxy((struct fm_haproxy_config){.server = "nobody"}, web_only);
    assert_int_equal(server.ops->read(server.ctx, &moves_along, &none, &err), -FM_E_NOT_FOUND);
    printf("  %s\n", err.text);
    assert_non_null(
        strstr(err.text, "backend 'app' of HAProxy at " ADMIN_SOCKET " has no server 'nobody'"));
    autofollower backend = open_haproxy((struct fm_haproxy_config){.backend = "ap"}, NULL);
    assert_int_equal(backend.ops->read(backend.ctx, &moves_along, &none, &err), -FM_E_NOT_FOUND);
    printf("  %s\n", err.text);
    assert_non_null(strstr(err.text, "has no backend 'ap'"));
    static const char *const local[] = {"local", NULL};
    autofollower path = open_haproxy((struct fm_haproxy_config){.backend = "lone"}, local);
    stranger.container = "local";
    assert_int_equal(path.ops->read(path.ctx, &stranger, &none, &err), -FM_E_REFUSED);
    printf("  %s\n", err.text);

    autofollower user = open_haproxy((struct fm_haproxy_config){.socket = USER_SOCKET}, web_only);
    json_auto_t *before = read_before(&user, &moves_along);
    REFUSED(user, prepare, &moves_along, before, FM_E_FAILED, "Permission denied");
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
    json_auto_t *damaged = json_pack("{s:s}", "address", "127.0.0.2");
    REFUSED(user, undo, &moves_along, damaged, FM_E_INVALID, "is not understood");
}

/* ---- HAProxy ill ---- */

static struct fm_follower open_impatient(const char *socket)
{
    struct fm_haproxy_config haproxy = {.socket = socket, .backend = "app"};
    struct fm_load_balancer_config config = {
        .name = "edge", .timeout_ms = TIMEOUT_MS, .haproxy = &haproxy};
    struct fm_follower follower;
    struct fm_error err = {0};
    assert_int_equal(fm_load_balancer_open(&config, &follower, &err), 0);
    return follower;
}

static void assert_fails_in_time(const char *socket, enum fm_code code, const char *says)
{
    autofollower f = open_impatient(socket);
    struct fm_error err = {0};
    json_t *before = NULL;
    uint64_t since = fm_now_ms();
    int rc = f.ops->read(f.ctx, &moves_along, &before, &err);
    uint64_t ms = fm_now_ms() - since;
    printf("  after %3u ms: %s\n", (unsigned)ms, err.text);
    assert_int_equal(rc, -(int)code);
    assert_null(before);
    assert_non_null(strstr(err.text, says));
    assert_null(strchr(err.text, '\n'));
    assert_true(ms < TIMEOUT_MS + GRACE_MS);
}

static void test_dead_and_stopped(void **state)
{
    struct scene *s = *state;
    autofollower f = open_impatient(ADMIN_SOCKET);
    json_auto_t *before = read_before(&f, &moves_along);
    world_stop(s->haproxy);
    assert_fails_in_time(ADMIN_SOCKET, FM_E_TIMEOUT, "does not answer within 400 ms");
    assert_fails_in_time(ADMIN_TCP, FM_E_TIMEOUT, "does not answer within 400 ms");
    REFUSED(f, prepare, &moves_along, before, FM_E_TIMEOUT, "load balancer 'edge': HAProxy at");
    world_end(s->haproxy);
    assert_fails_in_time(ADMIN_SOCKET, FM_E_UNREACHABLE, "Connection refused");
    assert_fails_in_time(ADMIN_TCP, FM_E_UNREACHABLE, "Connection refused");
    assert_fails_in_time(WORLD_DIR "/nowhere.sock", FM_E_UNREACHABLE, "No such file");
    s->haproxy = haproxy_start();
    STEP(f, prepare, &moves_along, before); /* as if nothing had been */
    STEP(f, undo, &moves_along, before);
    assert_string_equal(haproxy_server("app", "web"), BEFORE);
}

/* A server that says `text` to everybody, `times` times, and then closes or (0) never does. */
static pid_t talk(const char *path, const char *text, size_t len, unsigned long times)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    assert_int_equal(listen(fd, 1), 0);
    pid_t pid = fork();
    if (pid > 0) {
        close(fd);
        return pid;
    }
    signal(SIGPIPE, SIG_IGN);
    alarm(30);
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        char question[1024];
        if (recv(peer, question, sizeof(question), 0) <= 0)
            _exit(1);
        if (times == 0 && write(peer, text, len) < 0)
            _exit(1);
        for (unsigned long i = 0; i < times && write(peer, text, len) > 0; i++)
            ;
        if (times == 0)
            pause();
        close(peer);
    }
}

#define HEADING                                                                                    \
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight "        \
    "srv_iweight srv_port\n"

static void test_garbage(void **state)
{
    (void)state;
    static char flood[1 << 16];
    memset(flood, 'x', sizeof(flood));
    static const char row[] = HEADING "3 app 1 web 127.0.0.2 2 0 50 50 8080\n";
    static const struct {
        const char *text;
        size_t len; /* 0: all of it */
        unsigned long times;
        enum fm_code code;
        const char *says;
    } cases[] = {
        {"HTTP/1.1 400 Bad request\r\n\r\n", 0, 1, FM_E_PROTOCOL,
         "says 'HTTP/1.1 400 Bad request'"},
        {"\x01\x7f\xff\x1b[31m\n", 0, 1, FM_E_PROTOCOL, "says '????[31m'"},
        {"1\0\0\0", 4, 1, FM_E_PROTOCOL, "not text"},
        {"", 0, 1, FM_E_PROTOCOL, "says ''"},
        {"", 0, 0, FM_E_TIMEOUT, "within 400 ms"},
        {row, 0, 0, FM_E_TIMEOUT, "within 400 ms"}, /* never ends */
        {"2\n# be_id\n", 0, 1, FM_E_PROTOCOL, "says '2'"},
        {"1\n# be_id be_name\n3 app\n", 0, 1, FM_E_PROTOCOL, "not understood"},
        {HEADING "3 app 1 web\n", 0, 1, FM_E_PROTOCOL, "not understood"},
        {HEADING "3 other 1 web 127.0.0.2 2 0 50 50 8080\n", 0, 1, FM_E_PROTOCOL, "not understood"},
        {HEADING "3 app 1 web 127.0.0.2 2 0 257 50 8080\n", 0, 1, FM_E_PROTOCOL, "not understood"},
        {HEADING "3 app 1 web 127.0.0.2 2 0 -1 50 8080\n", 0, 1, FM_E_PROTOCOL, "not understood"},
        {HEADING "3 app 1 web 127.0.0.2 2 0 50 50 65536\n", 0, 1, FM_E_PROTOCOL, "not understood"},
        {HEADING "3 app 1 web 127.0.0.2 2 0 50 50 8080 8\n", 0, 1, FM_E_PROTOCOL, "not understood"},
        {HEADING "3 app 1 web nonsense 2 0 50 50 8080\n", 0, 1, FM_E_REFUSED, "no IP address"},
        {"1\n# a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a "
         "a a "
         "a a a a a a a a a a a a a a a a a a a a a a a a\n",
         0, 1, FM_E_PROTOCOL, "too many columns"},
        {flood, sizeof(flood), 1000000, FM_E_PROTOCOL, "more than 1 MiB"},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        const char *path = WORLD_DIR "/garbage.sock";
        pid_t pid = talk(path, cases[i].text, cases[i].len ? cases[i].len : strlen(cases[i].text),
                         cases[i].times);
        assert_fails_in_time(path, cases[i].code, cases[i].says);
        world_end(pid);
    }
    /* The same rows, undamaged, are taken. */
    pid_t pid = talk(WORLD_DIR "/garbage.sock", row, sizeof(row) - 1, 1);
    autofollower f = open_impatient(WORLD_DIR "/garbage.sock");
    json_auto_t *before = read_before(&f, &moves_along);
    assert_int_equal(json_integer_value(json_object_get(before, "weight")), 50);
    world_end(pid);
}

/* ---- commands ---- */

static struct fm_follower open_command(const char *const *argv, const char *const *containers)
{
    struct fm_load_balancer_config config = {
        .name = "own", .containers = containers, .timeout_ms = TIMEOUT_MS, .command = argv};
    struct fm_follower follower;
    struct fm_error err = {0};
    assert_int_equal(fm_load_balancer_open(&config, &follower, &err), 0);
    return follower;
}

static void test_command(void **state)
{
    (void)state;
    struct fm_move move = move_to(NEW_IP);
    static const char *const note[] = {
        "/bin/sh", "-c", "env | grep ^FLEXIMIGRATE_ | sort >>" WORLD_DIR "/phases", NULL};
    autofollower f = open_command(note, web_only);
    json_auto_t *before = read_before(&f, &move);
    assert_non_null(before);
    STEP(f, prepare, &move, before);
    STEP(f, switch_over, &move, before);
    STEP(f, finish, &move, before);
    STEP(f, undo, &move, before);
    fm_autofree char *text = NULL;
    size_t len = 0;
    assert_int_equal(fm_file_read(WORLD_DIR "/phases", 1 << 16, &text, &len, NULL), 0);
    static const char *const lines[] = {
        "FLEXIMIGRATE_PHASE=prepare\n",      "FLEXIMIGRATE_PHASE=switch\n",
        "FLEXIMIGRATE_PHASE=finish\n",       "FLEXIMIGRATE_PHASE=undo\n",
        "FLEXIMIGRATE_CONTAINER=web\n",      "FLEXIMIGRATE_OLD_IP=127.0.0.2\n",
        "FLEXIMIGRATE_NEW_IP=127.0.0.4\n",   "FLEXIMIGRATE_NEW_IP6=\n",
        "FLEXIMIGRATE_DESTINATION=host-b\n", "FLEXIMIGRATE_SOURCE_ADDRESS=192.0.2.1\n",
    };
    const char *at = text;
    for (size_t i = 0; i < FM_COUNT(lines); i++) {
        const char *found = strstr(i < 4 ? at : text, lines[i]);
        if (!found)
            fail_msg("no %s", lines[i]);
        at = i < 4 ? found : at;
    }
    struct fm_move stranger = move;
    stranger.container = "database";
    assert_null(read_before(&f, &stranger));
}

static void test_command_fails(void **state)
{
    (void)state;
    static const char *const loser[] = {"/bin/sh", "-c",
                                        "echo first >&2; echo 'no such pool' >&2; exit 3", NULL};
    static const char *const sleeper[] = {"/bin/sh", "-c", "sleep 30 & sleep 30; :", NULL};
    static const char *const missing[] = {"/nowhere/balance", NULL};
    autofollower lost = open_command(loser, NULL);
    json_auto_t *before = read_before(&lost, &moves_along);
    REFUSED(lost, prepare, &moves_along, before, FM_E_FAILED,
            "load balancer 'own': command for phase 'prepare' of 'web': '/bin/sh' failed with exit "
            "code 3: no such pool");
    autofollower slow = open_command(sleeper, NULL);
    uint64_t since = fm_now_ms();
    REFUSED(slow, switch_over, &moves_along, before, FM_E_TIMEOUT, "did not end within 400 ms");
    assert_true(fm_now_ms() - since < TIMEOUT_MS + GRACE_MS);
    autofollower gone = open_command(missing, NULL);
    REFUSED(gone, undo, &moves_along, before, FM_E_NOT_FOUND, "/nowhere/balance");
}

static void test_command_is_cancelled(void **state)
{
    (void)state;
    static const char *const sleeper[] = {
        "/bin/sh", "-c", "sleep 30 & echo $! >" WORLD_DIR "/sleeper; sleep 30; :", NULL};
    struct fm_load_balancer_config config = {
        .name = "own", .timeout_ms = 20000, .command = sleeper};
    autofollower f;
    assert_int_equal(fm_load_balancer_open(&config, &f, NULL), 0);
    assert_cancelled(&f, false, NULL);
    fm_autofree char *pid = NULL;
    size_t len = 0;
    assert_int_equal(fm_file_read(WORLD_DIR "/sleeper", 16, &pid, &len, NULL), 0);
    uint64_t began = fm_process_start_time(atoi(pid));
    for (int i = 0; i < 100 && fm_process_is(atoi(pid), began); i++) /* it is on its way out */
        world_sleep_ms(5);
    assert_false(fm_process_is(atoi(pid), began));
}

/* ---- configuration ---- */

static void test_configuration(void **state)
{
    (void)state;
    static const char *const argv[] = {"true", NULL};
    static const char *const nothing[] = {NULL};
    static const char *const two[] = {"web", "db", NULL};
    struct fm_haproxy_config good = {.socket = ADMIN_SOCKET, .backend = "app"};
    static const struct {
        struct fm_haproxy_config haproxy;
        const char *const *containers;
        const char *says;
    } bad[] = {
        {{.backend = "app"}, NULL, "needs its stats socket and a backend"},
        {{.socket = ADMIN_SOCKET}, NULL, "needs its stats socket and a backend"},
        {{.socket = "admin.sock", .backend = "app"}, NULL, "neither an absolute path nor"},
        {{.socket = "127.0.0.1:0", .backend = "app"}, NULL, "neither an absolute path nor"},
        {{.socket = "localhost:9999", .backend = "app"}, NULL, "'localhost' is not an IP address"},
        {{.socket = ADMIN_SOCKET, .backend = "a;b"}, NULL, "'a;b' is not a name of HAProxy"},
        {{.socket = ADMIN_SOCKET, .backend = "a\nb"}, NULL, "is not a name of HAProxy"},
        {{.socket = ADMIN_SOCKET, .backend = "app", .server = "a/b"}, web_only, "'a/b' is not"},
        {{.socket = ADMIN_SOCKET, .backend = "app", .server = "x"},
         NULL,
         "needs the one container"},
        {{.socket = ADMIN_SOCKET, .backend = "app", .server = "x"}, two, "needs the one container"},
        {{.socket = ADMIN_SOCKET, .backend = "app", .drain_percent = 101}, NULL, "101 percent"},
    };
    struct fm_follower f;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_error err = {0};
        struct fm_load_balancer_config config = {
            .name = "edge", .containers = bad[i].containers, .haproxy = &bad[i].haproxy};
        assert_int_equal(fm_load_balancer_open(&config, &f, &err), -FM_E_INVALID);
        if (!strstr(err.text, bad[i].says))
            fail_msg("%s", err.text);
        assert_null(f.ctx);
    }
    const struct fm_load_balancer_config neither = {.name = "edge"},
                                         both = {.haproxy = &good, .command = argv},
                                         empty = {.command = nothing};
    struct fm_error err = {0};
    assert_int_equal(fm_load_balancer_open(&neither, &f, &err), -FM_E_INVALID);
    assert_int_equal(fm_load_balancer_open(&both, &f, &err), -FM_E_INVALID);
    assert_int_equal(fm_load_balancer_open(&empty, &f, &err), -FM_E_INVALID);
    fm_load_balancer_close(&f);
}

int main(void)
{
    if (geteuid() != 0) {
        printf("skipped: needs root for network namespaces\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    world_init();
    const struct CMUnitTest tests[] = {
#define WITH_SCENE(test) cmocka_unit_test_setup_teardown(test, start_scene, stop_scene)
        WITH_SCENE(test_no_request_fails),
        WITH_SCENE(test_address_moves_along),
        WITH_SCENE(test_published_port_follows_its_host),
        WITH_SCENE(test_ipv6),
        WITH_SCENE(test_undo),
        WITH_SCENE(test_somebody_else),
        WITH_SCENE(test_last_server),
        WITH_SCENE(test_waits_for_sessions),
        WITH_SCENE(test_cancelled_while_it_waits_for_sessions),
        WITH_SCENE(test_cancelled_while_haproxy_is_silent),
        WITH_SCENE(test_unknown_names),
        WITH_SCENE(test_dead_and_stopped),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_command),
        cmocka_unit_test(test_command_fails),
        cmocka_unit_test(test_command_is_cancelled),
        cmocka_unit_test(test_configuration),
    };
    return cmocka_run_group_tests_name("load-balancer", tests, NULL, NULL);
}
