/* The pager as a restore meets it: content, order, beginning and end. */
#include "pager_world.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "state/pager_state.h"

static int check_all(int32_t inner_pid, unsigned char *memory, uint64_t pages, uintptr_t argument)
{
    (void)argument;
    return world_check_all(inner_pid, memory, pages);
}

/* ---- Everything comes ---- */

/* `argument`: a pipe that becomes readable when the pager is done. */
static int check_when_told(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                           uintptr_t argument)
{
    char byte;

    if (read((int)argument, &byte, 1) != 1)
        return 1;
    return world_check_all(inner_pid, memory, pages);
}

/* A task that looks at nothing until it is told. */
static void make_untold(struct world *w, int told[2])
{
    world_make(w);
    world_store(w, 1, 16384, 0);
    assert_return_code(pipe(told), errno);
    world_start(w);
    world_connect(w);
    world_task(w, 1, 16384, check_when_told, (uintptr_t)told[0]);
}

static void tell(struct world *w, const int told[2])
{
    assert_int_equal(write(told[1], "x", 1), 1);
    world_results(w);
    close(told[0]);
    close(told[1]);
}

static void test_background(void **state)
{
    struct world w;
    struct fm_pager_status status;
    int told[2];

    (void)state;
    make_untold(&w, told);
    world_resume(&w);
    status = world_wait_done(&w);
    assert_true(status.resumed);
    assert_int_equal(status.filled_bytes, status.total_bytes);
    assert_true(status.total_bytes > 40 << 20);
    assert_int_equal(status.missing_bytes, 0);
    tell(&w, told);
    assert_int_equal(access(w.control, F_OK), -1);
    world_remove(&w);
}

/* ---- Faults ---- */

struct reader {
    pthread_t thread;
    int32_t inner_pid;
    const unsigned char *memory;
    uint64_t pages, step, wrong;
};

static void *read_in_steps(void *arg)
{
    struct reader *r = arg;
    uint64_t at = r->step % r->pages;

    for (uint64_t i = 0; i < r->pages; i++) {
        r->wrong += !world_page_is(r->memory + at * fm_pager_page(), r->inner_pid, at);
        at = (at + r->step) % r->pages;
    }
    return NULL;
}

static int read_from_threads(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                             uintptr_t argument)
{
    struct reader readers[4];
    uint64_t wrong = 0;

    for (size_t i = 0; i < argument; i++) {
        readers[i] = (struct reader){
            .inner_pid = inner_pid, .memory = memory, .pages = pages, .step = 2 * i + 4099};
        pthread_create(&readers[i].thread, NULL, read_in_steps, &readers[i]);
    }
    for (size_t i = 0; i < argument; i++) {
        pthread_join(readers[i].thread, NULL);
        wrong += readers[i].wrong;
    }
    return wrong > 0;
}

static void test_faults_of_several(void **state)
{
    struct world w;
    struct fm_pager_status status;

    (void)state;
    world_make(&w);
    world_start(&w);
    for (int32_t pid = 1; pid <= 3; pid++)
        world_store(&w, pid, 5000, 0); /* after the pager: it looks when CRIU sends the task */
    world_connect(&w);
    world_number(&w, -9); /* a zombie */
    for (int32_t pid = 1; pid <= 3; pid++)
        world_task(&w, pid, 5000, read_from_threads, 3);
    world_resume(&w);
    world_results(&w);
    status = world_wait_done(&w);
    assert_true(status.faults > 0);
    world_remove(&w);
}

/* Faults that come before the restore is complete are served as well. */
static void test_fault_before_resume(void **state)
{
    struct world w;
    char byte;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 500, 0);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 500, check_all, 0);
    assert_int_equal(write(w.tasks[0].go, "g", 1), 1);
    assert_int_equal(read(w.tasks[0].report, &byte, 1), 1);
    assert_int_equal(byte, '+');
    world_number(&w, 0x52535446);
    world_wait_done(&w);
    world_remove(&w);
}

/* ---- What came last ---- */

static bool is_in_place(const struct world_task *t, uint64_t number)
{
    char path[64];
    uint64_t entry = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)t->pid);
    f = fopen(path, "re");
    assert_non_null(f);
    assert_return_code(
        fseek(f, (long)((WORLD_BASE / fm_pager_page() + number) * sizeof(entry)), SEEK_SET), errno);
    assert_int_equal(fread(&entry, sizeof(entry), 1, f), 1);
    fclose(f);
    return entry >> 63;
}

