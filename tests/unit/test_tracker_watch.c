/* Flag watch: calls that may change the flags of mappings are noticed, and others are not. */
#include "tracked_child.h"

#include <elf.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>

#include "base/fault.h"
#include "scratch.h"
#include "state/flag_watch.h"

#define GUARD_INSTALL 102 /* MADV_*, Linux 6.13 */
#define COLD 20
#define POPULATE_WRITE 23

/* ---- what children do ---- */

static struct child c;
static char *memory; /* the child's, of 16 pages */

static void advise(int advice)
{
    syscall(SYS_madvise, memory + 4 * PAGE, PAGE, advice);
}

static void do_nothing(void)
{
}

static void advise_about_content(void)
{
    advise(MADV_DONTNEED);
    advise(MADV_FREE);
    advise(MADV_WILLNEED);
    advise(COLD);
    advise(POPULATE_WRITE);
}

static void change_what_maps_show(void)
{
    syscall(SYS_mprotect, memory, PAGE, PROT_READ);
    syscall(SYS_munmap, memory + 8 * PAGE, PAGE);
}

static void not_to_be_dumped(void)
{
    advise(MADV_DONTDUMP);
}

static void there_and_back(void)
{
    advise_about_content();
    advise(MADV_DONTDUMP);
    advise(MADV_DODUMP);
    advise_about_content();
}

static void guard(void)
{
    advise(GUARD_INSTALL);
}

static void advise_itself_from_outside(void)
{
    struct iovec at = {memory, PAGE};
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

    syscall(__NR_process_madvise, fd, &at, 1, MADV_DONTDUMP, 0);
}

static void lock(void)
{
    syscall(SYS_mlock, memory, PAGE);
}

static void lock_on_fault(void)
{
    syscall(SYS_mlock2, memory, PAGE, 1);
}

static void unlock(void)
{
    syscall(SYS_munlock, memory, PAGE);
}

static void unlock_all(void)
{
    syscall(SYS_munlockall);
}

static void control(void)
{
    syscall(SYS_prctl, 67 /* PR_SET_MEMORY_MERGE */, 0, 0, 0, 0);
}

static void map_anew(void)
{
    syscall(SYS_mmap, memory, PAGE, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

static void move(void)
{
    syscall(SYS_mremap, memory, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory + 8 * PAGE);
}

static void grow_heap(void)
{
    syscall(SYS_brk, 0);
}

static void attach_shared_memory(void)
{
    int id = shmget(IPC_PRIVATE, PAGE, 0600);

    syscall(SYS_shmat, id, NULL, 0);
    shmctl(id, IPC_RMID, NULL);
}

static void execute(void)
{
    execl("/bin/sleep", "sleep", "100", NULL);
}

/* Of which the kernel takes events off. */
static void execute_as_another_user(void)
{
    fm_autofree char *path = fm_strf("%s/sleep", scratch);

    execl(path, "sleep", "100", NULL);
}

#ifdef SYS_fork
static void fork_one_that_changes_its_own(void)
{
    if (syscall(SYS_fork) == 0) {
        not_to_be_dumped();
        for (;;)
            pause();
    }
}
#endif

/* ---- a second thread ---- */

/* What it does, and whether it ends then. */
static struct {
    void (*act)(void);
    bool ends;
} second;
static int ready, told, done; /* futexes */

static void tell(int *word)
{
    __atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL);
}

static void await_word(int *word)
{
    while (!__atomic_load_n(word, __ATOMIC_SEQ_CST))
        syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL);
}

/* Ends without the C library, which would give memory back. */
static void *run_second(void *arg)
{
    tell(&ready);
    await_word(&told);
    second.act();
    tell(&done);
    if (second.ends)
        syscall(SYS_exit, 0);
    for (;;)
        pause();
    return arg;
}

static void start_second(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, run_second, NULL);
    await_word(&ready); /* what is under way counts */
    ready = 0;
}

static size_t count_threads(void)
{
    struct stat st;

    return stat("/proc/self/task", &st) == 0 ? st.st_nlink - 2 : 0;
}

static void let_second_act(void)
{
    tell(&told);
    await_word(&done);
    while (second.ends && count_threads() > 1)
        pause_us(100);
}

static void start_second_which_acts(void)
{
    start_second();
    let_second_act();
}

/* ---- watching ---- */

static void (*prepare)(void), (*act)(void);

static void obey(struct board *b)
{
    memory = map_filled(16, 1);
    prepare();
    reach(b, 1);
    act();
    reach(b, 2);
    for (;;)
        pause();
}

static struct fm_flag_watch *open_watch(void)
{
    struct fm_error err = {0};
    struct fm_flag_watch *w = fm_flag_watch_open(&err);

    if (!w)
        fail_msg("%s", err.text);
    return w;
}

static struct fm_flag_watch *watch_child(void)
{
    struct fm_flag_watch *w = open_watch();
    struct fm_error err = {0};

