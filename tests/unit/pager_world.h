/* What a pager needs around it: a page store with known content, a stand-in for CRIU, and tasks
 * that check every page of theirs. */
#ifndef FM_TEST_PAGER_WORLD_H
#define FM_TEST_PAGER_WORLD_H

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/types.h>

#include "state/pager.h"

#define WORLD_BASE 0x200000000000ull /* where the tasks' memory begins: free in every process */
#define WORLD_TASKS 8

/* A page of the store is one of these, by its number: */
enum page_kind {
    PAGE_DATA,
    PAGE_HOLE,   /* present, but a hole in the file: zeroes */
    PAGE_ABSENT, /* not present: zeroes, whatever the file says */
};

struct world {
    char dir[64];
    char store[96], control[96], log[96];
    struct fm_pager_spec spec;
    struct fm_pager *pager;
    int lazy;           /* CRIU's connection; -1 when closed */
    bool keeps_nothing; /* the first task makes no deposit, as one whose CRIU has no aid */
    int task_count;
    struct world_task {
        pid_t pid;
        int go;     /* written: the task runs; closed: it ends */
        int report; /* a byte when it is ready, then one with the result */
        uint64_t pages;
    } tasks[WORLD_TASKS];
};

/* What a task does between the resume and its end; 0 when all that it saw was right. `memory` is at
 * WORLD_BASE. */
typedef int (*task_body)(int32_t inner_pid, unsigned char *memory, uint64_t pages,
                         uintptr_t argument);

void world_make(struct world *w);
/* Also kills what is left of tasks. */
void world_remove(struct world *w);

/* The content that a page has to have. */
enum page_kind world_kind(uint64_t number);
void world_fill_page(void *page, int32_t inner_pid, uint64_t number);
bool world_page_is(const void *page, int32_t inner_pid, uint64_t number); /* its own kind */
bool world_page_is_zero(const void *page);
/* All pages as they were. 0 or 1. */
int world_check_all(int32_t inner_pid, const unsigned char *memory, uint64_t pages);

/* Writes the store of a process. Of every `missing_every` pages with data one is left out and
 * listed as missing (0: none). */
void world_store(struct world *w, int32_t inner_pid, uint64_t pages, uint64_t missing_every);
/* A list of the store with one range of pages. */
void world_list(struct world *w, int32_t inner_pid, const char *kind, uint64_t first, uint64_t end);
/* The page as it arrives from the source, later. */
void world_store_page(struct world *w, int32_t inner_pid, uint64_t number);

void world_start(struct world *w);
/* CRIU connects, and a task appears in it: its memory registered, its userfaultfd sent. */
void world_connect(struct world *w);
void world_task(struct world *w, int32_t inner_pid, uint64_t pages, task_body body,
                uintptr_t argument);
void world_number(struct world *w, int32_t number); /* a bare number from CRIU */
void world_resume(struct world *w);                 /* "all restored", and the tasks run */
/* Waits for the results of all tasks, which must be good. */
void world_results(struct world *w);
/* Until the pager reports that it is done. */
struct fm_pager_status world_wait_done(struct world *w);
/* The source of a post-copy, which has every `every`th page that is PAGE_DATA. */
struct world_source {
    pthread_t thread;
    struct world *world;
    int32_t inner_pid;
    uint64_t pages, every;
    atomic_uint wanted;
    unsigned int pause_us; /* after every 64th page that world_send_all sends */
};
void world_on_want(void *source, pid_t inner_pid, uint64_t address); /* a fm_pager_want: at once */
void *world_send_all(void *source); /* from the end; may run in a thread */
/* As world_results, while pages that are wanted come. */
void world_results_wanting(struct world *w);
/* Pids of the pager's processes whose name is `name` ("fm-pager", "fm-pager-keeper") and which work
 * for this world; 0 when there is none. */
pid_t world_pager_pid(struct world *w, const char *name);
/* The number of the deposit in a task; -1: it has none. */
int world_deposit_of(const struct world_task *t);
uint64_t world_now_us(void);

#endif
