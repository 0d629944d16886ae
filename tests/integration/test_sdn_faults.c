/* Controllers and switches that die, hang or lie, and other people's flows. Needs root, Open
 * vSwitch and os-ken. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "cancel_at.h"
#include "net_lab.h"
#include "sdn_lab.h"

#define TIMEOUT_MS 2500
#define SLACK_MS 700
#define LIAR_PORT 8099

static struct sdn_lab lab;
static struct fm_follower follower;

static int start_lab(void **state)
{
    (void)state;
    struct fm_error err = {0};
    sdn_lab_start(&lab);
    struct fm_sdn_config config = sdn_lab_config(NULL);
    return fm_sdn_open(&config, &follower, &err);
}

static int stop_lab(void **state)
{
    (void)state;
    fm_sdn_close(&follower);
    sdn_lab_stop(&lab);
    return 0;
}

static int reset(void **state)
{
    (void)state;
    sdn_lab_reset();
    return 0;
}

typedef int (*step_fn)(void *ctx, const struct fm_move *move, const json_t *before,
                       struct fm_error *err);

static struct fm_move there(void)
{
    return sdn_lab_move("host-a", "host-b");
}

static void do_step(step_fn step, const json_t *before)
{
    struct fm_move move = there();
    struct fm_error err = {0};
    if (step(follower.ctx, &move, before, &err) < 0)
        fail_msg("%s", err.text);
}

/* The step fails within the time-out, and says each of these words. */
static struct fm_error do_fail(step_fn step, const json_t *before, const char *word,
                               const char *other)
{
    struct fm_move move = there();
    struct fm_error err = {0};
    uint64_t started = fm_now_ms();
    int rc = step(follower.ctx, &move, before, &err);
    uint64_t took = fm_now_ms() - started;
    print_message("  after %u ms: %s\n", (unsigned)took, err.text);
    assert_true(rc < 0);
    assert_true(took < TIMEOUT_MS + SLACK_MS);
    assert_non_null(strstr(err.text, word));
    assert_non_null(strstr(err.text, other));
    assert_null(strchr(err.text, '\n'));
    return err;
}

static int try_read(const struct fm_follower *f, json_t **before, struct fm_error *err)
{
    struct fm_move move = there();
    return f->ops->read(f->ctx, &move, before, err);
}

static json_t *do_read(void)
{
    struct fm_error err = {0};
    json_t *before = NULL;
    if (try_read(&follower, &before, &err) < 0)
        fail_msg("%s", err.text);
    assert_non_null(before);
    return before;
}

static void assert_dump(const char *sw, const char *was)
{
    fm_autofree char *now = sdn_lab_dump(sw);
    assert_string_equal(was, now);
}

static void test_cancelled_while_it_waits(void **state)
{
    (void)state;
    fm_autofree char *was = sdn_lab_dump("*");
    json_t *before = do_read();
    kill(lab.controller, SIGSTOP);
    uint64_t at_ms = fm_now_ms() + CANCEL_AFTER_MS;
    struct fm_move move = there();
    move.cancel = (struct fm_cancel){.check = cancel_at, .ctx = &at_ms};
    struct fm_error err = {0};
    assert_int_equal(follower.ops->prepare(follower.ctx, &move, before, &err), -FM_E_CANCELLED);
    long late_ms = (long)(fm_now_ms() - at_ms);
    print_message("  %ld ms after the cancel: %s\n", late_ms, err.text);
    assert_true(late_ms >= 0 && late_ms < CANCEL_GRACE_MS);
    kill(lab.controller, SIGCONT);
    do_step(follower.ops->undo, before);
    assert_dump("*", was);
    json_decref(before);
}

static void test_slow_controller(void **state)
{
    (void)state;
    fm_autofree char *was = sdn_lab_dump("*");
    json_t *before = do_read();
    kill(lab.controller, SIGSTOP);
    do_fail(follower.ops->prepare, before, CONTROLLER, "'sw");
    do_fail(follower.ops->undo, before, CONTROLLER, "'sw");
    kill(lab.controller, SIGCONT);
    do_step(follower.ops->undo, before);
    assert_dump("*", was);

    /* It hangs in the middle. */
    do_step(follower.ops->prepare, before);
    kill(lab.controller, SIGSTOP);
    do_fail(follower.ops->switch_over, before, CONTROLLER, "'sw");
    kill(lab.controller, SIGCONT);
    do_step(follower.ops->undo, before);
    assert_dump("*", was);
    json_decref(before);
}