/* Is filled while the tasks wait for their resume; the rest is not. */
static void test_recent(void **state)
{
    struct world w;
    uint64_t deadline = world_now_us() + 5000000, last = 3010;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 16384, 0);
    world_list(&w, 1, "recent", 3000, last);
    while (world_kind(last - 1) != PAGE_DATA)
        last--;
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 16384, check_all, 0);
    assert_false(is_in_place(&w.tasks[0], last - 1));
    fm_pager_restored(w.pager);
    while (!is_in_place(&w.tasks[0], last - 1)) {
        assert_true(world_now_us() < deadline);
        usleep(1000);
    }
    usleep(20000);
    for (uint64_t i = 0; i < 16384; i++)
        assert_true(is_in_place(&w.tasks[0], i) ==
                    (i >= 3000 && i < 3010 && world_kind(i) == PAGE_DATA));
    world_resume(&w);
    world_results(&w);
    world_wait_done(&w);
    world_remove(&w);
}

/* Just after the resume the background gives the processors to those who had to wait. */
static void test_first_moment(void **state)
{
    struct world w;
    int told[2];
    uint64_t since;
    bool any = false;

    (void)state;
    make_untold(&w, told);
    since = world_now_us();
    world_resume(&w);
    usleep(20000);
    for (uint64_t i = 0; i < 16384; i += 16)
        any |= is_in_place(&w.tasks[0], i);
    if (world_now_us() - since < 90000) /* else the moment was missed */
        assert_false(any);
    world_wait_done(&w);
    tell(&w, told);
    world_remove(&w);
}

/* A hint: a list that is damaged, or of pages that are not there, does no harm. */
static void test_recent_nonsense(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct world w;

        world_make(&w);
        world_store(&w, 1, 500, 0);
        world_list(&w, 1, "recent", kind == 0 ? 100 : 490,
                   kind == 0 ? 90 : 100000 * (uint64_t)kind);
        world_start(&w);
        world_connect(&w);
        world_task(&w, 1, 500, check_all, 0);
        fm_pager_restored(w.pager);
        world_resume(&w);
        world_results(&w);
        world_wait_done(&w);
        world_remove(&w);
    }
}

/* ---- What goes wrong before the container runs ---- */

static void assert_no_pager(struct world *w)
{
    uint64_t deadline = world_now_us() + 5000000;

    while (world_pager_pid(w, "fm-pager") || world_pager_pid(w, "fm-pager-keeper")) {
        assert_true(world_now_us() < deadline);
        usleep(1000);
    }
    assert_int_equal(access(w->control, F_OK), -1);
}

static void test_end_before_resume(void **state)
{
    struct world w;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 100, 0);
    world_start(&w);
    fm_pager_end(w.pager);
    w.pager = NULL;
    assert_no_pager(&w);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 100, check_all, 0);
    fm_pager_end(w.pager);
    w.pager = NULL;
    assert_no_pager(&w);
    world_remove(&w);
}

static void test_daemon_gone_before_resume(void **state)
{
    struct world w;
    int status;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 100, 0);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 100, check_all, 0);
    fm_pager_leave(w.pager);
    w.pager = NULL;
    assert_no_pager(&w);
    /* A task that is half restored must not go on with zeroes. */
    assert_int_equal(waitpid(w.tasks[0].pid, &status, 0), w.tasks[0].pid);
    assert_true(WIFSIGNALED(status));
    world_remove(&w);
}

/* A second attempt of CRIU's begins anew. */
static void test_second_restore(void **state)
{
    struct world w;
    int status;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 3000, 0);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 3000, check_all, 0);
    kill(w.tasks[0].pid, SIGKILL);
    waitpid(w.tasks[0].pid, &status, 0);
    close(w.tasks[0].go);
    close(w.tasks[0].report);
    w.task_count = 0;
    close(w.lazy);
    world_connect(&w);
    world_task(&w, 1, 3000, check_all, 0);
    world_resume(&w);
    world_results(&w);
    world_wait_done(&w);
    world_remove(&w);
}

static void assert_refused(struct world *w, int32_t inner_pid)
{
    char byte;

    world_connect(w);
    world_task(w, inner_pid, 10, check_all, 0);
    assert_true(recv(w->lazy, &byte, 1, 0) <= 0); /* CRIU sees that its connection has ended */
    close(w->lazy);
    w->lazy = -1;
}

static void test_damaged_store(void **state)
{
    struct world w;
    char path[160];
    FILE *f;

    (void)state;
    world_make(&w);
    world_start(&w);
    assert_refused(&w, 1); /* there is none at all */
    world_store(&w, 2, 100, 0);
    snprintf(path, sizeof(path), "%s/2.present", w.store);
    f = fopen(path, "a");
    assert_non_null(f);
    fwrite("\0\0\0\0\0\0\0\0\0\20\0\0\0\0\0\0", 16, 1, f); /* before the others */
    fclose(f);
    assert_refused(&w, 2);
    world_store(&w, 3, 100, 0);
    snprintf(path, sizeof(path), "%s/3.missing", w.store);
    f = fopen(path, "a");
    assert_non_null(f);
    fputs("short", f);
    fclose(f);
    assert_refused(&w, 3);
    world_remove(&w);
}

