/* What preflight sees in real processes: each test makes one with the trait in question. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "migration/preflight.h"

#define MIB (1024 * 1024)

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* ---- a process that stands still for the test ---- */

enum { READY = '+', MISSING = '-' }; /* what it reports; MISSING: this kernel has no such thing */

struct subject {
    pid_t pid;
    int report; /* read end */
    int life;   /* write end: it ends when this is closed */
};

struct trait {
    char (*set_up)(int inherited); /* in the subject; returns READY or MISSING */
    int inherited;                 /* a descriptor it keeps, or -1 */
    bool keep_stdio;               /* else it opens /dev/null of its own mount namespace */
    bool keep_namespaces;          /* else it gets its own, as a container's init */
};

#define OWN_NAMESPACES (CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

static void close_all_but(int a, int b, int c)
{
    for (int fd = 3; fd < 256; fd++) {
        if (fd != a && fd != b && fd != c)
            close(fd);
    }
}

static void open_stdio(void)
{
    int null = open("/dev/null", O_RDWR);

    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    close(null);
}

static void be_subject(const struct trait *trait, int report, int life)
{
    char c;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!trait->keep_namespaces && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        _exit(1);
    close_all_but(report, life, trait->inherited);
    if (!trait->keep_stdio)
        open_stdio();
    c = trait->set_up ? trait->set_up(trait->inherited) : READY;
    if (write(report, &c, 1) == 1 && read(life, &c, 1) == 0)
        _exit(0);
    _exit(1);
}

static char subject_start(struct subject *s, const struct trait *trait)
{
    int report[2], life[2];
    char c = 0;

    assert_int_equal(pipe2(report, O_CLOEXEC) | pipe2(life, O_CLOEXEC), 0);
    s->pid = (pid_t)syscall(SYS_clone, (trait->keep_namespaces ? 0 : OWN_NAMESPACES) | SIGCHLD, 0,
                            0, 0, 0);
    assert_true(s->pid >= 0);
    if (s->pid == 0)
        be_subject(trait, report[1], life[0]);
    close(report[1]);
    close(life[0]);
    s->report = report[0];
    s->life = life[1];
    assert_int_equal(read(s->report, &c, 1), 1);
    return c;
}

static void subject_end(struct subject *s)
{
    close(s->life);
    close(s->report);
    waitpid(s->pid, NULL, 0);
}

/* ---- looking at it ---- */

static char test_name[] = "subject";
static struct fm_container container = {.name = test_name};

static const json_t *obstacle_of(const json_t *needs, const char *check)
{
    const json_t *obstacle;
    size_t i;

    json_array_foreach(json_object_get(needs, "obstacles"), i, obstacle)
    {
        if (fm_streq(json_string_value(json_object_get(obstacle, "check")), check))
            return obstacle;
    }
    return NULL;
}

static const char *text_of(const json_t *obstacle, const char *key)
{
    return json_string_value(json_object_get(obstacle, key));
}

static void fail_with(const json_t *needs, const char *what)
{
    char *dump = json_dumps(json_object_get(needs, "obstacles"), JSON_INDENT(1));

    print_error("%s: %s\n", what, dump);
    free(dump);
    fail();
}

static json_t *needs_of(const pid_t *pids, size_t count)
{
    struct fm_error err = {0};
    json_t *needs = fm_facts_container(&container, pids, count, &err);

    if (!needs)
        fail_msg("%s", err.text);
    return needs;
}

/* Exactly this obstacle is found, with its cure and this word in the message. */
static void expect_only(const json_t *needs, const char *check, const char *severity,
                        const char *word)
{
    const json_t *obstacle = obstacle_of(needs, check);

    if (!obstacle || json_array_size(json_object_get(needs, "obstacles")) != 1)
        fail_with(needs, check);
    assert_string_equal(text_of(obstacle, "severity"), severity);
    if (!strstr(text_of(obstacle, "message"), word))
        fail_with(needs, word);
    assert_true(strlen(text_of(obstacle, "cure")) > 0);
}

