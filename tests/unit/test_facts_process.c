/* What preflight sees of processes, their namespaces and their container's record. */
#include "subject.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"

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
