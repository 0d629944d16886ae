/* The verifier in the laboratory: a service that is ill, dependencies that are slow, and a third
 * host that asks for an address while its container moves. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "net_actors.h"
#include "net_scene.h"
#include "network/verifier.h"

#define BUSY_MS 400 /* what a busy machine may add */

static pid_t web_start(const struct scene *s)
{
    fm_autofree char *html = fm_strf("%s/verifier", lab_run_dir(&host_a));
    fm_autofree char *enter = fm_strf("--net=%s", s->a);
    free(lab_sh(s->a,
                "mkdir -p %s/cgi-bin; cd %s; echo fine >fine; cd cgi-bin; "
                "printf '#!/bin/sh\\necho x >>%s/asked\\n"
                "printf \"Status: 503 ill\\\\r\\\\n\\\\r\\\\n\"\\n' >ill; "
                "printf '#!/bin/sh\\nsleep 0.8\\nprintf \"\\\\r\\\\nslow\"\\n' >slow; "
                /* Whoever reads our output does not wait for it. */
                "printf '#!/bin/sh\\nexec sleep 10 2>/dev/null\\n' >never; "
                "chmod 755 ill slow never",
                html, html, html));
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("nsenter", "nsenter", enter, "busybox", "httpd", "-f", "-p", "8080", "-h", html,
               NULL);
        _exit(127);
    }
    struct fm_health_check check = {.kind = "tcp",
                                    .target = ":8080",
                                    .address = SERVER_IP,
                                    .netns = s->client,
                                    .attempts = 200,
                                    .interval_ms = 20,
                                    .timeout_ms = 1000};
    struct fm_error err = {0};
    if (fm_verify_health(&check, NULL, &err) < 0)
        fail_msg("%s", err.text);
    return pid;
}

static void web_stop(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_health(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    pid_t web = web_start(&s);
    struct fm_error err = {0};
    char report[FM_VERIFY_REPORT] = "";
    struct fm_health_check check = {.kind = "http",
                                    .target = "http://:8080/cgi-bin/ill",
                                    .address = SERVER_IP,
                                    .netns = s.client,
                                    .attempts = 3,
                                    .interval_ms = 50,
                                    .timeout_ms = 2000};
    assert_int_equal(fm_verify_health(&check, report, &err), -FM_E_FAILED);
    printf("  %s\n", err.text);
    assert_non_null(
        strstr(err.text, "health check http://" SERVER_IP ":8080/cgi-bin/ill answered 503 in "));
    assert_non_null(strstr(err.text, " ms (3 attempts)"));
    assert_non_null(strstr(report, "answered 503"));
    fm_autofree char *asked =
        lab_sh(s.a, "wc -l <%s/verifier/asked", lab_run_dir(&host_a)); /* that often, no less */
    assert_int_equal(atoi(asked), 3);

    check.attempts = 1000;
    check.limit_ms = 300;
    uint64_t since = fm_now_ms();
    assert_int_equal(fm_verify_health(&check, report, &err), -FM_E_FAILED);
    printf("  %s\n", err.text);
    assert_non_null(strstr(err.text, "within the limit of 300 ms"));
    assert_true(fm_now_ms() - since < 300 + BUSY_MS);
    check.target = "http://:8080/cgi-bin/never"; /* one attempt must not exceed it either */
    check.timeout_ms = 60000;
    since = fm_now_ms();
    assert_int_equal(fm_verify_health(&check, report, &err), -FM_E_FAILED);
    printf("  %s\n", err.text);
    assert_true(fm_now_ms() - since < 300 + BUSY_MS);
    web_stop(web);
    stop_hosts();
}

static struct fm_dependency dependency(const char *text)
{
    struct fm_dependency d;
    struct fm_error err = {0};
    if (fm_dependency_parse(text, &d, &err) < 0)
        fail_msg("%s", err.text);
    d.attempts = 2;
    d.interval_ms = 50;
    return d;
}

static void assert_depends(const struct scene *s, const char *text, const char *says)
{
    struct fm_dependency d = dependency(text);
    struct fm_error err = {0};
    char report[FM_VERIFY_REPORT] = "";
    int rc = fm_verify_dependency(&d, s->client, 0, report, &err);
    printf("  %s\n", rc < 0 ? err.text : report);
    assert_int_equal(rc, says ? -FM_E_FAILED : 0);
    if (says && !strstr(err.text, says))
        fail_msg("no '%s'", says);
}

/* A listener whose queue is full: the kernel asks again after a second. `accept_ms` later there is
 * room. */
static pid_t crowded_start(const struct scene *s, unsigned accept_ms)
{
    struct sockaddr_storage address;
    socklen_t len = net_address(SERVER_IP, 5432, &address);
    int fd = lab_socket(s->a, AF_INET, SOCK_STREAM);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(fd, 0), 0);
    int first = lab_socket(s->client, AF_INET, SOCK_STREAM);
    assert_int_equal(connect(first, (struct sockaddr *)&address, len), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        lab_sleep_ms(accept_ms);
        for (;;)
            accept(fd, NULL, NULL);
    }
    close(fd);
    return pid;
}