    await(&c, 1);
    if (fm_flag_watch_add(w, c.pid, &err) < 0)
        fail_msg("%s", err.text);
    return w;
}

static bool is_quiet_after(void (*before)(void), void (*then)(void))
{
    struct fm_flag_watch *w;
    bool quiet;

    prepare = before;
    act = then;
    child_start(&c, obey);
    w = watch_child();
    proceed(&c, 1);
    freeze(c.pid);
    quiet = fm_flag_watch_is_quiet(w, c.pid);
    fm_flag_watch_close(w);
    child_end(&c);
    return quiet;
}

/* ---- tests ---- */

static void what_changes_nothing_is_quiet(void **state)
{
    (void)state;
    assert_true(is_quiet_after(do_nothing, do_nothing));
    assert_true(is_quiet_after(not_to_be_dumped, do_nothing)); /* before */
#ifdef __x86_64__
    assert_true(is_quiet_after(do_nothing, change_what_maps_show));
    assert_true(is_quiet_after(do_nothing, fork_one_that_changes_its_own));
#endif
}

static void advice_about_content_is_quiet(void **state)
{
    (void)state;
    if (access("/sys/kernel/tracing/events/syscalls/sys_enter_madvise", F_OK) < 0) {
        print_message("SKIPPED: the kernel does not tell the arguments of calls\n");
        skip();
    }
    assert_true(is_quiet_after(do_nothing, advise_about_content));
}

static void what_changes_flags_is_noticed(void **state)
{
    static void (*const changes[])(void) = {
        not_to_be_dumped,
        there_and_back,
        guard,
        advise_itself_from_outside,
        lock,
        lock_on_fault,
        unlock,
        unlock_all,
        control,
        map_anew,
        move,
        grow_heap,
        attach_shared_memory,
    };

    (void)state;
    for (size_t i = 0; i < FM_COUNT(changes); i++) {
        if (is_quiet_after(do_nothing, changes[i]))
            fail_msg("change %zu was not noticed", i);
    }
}

static void every_thread_counts(void **state)
{
    (void)state;
    second.act = do_nothing;
    assert_true(is_quiet_after(start_second, let_second_act));
    second.act = not_to_be_dumped;
    assert_false(is_quiet_after(start_second, let_second_act));
    second.ends = true;
    assert_false(is_quiet_after(start_second, let_second_act));
    second.act = do_nothing;
    assert_true(is_quiet_after(start_second, let_second_act));
    second.ends = false;
}

static void a_later_thread_counts(void **state)
{
    (void)state;
    second.act = not_to_be_dumped;
    assert_false(is_quiet_after(do_nothing, start_second_which_acts));
}

/* The making of a process that shares memory is under way, and is counted as it returns. */
static void share_memory(struct board *b)
{
    if (syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0) {
        reach(b, 1);
        syscall(SYS_exit, 0);
    }
    reach(b, 2);
    for (;;)
        pause();
}

static void what_was_under_way_counts(void **state)
{
    struct fm_flag_watch *w;

    (void)state;
    child_start(&c, share_memory);
    w = watch_child();
    proceed(&c, 1);
    freeze(c.pid);
    assert_false(fm_flag_watch_is_quiet(w, c.pid));
    fm_flag_watch_close(w);
    child_end(&c);
}

static void await_program(pid_t pid, const char *name)
{
    fm_autofree char *path = fm_strf("/proc/%d/comm", (int)pid);
    uint64_t deadline = fm_now_ms() + DEADLINE_MS;

    for (;;) {
        fm_autofree char *line = fm_file_line(path);

        if (line && strcmp(line, name) == 0)
            return;
        if (fm_now_ms() > deadline)
            fail_msg("process %d does not become %s", (int)pid, name);
        pause_us(100);
    }
}

static void another_program_is_noticed(void **state)
{
    static void (*const programs[])(void) = {execute, execute_as_another_user};
    fm_autofree char *copy = fm_strf("%s/sleep", scratch);
    fm_autofree char *command = fm_strf("cp /bin/sleep %s", copy);

    (void)state;
    assert_int_equal(system(command), 0);
    assert_int_equal(chown(copy, 65534, 65534), 0);
    assert_int_equal(chmod(copy, 04755), 0);
    for (size_t i = 0; i < FM_COUNT(programs); i++) {
        prepare = do_nothing;
        act = programs[i];
        child_start(&c, obey);
        struct fm_flag_watch *w = watch_child();
        c.board->step = 1;
        await_program(c.pid, "sleep");
        freeze(c.pid);
        assert_false(fm_flag_watch_is_quiet(w, c.pid));
        fm_flag_watch_close(w);
        child_end(&c);
    }
}

/* ---- who cannot be watched ---- */

