/* What preflight sees of a process's descriptors: each test makes a real one with the trait in
 * question. */
#include "subject.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "base/cleanup.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

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

static char keep_file_by_another_name(int inherited)
{
    int fd;

    (void)inherited;
    mount("tmpfs", "/mnt", "tmpfs", 0, NULL);
    fd = open("/mnt/before", O_CREAT | O_RDWR, 0600);
    return fd >= 0 && link("/mnt/before", "/mnt/after") == 0 && unlink("/mnt/before") == 0
               ? READY
               : MISSING;
}

static void a_lost_name_is_found(void **state)
{
    struct trait trait = {.set_up = keep_file_by_another_name, .inherited = -1};

    (void)state;
    expect_trait(&trait, "lost-name", "error", "/mnt/before");
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
    assert_true(accepted >= 0);
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
        cmocka_unit_test(a_lost_name_is_found),
        cmocka_unit_test(an_open_device_is_found),
        cmocka_unit_test(a_vsock_is_found),
        cmocka_unit_test(multipath_tcp_is_found),
        cmocka_unit_test(a_unix_connection_to_the_outside_is_found),
        cmocka_unit_test(unread_netlink_messages_are_found),
    };

    if (geteuid() != 0) {
        print_message("needs root: namespaces of its own\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