static void test_dependencies(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    pid_t web = web_start(&s);
    assert_depends(&s, "http://" SERVER_IP ":8080/fine,500ms", NULL);
    assert_depends(&s, "tcp://" SERVER_IP ":8080,500ms", NULL);
    assert_depends(&s, "http://" SERVER_IP ":8080/cgi-bin/slow,3s", NULL);
    assert_depends(&s, "http://" SERVER_IP ":8080/cgi-bin/slow,500ms", " ms, allowed 500 ms (2 ");
    assert_depends(&s, "http://" SERVER_IP ":8080/cgi-bin/ill,500ms",
                   "does not work: answered 503 (2 attempts)");
    assert_depends(&s, "http://" SERVER_IP ":8080/cgi-bin/never,100ms",
                   "does not answer within 1100 ms, allowed 100 ms (2 attempts)");
    assert_depends(&s, "tcp://" SERVER_IP ":8081,500ms",
                   "does not work: Connection refused (2 attempts)");
    assert_depends(&s, "tcp://10.88.0.77:5432,10ms", "does not ");

    /* Connected in a second: twice too slow; but the attempt after that finds room. */
    pid_t crowded = crowded_start(&s, 700);
    struct fm_dependency d = dependency("tcp://" SERVER_IP ":5432,500ms");
    struct fm_error err = {0};
    d.attempts = 1;
    assert_int_equal(fm_verify_dependency(&d, s.client, 0, NULL, &err), -FM_E_FAILED);
    printf("  %s\n", err.text);
    unsigned ms = 0;
    assert_int_equal(sscanf(err.text, "dependency tcp://" SERVER_IP ":5432 answers in %u ms", &ms),
                     1);
    assert_true(ms >= 900 && ms < 1400);
    assert_non_null(strstr(err.text, "allowed 500 ms (1 attempt)"));
    assert_depends(&s, "tcp://" SERVER_IP ":5432,500ms", NULL);
    web_stop(crowded);

    crowded = crowded_start(&s, 60000); /* nothing within the limit of all attempts */
    d.attempts = 100;
    uint64_t since = fm_now_ms();
    assert_int_equal(fm_verify_dependency(&d, s.client, 400, NULL, &err), -FM_E_FAILED);
    printf("  %s\n", err.text);
    assert_true(fm_now_ms() - since < 400 + BUSY_MS);
    web_stop(crowded);
    web_stop(web);
    stop_hosts();
}

/* ---- a third host's point of view ---- */

static int reach(const struct fm_reach *how, struct fm_reach_answer *answer, struct fm_error *err)
{
    *err = (struct fm_error){0};
    int rc = fm_verify_reachable(how, answer, err);
    if (rc == 0)
        printf("  %s answers, %s after %.2f ms\n", how->address, answer->mac,
               (double)answer->latency_us / 1000.0);
    else
        printf("  %s\n", err->text);
    return rc;
}

/* Each host asks before, during and after a move. */
static void follow_move(const char *name, const char *ip, const char *bridge, const char *client)
{
    struct lab_request q = {.op = LAB_ENDPOINT};
    snprintf(q.name, sizeof(q.name), "%s", name);
    snprintf(q.ip, sizeof(q.ip), "%s", ip);
    struct lab_reply known = lab_call(&host_a, q);
    const char *const views[] = {host_a.netns, host_b.netns, host_c.netns, client};
    struct fm_reach_answer answer;
    struct fm_error err;
    for (int moved = 0; moved <= 1; moved++) {
        for (size_t i = 0; i < FM_COUNT(views); i++) {
            struct fm_reach how = {.address = ip,
                                   .netns = views[i],
                                   .interface = views[i] == client ? "eth0" : bridge,
                                   .mac = known.ep.mac};
            assert_int_equal(reach(&how, &answer, &err), 0);
            assert_string_equal(answer.mac, known.ep.mac);
        }
        if (moved)
            break;
        q.op = LAB_DEACTIVATE; /* neither host has it now */
        lab_call(&host_a, q);
        struct fm_reach how = {
            .address = ip, .netns = host_c.netns, .interface = bridge, .timeout_ms = 100};
        assert_int_equal(reach(&how, &answer, &err), -FM_E_UNREACHABLE);
        assert_int_equal(answer.attempts, 3);
        assert_non_null(strstr(err.text, "within 100 ms (3 attempts)"));
        q.op = LAB_ACTIVATE;
        lab_call(&host_b, q);
        set_remote(&host_a, ip, host_b.address);
        set_remote(&host_c, ip, host_b.address);
    }
}