static void what_is_not_watched_is_not_quiet(void **state)
{
    struct fm_flag_watch *w = open_watch();
    struct fm_error err = {0};

    (void)state;
    assert_false(fm_flag_watch_is_quiet(NULL, getpid()));
    assert_false(fm_flag_watch_is_quiet(w, getpid()));
    act = prepare = do_nothing;
    child_start(&c, obey);
    await(&c, 1);
    assert_int_equal(fm_flag_watch_add(w, c.pid, &err), 0);
    child_end(&c);
    assert_false(fm_flag_watch_is_quiet(w, c.pid));
    assert_int_equal(fm_flag_watch_add(w, c.pid, &err), -FM_E_REFUSED);
    fm_flag_watch_close(w);
}

static void without_tracepoints_there_is_none(void **state)
{
    struct fm_error err = {0};

    (void)state;
    fm_fault_arm("flag-watch.open=fail");
    assert_null(fm_flag_watch_open(&err));
    assert_int_equal(err.code, FM_E_REFUSED);
    fm_fault_arm(NULL);
}

static size_t open_files(void)
{
    fm_autoclosedir DIR *dir = opendir("/proc/self/fd");
    size_t n = 0;

    while (readdir(dir))
        n++;
    return n;
}

static void start_many(void)
{
    for (int i = 0; i < 40; i++)
        start_second();
}

static void too_many_threads_are_refused(void **state)
{
    struct rlimit usual, few = {0};
    struct fm_error err = {0};
    struct fm_flag_watch *w;
    size_t before = open_files();

    (void)state;
    prepare = start_many;
    act = do_nothing;
    child_start(&c, obey);
    await(&c, 1);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    few = (struct rlimit){64, usual.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    w = open_watch();
    assert_int_equal(fm_flag_watch_add(w, c.pid, &err), -FM_E_REFUSED);
    assert_false(fm_flag_watch_is_quiet(w, c.pid));
    assert_int_equal(open_files(), before);
    fm_flag_watch_close(w);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
    w = open_watch();
    assert_int_equal(fm_flag_watch_add(w, c.pid, &err), 0);
    freeze(c.pid);
    assert_true(fm_flag_watch_is_quiet(w, c.pid));
    fm_flag_watch_close(w);
    assert_int_equal(open_files(), before);
    child_end(&c);
}

#ifdef __x86_64__
/* Waits for ever: pause by the number of 32-bit programs, again and again. */
static void write_narrow_program(const char *path)
{
    static const struct {
        Elf32_Ehdr head;
        Elf32_Phdr load;
        unsigned char code[16];
    } program = {
        .head = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB,
                             EV_CURRENT},
                 .e_type = ET_EXEC,
                 .e_machine = EM_386,
                 .e_version = EV_CURRENT,
                 .e_entry = 0x10000 + sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr),
                 .e_phoff = sizeof(Elf32_Ehdr),
                 .e_ehsize = sizeof(Elf32_Ehdr),
                 .e_phentsize = sizeof(Elf32_Phdr),
                 .e_phnum = 1},
        .load = {.p_type = PT_LOAD,
                 .p_vaddr = 0x10000,
                 .p_filesz = sizeof(program),
                 .p_memsz = sizeof(program),
                 .p_flags = PF_R | PF_X,
                 .p_align = 0x1000},
        .code = {0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7},
    };
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, &program, sizeof(program)), sizeof(program));
    close(fd);
}

static void execute_narrow(void)
{
    fm_autofree char *path = fm_strf("%s/narrow", scratch);

    execl(path, "narrow", NULL);
}

static void a_program_with_other_numbers_is_refused(void **state)
{
    fm_autofree char *path = fm_strf("%s/narrow", scratch);
    struct fm_flag_watch *w = open_watch();
    struct fm_error err = {0};

    (void)state;
    write_narrow_program(path);
    prepare = do_nothing;
    act = execute_narrow;
    child_start(&c, obey);
    await(&c, 1);
    c.board->step = 1;
    await_program(c.pid, "narrow");
    assert_int_equal(fm_flag_watch_add(w, c.pid, &err), -FM_E_REFUSED);
    fm_flag_watch_close(w);
    child_end(&c);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_changes_nothing_is_quiet),
        cmocka_unit_test(advice_about_content_is_quiet),
        cmocka_unit_test(what_changes_flags_is_noticed),
        cmocka_unit_test(every_thread_counts),
        cmocka_unit_test(a_later_thread_counts),
        cmocka_unit_test(what_was_under_way_counts),
        cmocka_unit_test(another_program_is_noticed),
        cmocka_unit_test(what_is_not_watched_is_not_quiet),
        cmocka_unit_test(without_tracepoints_there_is_none),
        cmocka_unit_test(too_many_threads_are_refused),
#ifdef __x86_64__
        cmocka_unit_test(a_program_with_other_numbers_is_refused),
#endif
    };
    struct fm_error err = {0};
    struct fm_flag_watch *w = fm_flag_watch_open(&err);

    if (!w) {
        print_message("SKIPPED: %s\n", err.text);
        return 77;
    }
    fm_flag_watch_close(w);
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