static void expect_trait(const struct trait *trait, const char *check, const char *severity,
                         const char *word)
{
    struct subject s;
    char report = subject_start(&s, trait);

    if (report == READY) {
        json_auto_t *needs = needs_of(&s.pid, 1);

        expect_only(needs, check, severity, word);
    }
    subject_end(&s);
    if (report == MISSING)
        skip();
    assert_int_equal(report, READY);
}

/* ---- what CRIU can dump is no obstacle ---- */

static char use_everything_ordinary(int inherited)
{
    static char seen[16];
    struct sockaddr_nl all = {.nl_family = AF_NETLINK};
    struct itimerspec in_an_hour = {.it_value.tv_sec = 3600};
    int pair[2], ends[2];
    int shm = shmget(IPC_PRIVATE, 4096, 0600);
    sigset_t set;
    int fd, tcp;

    (void)inherited;
    sigemptyset(&set);
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    if (eventfd(1, 0) < 0 || epoll_create1(0) < 0 || signalfd(-1, &set, 0) < 0 || pipe(ends) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 || inotify_init() < 0)
        return '1';
    fd = timerfd_create(CLOCK_MONOTONIC, 0);
    timerfd_settime(fd, 0, &in_an_hour, NULL);
    tcp = socket(AF_INET, SOCK_STREAM, 0);
    if (listen(tcp, 5) < 0 || socket(AF_INET6, SOCK_DGRAM, 0) < 0 ||
        socket(AF_INET, SOCK_RAW, 1) < 0)
        return '2';
    if (socket(AF_PACKET, SOCK_RAW, 0) < 0 ||
        bind(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), (void *)&all, sizeof(all)) < 0)
        return '3';
    fd = open("/tmp/unlinked", O_CREAT | O_RDWR, 0600);
    if (fd < 0 || unlink("/tmp/unlinked") < 0 || lockf(fd, F_LOCK, 1) < 0)
        return '4';
    fd = memfd_create("memory", 0);
    if (ftruncate(fd, 4096) < 0 || mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
        return '5';
    if (shm < 0 || shmat(shm, NULL, 0) == (void *)-1 || shmctl(shm, IPC_RMID, NULL) < 0)
        return '6';
    if (syscall(SYS_pidfd_open, getpid(), 0) < 0 || open("/proc/self/ns/net", O_RDONLY) < 0)
        return '7';
    if (open("/dev/urandom", O_RDONLY) < 0 || mkfifo("/tmp/fifo", 0600) < 0 ||
        open("/tmp/fifo", O_RDWR) < 0)
        return '8';
    return getcwd(seen, 1) || errno == ERANGE ? READY : '9';
}

static void ordinary_things_are_no_obstacle(void **state)
{
    struct trait trait = {.set_up = use_everything_ordinary, .inherited = -1};
    struct subject s;
    char report;

    (void)state;
    report = subject_start(&s, &trait);
    assert_int_equal(report, READY);
    json_auto_t *needs = needs_of(&s.pid, 1);
    if (json_array_size(json_object_get(needs, "obstacles")))
        fail_with(needs, "unexpected");
    assert_true(json_integer_value(json_object_get(needs, "memory_bytes")) > 0);
    assert_true(json_integer_value(json_object_get(needs, "memory_bytes")) < 16 * MIB);
    subject_end(&s);
}

/* ---- descriptors ---- */

static char open_io_uring(int inherited)
{
    char params[120] = {0};

    (void)inherited;
    return syscall(SYS_io_uring_setup, 4, params) >= 0 ? READY : MISSING;
}

static void io_uring_is_found(void **state)
{
    struct trait trait = {.set_up = open_io_uring, .inherited = -1};

    (void)state;
    expect_trait(&trait, "io-uring", "error", "io_uring");
}

static char map_io_uring(int inherited)
{
    char params[120] = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 4, params);
    void *ring;

    (void)inherited;
    if (fd < 0)
        return MISSING;
    ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return ring == MAP_FAILED ? '1' : READY;
}

static void a_mapped_ring_without_a_descriptor_is_found(void **state)
{
    struct trait trait = {.set_up = map_io_uring, .inherited = -1};

    (void)state;
    expect_trait(&trait, "kernel-mapping", "error", "[io_uring]");
}

static char open_userfaultfd(int inherited)
{
    (void)inherited;
    return syscall(SYS_userfaultfd, O_CLOEXEC) >= 0 ? READY : MISSING;
}