static void test_reach(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    struct fm_error err;
    struct fm_reach_answer answer;
    follow_move("server", SERVER_IP, "fmbr0", s.client);

    struct fm_reach how = {.address = SERVER_IP "/16",
                           .netns = host_c.netns,
                           .interface = "fmbr0",
                           .mac = "02:00:00:00:00:01"};
    assert_int_equal(reach(&how, &answer, &err), -FM_E_FAILED);
    assert_non_null(strstr(err.text, "expected 02:00:00:00:00:01"));
    free(lab_sh(host_c.netns, "ip link set fmbr0 down"));
    assert_int_equal(reach(&how, &answer, &err), -FM_E_REFUSED); /* says nothing of the address */
    assert_non_null(strstr(err.text, "interface fmbr0 is down"));
    assert_int_equal(answer.attempts, 1);
    free(lab_sh(host_c.netns, "ip link set fmbr0 up"));
    how.interface = "fmbr9";
    assert_int_equal(reach(&how, &answer, &err), -FM_E_NOT_FOUND);
    how.interface = NULL;
    assert_int_equal(reach(&how, &answer, &err), -FM_E_INVALID);
    how.address = "server";
    assert_int_equal(reach(&how, &answer, &err), -FM_E_INVALID);
    how.address = SERVER_IP;
    how.netns = "/nowhere";
    how.interface = "fmbr0";
    assert_true(reach(&how, &answer, &err) < 0);
    stop_hosts();
}

static void test_reach_by_port(void **state)
{
    (void)state;
    struct scene s = stage_all(false);
    pid_t web = web_start(&s);
    struct fm_error err;
    struct fm_reach_answer answer;
    struct fm_reach how = {.address = SERVER_IP, .netns = s.client, .port = 8080};
    assert_int_equal(reach(&how, &answer, &err), 0);
    assert_int_equal(answer.attempts, 1);
    how.port = 8081;
    assert_int_equal(reach(&how, &answer, &err), -FM_E_UNREACHABLE);
    assert_non_null(strstr(err.text, "does not answer at port 8081: Connection refused"));
    web_stop(web);
    stop_hosts();
}

static void test_reach_ipv6(void **state)
{
    (void)state;
    struct lab_host *hosts[] = {&host_a, &host_b, &host_c};
    start_hosts(false);
    for (size_t i = 0; i < FM_COUNT(hosts); i++) {
        CALL(*hosts[i], LAB_CLOSE);
        CALL(*hosts[i], LAB_OPEN, .name = "6", .ip = "fd00:88::/64", .host = "fd00:88::1",
             .number = 43);
        join_peers(hosts[i], (const struct lab_host *const[]){&host_a, &host_b, &host_c}, 3);
    }
    CALL(host_a, LAB_STAGE, .name = "six", .ip = "fd00:88::5", .flag = true);
    CALL(host_b, LAB_STAGE, .name = "six", .ip = "fd00:88::5");
    struct lab_reply client =
        CALL(host_c, LAB_STAGE, .name = "asker", .ip = "fd00:88::9", .flag = true);
    set_remote(&host_b, "fd00:88::5", host_a.address);
    set_remote(&host_c, "fd00:88::5", host_a.address);
    follow_move("six", "fd00:88::5", "fmbr6", client.ep.netns);
    stop_hosts();
}

int main(void)
{
    if (geteuid() != 0) {
        printf("skipped: needs root for network namespaces\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    lab_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_health),     cmocka_unit_test(test_dependencies),
        cmocka_unit_test(test_reach),      cmocka_unit_test(test_reach_by_port),
        cmocka_unit_test(test_reach_ipv6),
    };
    return cmocka_run_group_tests_name("verifier-lab", tests, NULL, NULL);
}