static void test_dead_controller(void **state)
{
    (void)state;
    static const char *const dead[] = {"http://127.0.0.1:9", NULL};
    static const char *const second[] = {"http://127.0.0.1:9", CONTROLLER, NULL};
    struct fm_sdn_config config = sdn_lab_config(dead);
    struct fm_follower other;
    struct fm_error err = {0};
    json_t *before = NULL;
    assert_int_equal(fm_sdn_open(&config, &other, &err), 0);
    assert_int_equal(try_read(&other, &before, &err), -FM_E_UNREACHABLE);
    print_message("  %s\n", err.text);
    assert_non_null(strstr(err.text, dead[0]));
    assert_null(before);
    fm_sdn_close(&other);

    config.controllers = second;
    assert_int_equal(fm_sdn_open(&config, &other, &err), 0);
    assert_int_equal(try_read(&other, &before, &err), 0);
    assert_non_null(before);
    json_decref(before);
    fm_sdn_close(&other);
}

/* The second switch hangs: the first one is put back all the same. */
static void test_slow_switch(void **state)
{
    (void)state;
    fm_autofree char *was_a = sdn_lab_dump("swa");
    fm_autofree char *was = sdn_lab_dump("*");
    json_t *before = do_read();
    do_step(follower.ops->prepare, before);
    do_step(follower.ops->switch_over, before);
    kill(lab.vswitchd[1], SIGSTOP);
    do_fail(follower.ops->prepare, before, CONTROLLER, "'swb'");
    do_fail(follower.ops->undo, before, CONTROLLER, "'swb'");
    assert_dump("swa", was_a);
    kill(lab.vswitchd[1], SIGCONT);
    do_step(follower.ops->undo, before);
    assert_dump("*", was);
    json_decref(before);
}

static void test_foreign_flow_in_the_way(void **state)
{
    (void)state;
    static const char *const flows[] = {
        "cookie=0x77,priority=30000,dl_dst=" CONTAINER_MAC ",actions=output:2",
        "cookie=0x77,priority=20000,dl_dst=" CONTAINER_MAC ",actions=drop",
        "cookie=0x77,priority=25000,ip,nw_dst=" CONTAINER_IP ",actions=output:2",
    };
    for (size_t i = 0; i < FM_COUNT(flows); i++) {
        struct fm_error err = {0};
        json_t *before = NULL;
        sdn_lab_reset();
        sdn_lab_flow("swb", "add-flow", flows[i]);
        fm_autofree char *was = sdn_lab_dump("*");
        assert_int_equal(try_read(&follower, &before, &err), -FM_E_REFUSED);
        print_message("  %s\n", err.text);
        assert_non_null(strstr(err.text, "'swb'"));
        assert_null(before);
        assert_dump("*", was);
    }
}

static void test_changed_meanwhile(void **state)
{
    (void)state;
    json_t *before = do_read();
    do_step(follower.ops->prepare, before);
    do_step(follower.ops->switch_over, before);
    sdn_lab_flow("swb", "add-flow",
                 "cookie=0x77,priority=20000,dl_dst=" CONTAINER_MAC ",actions=output:7");
    do_fail(follower.ops->switch_over, before, "'swb'", "somebody else");
    do_fail(follower.ops->undo, before, "'swb'", "somebody else");
    fm_autofree char *b = sdn_lab_dump("swb");
    assert_non_null(strstr(b, "cookie=0x77, priority=20000,dl_dst=" CONTAINER_MAC));
    assert_null(strstr(b, "19999"));
    fm_autofree char *a = sdn_lab_dump("swa");
    assert_null(strstr(a, "0x464d53444e"));
    json_decref(before);
}

static void test_refused_flow(void **state)
{
    (void)state;
    static const char *const urls[] = {CONTROLLER, NULL};
    struct fm_sdn_config config = sdn_lab_config(urls);
    const struct fm_sdn_port ports[] = {{"host-a", "swa", 1},
                                        {"host-b", "swa", 0xfffffe00},
                                        {"host-a", "swb", 2},
                                        {"host-b", "swb", 1}};
    config.ports = ports;
    config.port_count = FM_COUNT(ports);
    struct fm_follower other;
    struct fm_error err = {0};
    struct fm_move move = there();
    json_t *before = NULL;
    assert_int_equal(fm_sdn_open(&config, &other, &err), 0);
    fm_autofree char *was = sdn_lab_dump("*");
    assert_int_equal(try_read(&other, &before, &err), 0);
    assert_int_equal(other.ops->prepare(other.ctx, &move, before, &err), -FM_E_REFUSED);
    print_message("  %s\n", err.text);
    assert_non_null(strstr(err.text, "'swa'"));
    assert_int_equal(other.ops->undo(other.ctx, &move, before, &err), 0);
    assert_dump("*", was);
    json_decref(before);
    fm_sdn_close(&other);
}

/* ---- a controller that lies ---- */

struct liar {
    int fd;
    const char *answer; /* NULL: hangs; "" : an endless body */
    atomic_bool stop;
    pthread_t thread;
};

static void pour(int fd)
{
    static const char head[] = "HTTP/1.1 200 OK\r\n\r\n[";
    static char zeros[65536];
    memset(zeros, ' ', sizeof(zeros));
    send(fd, head, sizeof(head) - 1, MSG_NOSIGNAL);
    while (send(fd, zeros, sizeof(zeros), MSG_NOSIGNAL) > 0)
        ;
}