static void userfaultfd_is_found(void **state)
{
    struct trait trait = {.set_up = open_userfaultfd, .inherited = -1};

    (void)state;
    expect_trait(&trait, "userfaultfd", "error", "userfaultfd");
}

static char open_perf_event(int inherited)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(attr),
        .config = PERF_COUNT_SW_CPU_CLOCK,
    };

    (void)inherited;
    return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) >= 0 ? READY : MISSING;
}

static void perf_events_are_found(void **state)
{
    struct trait trait = {.set_up = open_perf_event, .inherited = -1};

    (void)state;
    expect_trait(&trait, "perf-event", "error", "performance counter");
}

static void a_pidfd_of_a_stranger_is_found(void **state)
{
    fm_autoclose int stranger = (int)syscall(SYS_pidfd_open, getpid(), 0);
    struct trait trait = {.inherited = stranger};

    (void)state;
    assert_true(stranger >= 0);
    expect_trait(&trait, "pidfd", "error", "not in the container");
}

static void a_namespace_of_the_host_is_found(void **state)
{
    fm_autoclose int ns = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
    struct trait trait = {.inherited = ns};

    (void)state;
    expect_trait(&trait, "external-namespace", "error", "uts:[");
}

static void a_file_outside_is_found(void **state)
{
    fm_autoclose int file = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    struct trait trait = {.inherited = file};

    (void)state;
    expect_trait(&trait, "external-file", "error", "/etc/passwd");
}

static char write_to_inherited(int inherited)
{
    return dup2(inherited, 1) == 1 && close(inherited) == 0 ? READY : '1';
}

static void stdio_to_a_file_of_the_host_is_found(void **state)
{
    fm_autoclose int file = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    struct trait trait = {.set_up = write_to_inherited, .inherited = file};

    (void)state;
    assert_true(file >= 0);
    expect_trait(&trait, "external-stdio", "error", "standard output");
}

static char keep_large_unlinked_file(int inherited)
{
    int fd;

    (void)inherited;
    mount("tmpfs", "/mnt", "tmpfs", 0, "size=1g");
    fd = open("/mnt/large", O_CREAT | O_RDWR, 0600);
    if (unlink("/mnt/large") < 0 || fallocate(fd, 0, 0, 600 * MIB) < 0)
        return MISSING; /* no room for it */
    return READY;
}

static void a_large_removed_file_is_found(void **state)
{
    struct trait trait = {.set_up = keep_large_unlinked_file, .inherited = -1};

    (void)state;
    expect_trait(&trait, "unlinked-file", "error", "600.0 MiB");
}

static char open_device(int inherited)
{
    (void)inherited;
    mount("tmpfs", "/mnt", "tmpfs", 0, NULL);
    if (mknod("/mnt/device", S_IFCHR | 0600, makedev(10, 229)) < 0) /* fuse */
        return MISSING;
    return open("/mnt/device", O_RDWR) >= 0 ? READY : MISSING;
}

static void an_open_device_is_found(void **state)
{
    struct trait trait = {.set_up = open_device, .inherited = -1};

    (void)state;
    expect_trait(&trait, "device", "error", "/mnt/device");
}

/* ---- sockets ---- */

static char open_vsock(int inherited)
{
    (void)inherited;
    return socket(AF_VSOCK, SOCK_STREAM, 0) >= 0 ? READY : MISSING;
}

static void a_vsock_is_found(void **state)
{
    struct trait trait = {.set_up = open_vsock, .inherited = -1};

    (void)state;
    expect_trait(&trait, "socket", "error", "VSOCK");
}

static char open_mptcp(int inherited)
{
    (void)inherited;
    return socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP) >= 0 ? READY : MISSING;
}

static void multipath_tcp_is_found(void **state)
{
    struct trait trait = {.set_up = open_mptcp, .inherited = -1};

    (void)state;
    expect_trait(&trait, "socket", "error", "MPTCP");
}

static struct sockaddr_un host_service = {.sun_family = AF_UNIX};

static char connect_to_host(int inherited)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)inherited;
    return connect(fd, (void *)&host_service, sizeof(host_service)) == 0 ? READY : '1';
}