/* ---- The daemon comes and goes ---- */

static void test_find_none(void **state)
{
    struct world w;
    struct fm_error err = {0};

    (void)state;
    world_make(&w);
    assert_null(fm_pager_find(&w.spec, &err));
    assert_int_equal(err.code, FM_E_NOT_FOUND);
    world_remove(&w);
}

static void test_daemon_comes_again(void **state)
{
    struct world w;
    struct fm_error err = {0};
    uint64_t total;

    (void)state;
    world_make(&w);
    world_store(&w, 1, 60000, 0);
    world_start(&w);
    world_connect(&w);
    world_task(&w, 1, 60000, check_all, 0);
    world_resume(&w);
    for (int i = 0; i < 3 && w.pager; i++) {
        struct fm_pager_status status;

        do /* it must have taken "all restored" in */
            assert_return_code(fm_pager_wait(w.pager, 1000, &status, &err), 0);
        while (!status.resumed);
        fm_pager_leave(w.pager);
        w.pager = fm_pager_find(&w.spec, &err);
        if (!w.pager)
            fail_msg("%s", err.text);
    }
    world_results(&w);
    total = world_wait_done(&w).total_bytes;
    fm_pager_leave(w.pager);
    w.pager = fm_pager_find(&w.spec, &err); /* by now in any case after it is done */
    assert_non_null(w.pager);
    assert_int_equal(world_wait_done(&w).total_bytes, total);
    assert_no_pager(&w);
    world_remove(&w);
}

static void test_probe(void **state)
{
    struct fm_error err = {0};

    (void)state;
    if (fm_pager_probe(&err) < 0)
        fail_msg("%s", err.text);
}

/* ---- Figures: FM_PAGER_FIGURES=MiB ---- */

/* Waits a page's time between faults; prints how long each took. */
static int measure_faults(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                          uintptr_t argument)
{
    uint64_t at = 1, sum = 0, most = 0, over = 0;
    const uint64_t count = argument;

    (void)inner_pid;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t start = world_now_us(), took;

        at = (at * 6364136223846793005ull + 1442695040888963407ull);
        (void)*(volatile unsigned char *)(memory + (at >> 20) % pages * fm_pager_page());
        took = world_now_us() - start;
        sum += took;
        most = took > most ? took : most;
        over += took > 1000;
    }
    fprintf(stderr, "touches: mean %" PRIu64 " us, max %" PRIu64 " us, over 1 ms %" PRIu64 "\n",
            sum / (count ? count : 1), most, over);
    return 0;
}

static void test_figures(void **state)
{
    uint64_t pages, start, took;
    struct fm_pager_status status;
    struct world w;

    (void)state;
    if (!getenv("FM_PAGER_FIGURES"))
        skip();
    pages = strtoull(getenv("FM_PAGER_FIGURES"), NULL, 10) * ((1 << 20) / fm_pager_page());
    for (uint64_t touches = 0; touches <= 2000; touches += 1000) {
        world_make(&w);
        world_store(&w, 1, pages, 0);
        world_start(&w);
        world_connect(&w);
        world_task(&w, 1, pages, measure_faults, touches);
        start = world_now_us();
        world_resume(&w);
        status = world_wait_done(&w);
        took = world_now_us() - start;
        fprintf(stderr,
                "%" PRIu64 " touches: %.2f GB/s (%" PRIu64 " ms), faults %" PRIu64
                ", served within %" PRIu64 " us at most\n",
                touches, (double)status.total_bytes / (double)took / 1000, took / 1000,
                status.faults, status.fault_us_max);
        world_results(&w);
        world_remove(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_background),
        cmocka_unit_test(test_faults_of_several),
        cmocka_unit_test(test_fault_before_resume),
        cmocka_unit_test(test_recent),
        cmocka_unit_test(test_recent_nonsense),
        cmocka_unit_test(test_first_moment),
        cmocka_unit_test(test_end_before_resume),
        cmocka_unit_test(test_daemon_gone_before_resume),
        cmocka_unit_test(test_second_restore),
        cmocka_unit_test(test_damaged_store),
        cmocka_unit_test(test_find_none),
        cmocka_unit_test(test_daemon_comes_again),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_figures),
    };

    cmocka_set_test_filter(getenv("FM_PAGER_TEST"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