static void *lie(void *ctx)
{
    struct liar *liar = ctx;
    struct pollfd wait = {.fd = liar->fd, .events = POLLIN};
    char request[4096];
    int hanging = -1;
    while (!atomic_load(&liar->stop)) {
        if (poll(&wait, 1, 20) <= 0)
            continue;
        int fd = accept(liar->fd, NULL, NULL);
        ssize_t got = recv(fd, request, sizeof(request), 0);
        (void)got;
        if (!liar->answer) {
            hanging = fd;
            continue;
        }
        if (!liar->answer[0])
            pour(fd);
        else
            send(fd, liar->answer, strlen(liar->answer), MSG_NOSIGNAL);
        close(fd);
    }
    if (hanging >= 0)
        close(hanging);
    return NULL;
}

static void start_liar(struct liar *liar, const char *answer)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(LIAR_PORT),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    *liar = (struct liar){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .answer = answer};
    setsockopt(liar->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(liar->fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(liar->fd, 16), 0);
    assert_int_equal(pthread_create(&liar->thread, NULL, lie, liar), 0);
}

static void stop_liar(struct liar *liar)
{
    atomic_store(&liar->stop, true);
    pthread_join(liar->thread, NULL);
    close(liar->fd);
}

#define OK "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"

static void test_lying_controller(void **state)
{
    (void)state;
    static const char *const urls[] = {"http://127.0.0.1:8099", NULL};
    static const char *const answers[] = {
        "\x01\x02garbage\xff\xfe",
        OK,
        OK "no json",
        OK "{}",
        OK "[\"161\", null, {}]",
        OK "[161]",
        OK "[1e400]",
        OK "[[[[[[[[[[[[[[[[[[[[",
        "HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n{\"error\":\"two\\nlines \\u001b[31m\"}",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:8080/stats/switches\r\n"
        "Connection: close\r\n\r\n",
        /* every question is answered with the same list of things that are no flows */
        OK "[161, 177]",
        "",
        NULL,
    };
    struct fm_sdn_config config = sdn_lab_config(urls);
    config.timeout_ms = 500;
    struct fm_follower other;
    struct fm_error err = {0};
    assert_int_equal(fm_sdn_open(&config, &other, &err), 0);
    for (size_t i = 0; i < FM_COUNT(answers); i++) {
        struct liar liar;
        json_t *before = NULL;
        start_liar(&liar, answers[i]);
        err = (struct fm_error){0};
        uint64_t started = fm_now_ms();
        int rc = try_read(&other, &before, &err);
        uint64_t took = fm_now_ms() - started;
        stop_liar(&liar);
        print_message("  after %u ms: %s\n", (unsigned)took, err.text);
        assert_true(rc < 0);
        assert_null(before);
        assert_true(took < 500 + SLACK_MS);
        assert_non_null(strstr(err.text, urls[0]));
        for (const char *c = err.text; *c; c++)
            assert_true(*c >= ' ');
    }
    fm_sdn_close(&other);
}

/* The last one: the switch comes back without any flow. */
static void test_lost_switch(void **state)
{
    (void)state;
    json_t *before = do_read();
    do_step(follower.ops->prepare, before);
    kill(lab.vswitchd[1], SIGKILL);
    waitpid(lab.vswitchd[1], NULL, 0);
    sdn_lab_await(CONTROLLER, SWB_DPID, false);
    do_fail(follower.ops->prepare, before, CONTROLLER, "'swb'");
    do_fail(follower.ops->switch_over, before, CONTROLLER, "'swb'");
    sdn_lab_start_vswitchd(&lab, 1);
    sdn_lab_await(CONTROLLER, SWB_DPID, true);
    do_step(follower.ops->switch_over, before);
    fm_autofree char *b = sdn_lab_dump("swb");
    assert_non_null(strstr(b, "priority=20000,dl_dst=" CONTAINER_MAC " actions=output:1"));
    do_step(follower.ops->undo, before);
    fm_autofree char *a = sdn_lab_dump("*");
    assert_null(strstr(a, "0x464d53444e"));
    json_decref(before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_cancelled_while_it_waits, reset),
        cmocka_unit_test_setup(test_slow_controller, reset),
        cmocka_unit_test_setup(test_dead_controller, reset),
        cmocka_unit_test_setup(test_slow_switch, reset),
        cmocka_unit_test_setup(test_foreign_flow_in_the_way, reset),
        cmocka_unit_test_setup(test_changed_meanwhile, reset),
        cmocka_unit_test_setup(test_refused_flow, reset),
        cmocka_unit_test_setup(test_lying_controller, reset),
        cmocka_unit_test_setup(test_lost_switch, reset),
    };
    return cmocka_run_group_tests(tests, start_lab, stop_lab);
}