/* As with a mounted docker.sock: the path leads out, whatever the network namespace. */
static void a_unix_connection_to_the_outside_is_found(void **state)
{
    struct trait trait = {.set_up = connect_to_host, .inherited = -1};
    fm_autoclose int service = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fm_autoclose int accepted = -1;
    struct subject s;

    (void)state;
    snprintf(host_service.sun_path, sizeof(host_service.sun_path), "/dev/shm/fm-test-facts.%d",
             getpid());
    assert_int_equal(bind(service, (void *)&host_service, sizeof(host_service)), 0);
    assert_int_equal(listen(service, 1), 0);
    assert_int_equal(subject_start(&s, &trait), READY);
    unlink(host_service.sun_path);
    accepted = accept(service, NULL, NULL);
    json_auto_t *needs = needs_of(&s.pid, 1);
    expect_only(needs, "external-socket", "error", "outside");
    subject_end(&s);
}

/* Asks for the list of interfaces and does not read the answer. */
static char leave_netlink_unread(int inherited)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg body;
    } request = {
        .header = {.nlmsg_len = sizeof(request),
                   .nlmsg_type = RTM_GETLINK,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
    };
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

    (void)inherited;
    return send(fd, &request, sizeof(request), 0) == sizeof(request) ? READY : '1';
}

static void unread_netlink_messages_are_found(void **state)
{
    struct trait trait = {.set_up = leave_netlink_unread, .inherited = -1};

    (void)state;
    expect_trait(&trait, "netlink-data", "warning", "unread");
}

/* ---- the process itself ---- */

static char work_in_removed_directory(int inherited)
{
    (void)inherited;
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    return mkdir("/tmp/gone", 0700) == 0 && chdir("/tmp/gone") == 0 && rmdir("/tmp/gone") == 0
               ? READY
               : '1';
}

static void a_removed_working_directory_is_found(void **state)
{
    struct trait trait = {.set_up = work_in_removed_directory, .inherited = -1};

    (void)state;
    expect_trait(&trait, "deleted-directory", "warning", "removed");
}

static void a_traced_process_is_found(void **state)
{
    struct trait trait = {.inherited = -1};
    struct subject s;

    (void)state;
    assert_int_equal(subject_start(&s, &trait), READY);
    assert_int_equal(ptrace(PTRACE_SEIZE, s.pid, 0, 0), 0);
    json_auto_t *needs = needs_of(&s.pid, 1);
    expect_only(needs, "traced", "error", "is traced by");
    subject_end(&s);
}

static char own_interface(int inherited)
{
    struct ifreq request = {.ifr_name = "extra0", .ifr_flags = IFF_TUN | IFF_NO_PI};
    int fd;

    (void)inherited;
    mount("tmpfs", "/mnt", "tmpfs", 0, NULL);
    if (mknod("/mnt/tun", S_IFCHR | 0600, makedev(10, 200)) < 0)
        return MISSING;
    fd = open("/mnt/tun", O_RDWR);
    return fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0 ? READY : MISSING;
}

static void an_interface_that_nobody_manages_is_found(void **state)
{
    static char address[] = "10.88.0.5/24";
    struct trait trait = {.set_up = own_interface, .inherited = -1};
    struct subject s;

    (void)state;
    expect_trait(&trait, "interface", "error", "'extra0'");
    container.ip = address; /* now it is the one that we manage */
    assert_int_equal(subject_start(&s, &trait), READY);
    json_auto_t *needs = needs_of(&s.pid, 1);
    container.ip = NULL;
    assert_int_equal(json_array_size(json_object_get(needs, "obstacles")), 0);
    subject_end(&s);
}

static void a_process_of_the_host_shares_its_namespaces(void **state)
{
    struct trait trait = {.inherited = -1, .keep_namespaces = true};
    struct subject s;

    (void)state;
    assert_int_equal(subject_start(&s, &trait), READY);
    json_auto_t *needs = needs_of(&s.pid, 1);
    assert_non_null(obstacle_of(needs, "host-network"));
    assert_non_null(obstacle_of(needs, "host-pid"));
    assert_non_null(obstacle_of(needs, "host-ipc"));
    assert_int_equal(json_array_size(json_object_get(needs, "obstacles")), 3);
    subject_end(&s);
}

