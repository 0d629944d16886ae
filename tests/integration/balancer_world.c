#include "balancer_world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "network/netlink.h"
#include "network/link.h"

#define READY_TRIES 500

static const char haproxy_config[] = "global\n"
                                     "    stats socket " ADMIN_SOCKET " mode 600 level admin\n"
                                     "    stats socket " USER_SOCKET " mode 600 level user\n"
                                     "    stats socket ipv4@" ADMIN_TCP " level admin\n"
                                     "    stats timeout 2s\n"
                                     "defaults\n"
                                     "    mode http\n"
                                     "    timeout connect 1s\n"
                                     "    timeout client 5s\n"
                                     "    timeout server 5s\n"
                                     "    default-server inter 100ms fall 2 rise 1\n"
                                     /* of its backend's name, as in many a configuration */
                                     "frontend app\n"
                                     "    bind 127.0.0.1:8000\n"
                                     "    default_backend app\n"
                                     "backend app\n"
                                     "    server web " OLD_IP ":8080 weight 50 check\n"
                                     "    server other " OTHER_IP ":8080 weight 100 check\n"
                                     "backend lone\n"
                                     "    server web " OLD_IP ":8080 weight 50\n"
                                     "    server six [::1]:8080 weight 10 disabled\n"
                                     "    server local unix@/nowhere weight 10 disabled\n";

_Noreturn static void die(const char *what)
{
    fprintf(stderr, "balancer_world: %s: %s\n", what, strerror(errno));
    exit(1);
}

void world_sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

static void loopback_up(void)
{
    struct fm_nl nl;
    struct fm_nl_batch batch = {0};
    struct fm_error err = {0};
    fm_link_put_up(&batch, 1);
    if (fm_nl_open(&nl, &err) < 0 || fm_nl_run(&nl, &batch, &err) < 0)
        die(err.text);
    fm_nl_close(&nl);
}

void world_init(void)
{
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", WORLD_DIR, "tmpfs", 0, NULL) < 0)
        die("cannot make namespaces (root is needed)");
    loopback_up();
}

pid_t world_start(const char *const *argv)
{
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    die(argv[0]);
}

void world_stop(pid_t pid)
{
    kill(pid, SIGSTOP);
    waitpid(pid, NULL, WUNTRACED);
}

void world_end(pid_t pid)
{
    kill(pid, SIGCONT);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* A connection to 127.0.0.1 or a path; -1 when there is none. */
static int dial(const char *ip, unsigned port, const char *path)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 5};
    int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (path)
        snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    else
        inet_pton(AF_INET, ip, &in.sin_addr);
    if (connect(fd, path ? (struct sockaddr *)&un : (struct sockaddr *)&in,
                path ? sizeof(un) : sizeof(in)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Sends, and reads until the other side closes; false when that fails. */
static bool exchange(int fd, const char *request, char *answer, size_t size)
{
    fm_autoclose int open = fd;
    size_t len = 0;
    if (open < 0 || send(open, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
        return false;
    for (;;) {
        ssize_t n = recv(open, answer + len, size - len - 1, 0);
        if (n <= 0) {
            answer[len] = '\0';
            return n == 0;
        }
        len += (size_t)n;
    }
}

static void wait_for_port(const char *ip, unsigned port, const char *what)
{
    for (int i = 0; i < READY_TRIES; i++) {
        fm_autoclose int fd = dial(ip, port, NULL);
        if (fd >= 0)
            return;
        world_sleep_ms(10);
    }
    die(what);
}

pid_t web_start(const char *ip, const char *word)
{
    struct fm_error err = {0};
    fm_autofree char *dir = fm_strf(WORLD_DIR "/%s", word);
    fm_autofree char *page = fm_strf("%s/index.html", dir);
    fm_autofree char *port = fm_strf("%s:8080", ip);
    if (fm_mkdir_p(dir, 0755, &err) < 0 || fm_file_write(page, word, strlen(word), 0644, &err) < 0)
        die(err.text);
    const char *argv[] = {"busybox", "httpd", "-f", "-p", port, "-h", dir, NULL};
    pid_t pid = world_start(argv);
    wait_for_port(ip, 8080, "busybox httpd");
    return pid;
}

pid_t haproxy_start(void)
{
    struct fm_error err = {0};
    const char *path = WORLD_DIR "/haproxy.cfg";
    if (fm_file_write(path, haproxy_config, sizeof(haproxy_config) - 1, 0644, &err) < 0)
        die(err.text);
    unlink(ADMIN_SOCKET); /* of one that was killed */
    const char *argv[] = {"haproxy", "-db", "-q", "-f", path, NULL};
    pid_t pid = world_start(argv);
    wait_for_port("127.0.0.1", 8000, "haproxy");
    for (int i = 0; i < READY_TRIES && access(ADMIN_SOCKET, F_OK) < 0; i++)
        world_sleep_ms(10); /* it gets its name last */
    return pid;
}

static void tell(const char *command, char *answer, size_t size)
{
    fm_autofree char *line = fm_strf("%s\n", command);
    if (!exchange(dial(NULL, 0, ADMIN_SOCKET), line, answer, size))
        die(command);
}

void haproxy_tell(const char *command)
{
    char answer[4096];
    tell(command, answer, sizeof(answer));
}

const char *haproxy_server(const char *backend, const char *server)
{
    static char text[128];
    char answer[8192], address[64];
    unsigned weight, port;
    fm_autofree char *command = fm_strf("show servers state %s", backend);
    fm_autofree char *key = fm_strf(" %s ", server);
    tell(command, answer, sizeof(answer));
    const char *row = strstr(answer, key);
    if (!row || sscanf(row, " %*s %63s %*s %*s %u %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %u",
                       address, &weight, &port) != 3)
        die("show servers state");
    snprintf(text, sizeof(text), "%s %u %u", address, port, weight);
    return text;
}

/* ---- clients ---- */

static void *client(void *arg)
{
    struct clients *c = arg;
    char answer[4096];
    while (!c->stop) {
        bool ok = exchange(dial("127.0.0.1", 8000, NULL), "GET / HTTP/1.0\r\n\r\n", answer,
                           sizeof(answer));
        if (!ok || !strstr(answer, " 200 "))
            c->failed++;
        else if (strstr(answer, "\r\n\r\nold"))
            c->old++;
        else if (strstr(answer, "\r\n\r\nother"))
            c->other++;
        else if (strstr(answer, "\r\n\r\nmoved"))
            c->moved++;
        else
            c->failed++;
        world_sleep_ms(3);
    }
    return NULL;
}

void clients_start(struct clients *c)
{
    *c = (struct clients){0};
    for (size_t i = 0; i < FM_COUNT(c->threads); i++)
        pthread_create(&c->threads[i], NULL, client, c);
}

void clients_stop(struct clients *c)
{
    c->stop = true;
    for (size_t i = 0; i < FM_COUNT(c->threads); i++)
        pthread_join(c->threads[i], NULL);
}
