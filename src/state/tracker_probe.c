/* Which trackers work here: each is tried on a child. */
#include "state/tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "state/tracker_backend.h"

#define PAGES 16

/* A child that writes the page whose number it is told. */
struct guinea_pig {
    pid_t pid;
    int orders, answers;
    char *memory; /* at the same address in both */
};

static void obey(const struct guinea_pig *g)
{
    unsigned char page;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read(g->orders, &page, 1) == 1) {
        if (page < PAGES)
            g->memory[page * fm_page_size()]++;
        if (write(g->answers, &page, 1) != 1)
            break;
    }
    _exit(0);
}

static int start(struct guinea_pig *g, struct fm_error *err)
{
    int orders[2], answers[2];

    g->memory = mmap(NULL, PAGES * fm_page_size(), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->memory == MAP_FAILED)
        g->memory = NULL;
    if (!g->memory || pipe2(orders, O_CLOEXEC) < 0)
        return fm_error_errno(err, errno, "cannot try a memory tracker");
    if (pipe2(answers, O_CLOEXEC) < 0) {
        close(orders[0]);
        close(orders[1]);
        return fm_error_errno(err, errno, "cannot try a memory tracker");
    }
    memset(g->memory, 1, PAGES * fm_page_size());
    g->pid = fork();
    if (g->pid == 0) {
        g->orders = orders[0];
        g->answers = answers[1];
        close(orders[1]);
        close(answers[0]);
        obey(g);
    }
    close(orders[0]);
    close(answers[1]);
    g->orders = orders[1];
    g->answers = answers[0];
    return g->pid < 0 ? fm_error_errno(err, errno, "cannot try a memory tracker") : 0;
}

static void end(struct guinea_pig *g)
{
    if (g->orders >= 0)
        close(g->orders);
    if (g->answers >= 0)
        close(g->answers);
    if (g->pid > 0) {
        kill(g->pid, SIGKILL);
        waitpid(g->pid, NULL, 0);
    }
    if (g->memory)
        munmap(g->memory, PAGES * fm_page_size());
}

static bool order(const struct guinea_pig *g, unsigned char page)
{
    return write(g->orders, &page, 1) == 1 && read(g->answers, &page, 1) == 1;
}

/* Of the tried pages, exactly `page` is dirty (PAGES: all of them, NONE: none). */
enum { NONE = PAGES + 1 };

static bool tells(struct fm_tracker *t, const struct guinea_pig *g, unsigned page, bool final,
                  struct fm_error *err)
{
    fm_cleanup(fm_memory_scan_clear) struct fm_memory_scan scan = {0};
    int rc = final ? fm_tracker_final(t, &g->pid, 1, &scan, err)
                   : fm_tracker_round(t, &g->pid, 1, &scan, err);

    if (rc < 0 || scan.count != 1 || !scan.items[0].tracked)
        return false;
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t address = (uintptr_t)g->memory + i * fm_page_size();
        bool expected = page == PAGES || i == page;

        if (fm_ranges_contain(&scan.items[0].dirty, address) != expected ||
            !fm_ranges_contain(&scan.items[0].present, address))
            return false;
    }
    return true;
}

static int try_on(struct fm_tracker *t, const struct guinea_pig *g, struct fm_error *err)
{
    struct fm_error why = {0};
    bool right = order(g, NONE) && tells(t, g, PAGES, false, &why) &&
                 tells(t, g, NONE, false, &why) && order(g, 3) && tells(t, g, 3, false, &why) &&
                 order(g, 5) && tells(t, g, 5, true, &why);

    if (right)
        return 0;
    if (!why.code)
        why = t->refusal;
    if (why.code)
        return fm_error_set(err, why.code, "%s", why.text);
    return fm_error_set(err, FM_E_REFUSED, "the kernel does not tell written pages (%s)",
                        t->kind == FM_TRACKER_SOFT_DIRTY ? "CONFIG_MEM_SOFT_DIRTY" : "Linux 6.7");
}

int fm_tracker_probe(enum fm_tracker_kind kind, struct fm_error *err)
{
    struct fm_error why = {0};
    struct fm_tracker *t = fm_tracker_open(kind, &why);
    struct guinea_pig g = {.orders = -1, .answers = -1};
    int rc = t ? 0 : fm_error_result(&why);

    if (t && kind != FM_TRACKER_NONE) {
        rc = start(&g, &why);
        if (rc == 0)
            rc = try_on(t, &g, &why);
        end(&g);
    }
    fm_tracker_close(t);
    if (rc < 0 && err)
        *err = why;
    return rc;
}

enum fm_tracker_kind fm_tracker_best(char *why, size_t len)
{
    static const enum fm_tracker_kind kinds[] = {FM_TRACKER_PAGEMAP_SCAN, FM_TRACKER_SOFT_DIRTY};
    size_t used = 0;

    if (len > 0)
        why[0] = '\0';
    for (size_t i = 0; i < FM_COUNT(kinds); i++) {
        struct fm_error err = {0};

        if (fm_tracker_probe(kinds[i], &err) == 0)
            return kinds[i];
        if (used < len)
            used += (size_t)snprintf(why + used, len - used, "%s%s: %s", i ? "; " : "",
                                     fm_tracker_text(kinds[i]), err.text);
    }
    return FM_TRACKER_NONE;
}