/* ---- several processes ---- */

/* The inner process, which the kernel calls 1 in there. */
static char start_inner(int inherited)
{
    char c;
    int pipes[2];

    if (pipe(pipes) < 0 || (inherited < 0 && unshare(CLONE_NEWPID) < 0))
        return '1';
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (write(pipes[1], "x", 1) == 1)
            pause();
        _exit(0);
    }
    return read(pipes[0], &c, 1) == 1 ? READY : '2';
}

static pid_t child_of(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/task/%d/children", pid, pid);
    fm_autofclose FILE *f = fopen(path, "re");
    int child = 0;

    return f && fscanf(f, "%d", &child) == 1 ? child : 0;
}

static void a_nested_pid_namespace_is_found(void **state)
{
    struct trait trait = {.set_up = start_inner, .inherited = -1};
    struct subject s;
    pid_t pids[2];

    (void)state;
    assert_int_equal(subject_start(&s, &trait), READY);
    pids[0] = child_of(s.pid); /* in whatever order they are given */
    pids[1] = s.pid;
    if (pids[0] == 0) {
        subject_end(&s);
        skip();
    }
    json_auto_t *needs = needs_of(pids, 2);
    expect_only(needs, "nested-namespace", "error", "nested pid namespace");

    /* The inner one by itself has no more than namespaces of its own kin. */
    json_auto_t *inner = needs_of(pids, 1);
    assert_null(obstacle_of(inner, "nested-namespace"));
    subject_end(&s);
}

static void a_process_put_into_the_container_is_found(void **state)
{
    struct trait init = {.inherited = -1};
    struct trait stranger = {.inherited = -1, .keep_namespaces = true, .keep_stdio = true};
    struct subject a, b;

    (void)state;
    assert_int_equal(subject_start(&a, &init), READY);
    assert_int_equal(subject_start(&b, &stranger), READY);
    json_auto_t *needs = needs_of((pid_t[]){b.pid, a.pid}, 2);
    expect_only(needs, "exec", "warning", "from outside");
    subject_end(&a);
    subject_end(&b);
}

static char share_memory(int inherited)
{
    char *memory = mmap(NULL, 96 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *own = mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char c;
    int pipes[2];

    (void)inherited;
    memset(memory, 1, 96 * MIB);
    memset(own, 1, 8 * MIB);
    if (pipe(pipes) < 0)
        return '1';
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        memset(memory, 2, 96 * MIB);
        if (write(pipes[1], "x", 1) == 1)
            pause();
        _exit(0);
    }
    return read(pipes[0], &c, 1) == 1 ? READY : '2';
}

static void shared_memory_is_counted_once(void **state)
{
    struct trait trait = {.set_up = share_memory, .inherited = -1};
    json_int_t bytes;
    struct subject s;
    pid_t pids[2];

    (void)state;
    assert_int_equal(subject_start(&s, &trait), READY);
    pids[0] = s.pid;
    pids[1] = child_of(s.pid);
    if (pids[1] == 0) {
        subject_end(&s);
        skip();
    }
    json_auto_t *needs = needs_of(pids, 2);
    bytes = json_integer_value(json_object_get(needs, "memory_bytes"));
    assert_true(bytes >= 104 * MIB);
    assert_true(bytes < 192 * MIB); /* with a sanitizer's own memory */
    assert_int_equal(json_integer_value(json_object_get(needs, "processes")), 2);
    subject_end(&s);
}

/* ---- what the record says ---- */

static char mount_ramfs(int inherited)
{
    (void)inherited;
    return mount("ramfs", "/mnt", "ramfs", 0, NULL) == 0 ? READY : MISSING;
}

static void mounts_devices_and_terminal_come_from_the_configuration(void **state)
{
    static char data[] = "/srv/data", copied[] = "/srv/copied", at_data[] = "/data",
                at_copied[] = "/copied";
    struct fm_volume volumes[] = {
        {.source = data, .target = at_data, .shared = true},
        {.source = copied, .target = at_copied},
    };
    struct trait trait = {.set_up = mount_ramfs, .inherited = -1};
    struct subject s;
    const json_t *mounts;

    (void)state;
    container.config = json_pack("{s:{s:b}, s:[{s:s,s:s,s:s}, {s:s,s:s,s:s,s:[s]}, {s:s,s:s,s:s}], "
                                 "s:{s:[{s:s,s:s,s:i,s:i}]}}",
                                 "process", "terminal", 1, "mounts", "destination", "/proc", "type",
                                 "proc", "source", "proc", "destination", "/etc/hosts", "type",
                                 "none", "source", "/etc/hosts", "options", "rbind", "destination",
                                 "/data", "type", "bind", "source", "/srv/data", "linux", "devices",
                                 "path", "/dev/fuse", "type", "c", "major", 10, "minor", 229);
    container.volumes = volumes;
    container.volume_count = 2;
    assert_int_equal(subject_start(&s, &trait), READY);
    json_auto_t *needs = needs_of(&s.pid, 1);
    json_decref(container.config);
    container = (struct fm_container){.name = test_name};
    subject_end(&s);

    assert_non_null(obstacle_of(needs, "terminal"));
    assert_non_null(strstr(text_of(obstacle_of(needs, "mount"), "severity"), "warning"));
    mounts = json_object_get(needs, "mounts");
    assert_int_equal(json_array_size(mounts), 3);
    assert_string_equal(text_of(json_array_get(mounts, 0), "source"), "/etc/hosts");
    assert_false(json_is_true(json_object_get(json_array_get(mounts, 1), "copied")));
    assert_true(json_is_true(json_object_get(json_array_get(mounts, 2), "copied")));
    assert_int_equal(json_array_size(json_object_get(needs, "devices")), 1);
}

static void a_container_without_processes_is_refused(void **state)
{
    struct fm_error err = {0};

    (void)state;
    assert_null(fm_facts_container(&container, NULL, 0, &err));
    assert_int_equal(err.code, FM_E_REFUSED);
    assert_non_null(strstr(err.text, "no running process"));
}

static void a_process_that_has_just_gone_is_no_trouble(void **state)
{
    struct trait trait = {.inherited = -1};
    struct subject a, gone;

    (void)state;
    assert_int_equal(subject_start(&gone, &trait), READY);
    subject_end(&gone);
    assert_int_equal(subject_start(&a, &trait), READY);
    json_auto_t *needs = needs_of((pid_t[]){gone.pid, a.pid}, 2);
    assert_int_equal(json_array_size(json_object_get(needs, "obstacles")), 0);
    subject_end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ordinary_things_are_no_obstacle),
        cmocka_unit_test(io_uring_is_found),
        cmocka_unit_test(a_mapped_ring_without_a_descriptor_is_found),
        cmocka_unit_test(userfaultfd_is_found),
        cmocka_unit_test(perf_events_are_found),
        cmocka_unit_test(a_pidfd_of_a_stranger_is_found),
        cmocka_unit_test(a_namespace_of_the_host_is_found),
        cmocka_unit_test(a_file_outside_is_found),
        cmocka_unit_test(stdio_to_a_file_of_the_host_is_found),
        cmocka_unit_test(a_large_removed_file_is_found),
        cmocka_unit_test(an_open_device_is_found),
        cmocka_unit_test(a_vsock_is_found),
        cmocka_unit_test(multipath_tcp_is_found),
        cmocka_unit_test(a_unix_connection_to_the_outside_is_found),
        cmocka_unit_test(unread_netlink_messages_are_found),
        cmocka_unit_test(a_removed_working_directory_is_found),
        cmocka_unit_test(a_traced_process_is_found),
        cmocka_unit_test(an_interface_that_nobody_manages_is_found),
        cmocka_unit_test(a_process_of_the_host_shares_its_namespaces),
        cmocka_unit_test(a_nested_pid_namespace_is_found),
        cmocka_unit_test(a_process_put_into_the_container_is_found),
        cmocka_unit_test(shared_memory_is_counted_once),
        cmocka_unit_test(mounts_devices_and_terminal_come_from_the_configuration),
        cmocka_unit_test(a_container_without_processes_is_refused),
        cmocka_unit_test(a_process_that_has_just_gone_is_no_trouble),
    };

    if (geteuid() != 0) {
        print_message("needs root: namespaces of its own\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
