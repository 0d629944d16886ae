/**
 * @file
 * @brief memcheck: processes that hold memory of every kind and verify all of it, over and over.
 *
 * Each page holds its key (its address, where it has but one), a version, a sum and a pattern that
 * follows from both. What a page must hold is known beside it, so that one that is lost, old, torn
 * or somebody else's is found, and described. The first difference ends the program with 1.
 *
 * The parts: memcheck.c (status, workers), memcheck_page.c (pages and regions), memcheck_process.c,
 * memcheck_remap.c, memcheck_shared.c, memcheck_locked.c, memcheck_idle.c (the modes).
 */
#ifndef MEMCHECK_H
#define MEMCHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mc_options {
    uint64_t mib;  /**< of the modes `dirty` and `grow`, there at first */
    uint64_t rate; /**< pages dirtied per second in `dirty`, added in `grow` */
    uint64_t grow; /**< MiB that come to `grow` */
    uint64_t seed;
    uint64_t status_ms;    /**< a line of status in this interval */
    const char *directory; /**< for mapped files */
    const char *broken;    /**< a mode that corrupts its own memory, to show that it is noticed */
};
extern struct mc_options mc_options;
extern size_t mc_page_size;

/* ---- workers (memcheck.c) ------------------------------------------------------------------- */

/** From here on this process or thread reports under that name, and must go on doing so. */
void mc_worker(const char *mode);

/** All of this worker's memory was verified once more. */
void mc_round(void);
void mc_count(uint64_t pages);

/** Ends this process: the mode cannot run here, which is said but no failure. */
_Noreturn void mc_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Ends everything. */
_Noreturn void mc_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Fails as above with the errno when the condition does not hold. */
#define mc_must(condition, what)                                                                   \
    do {                                                                                           \
        if (!(condition))                                                                          \
            mc_fail("%s: %m", what);                                                               \
    } while (0)

/** A child that dies with its parent; it calls @p run and exits with 0. */
pid_t mc_spawn(void (*run)(void *argument), void *argument);

/** Fails when a child has ended: the workers' children never do. */
void mc_reap(void);

/** Sleeps; an interruption by the migration does not matter. */
void mc_pause(uint64_t us);

uint64_t mc_random(void);
uint64_t mc_random_below(uint64_t end);

/* ---- pages (memcheck_page.c) ---------------------------------------------------------------- */

void mc_block_fill(void *block, size_t bytes, uint64_t key, uint64_t version);

/** Version 0 is a block of zeroes. Fails with address, expected and found word, and a guess. */
void mc_block_check(const void *block, size_t bytes, uint64_t key, uint64_t version);

/** Whether each word is the expected one, or, with @p or_zero, zero. */
bool mc_block_matches(const void *block, size_t bytes, uint64_t key, uint64_t version,
                      bool or_zero);

/** Pages of one content each, verified in turn. */
struct mc_region {
    unsigned char *base;
    uint64_t pages;
    uint64_t key;      /**< of its first page; 0: the key of each page is its address */
    uint32_t *version; /**< per page; kept elsewhere */
    uint64_t writes;   /**< the sum of the versions */
    uint64_t next;     /**< page to verify next */
    uint64_t rounds;
};

/** Private anonymous memory, all of it filled. */
struct mc_region mc_region_new(uint64_t pages);

/** The same for memory that is mapped already. */
struct mc_region mc_region_adopt(void *base, uint64_t pages, uint64_t key);

/** A private anonymous mapping. */
void *mc_map(size_t bytes);
uint64_t mc_region_key(const struct mc_region *region, uint64_t page);
void mc_region_fill(struct mc_region *region, uint64_t page);
void mc_region_check(const struct mc_region *region, uint64_t page);
void mc_region_check_all(const struct mc_region *region);

/** Verifies and changes pages at random. */
void mc_region_dirty(struct mc_region *region, uint64_t count);

/** Verifies the next pages; true when that was the last one of a round. */
bool mc_region_verify(struct mc_region *region, uint64_t count);

/** For ever: dirties each region at this rate, and verifies all of each in turn. */
_Noreturn void mc_regions_run(struct mc_region *regions, size_t count, uint64_t rate);

/* ---- the modes ------------------------------------------------------------------------------ */

struct mc_mode {
    const char *name;
    void (*run)(void *argument); /**< in a process of its own; does not return */
    const char *what;
};

void mc_mode_dirty(void *argument);
void mc_mode_grow(void *argument);
void mc_mode_tree(void *argument);
void mc_mode_threads(void *argument);
void mc_mode_cow(void *argument);
void mc_mode_forkstorm(void *argument);
void mc_mode_user(void *argument);
void mc_mode_privileges(void *argument);
void mc_mode_seccomp(void *argument);
void mc_mode_remap(void *argument);
void mc_mode_reuse(void *argument);
void mc_mode_brk(void *argument);
void mc_mode_stack(void *argument);
void mc_mode_shared(void *argument);
void mc_mode_memfd(void *argument);
void mc_mode_sysv(void *argument);
void mc_mode_files(void *argument);
void mc_mode_tmpfs(void *argument);
void mc_mode_kernel(void *argument);
void mc_mode_hugetlb(void *argument);
void mc_mode_mlock(void *argument);
void mc_mode_protnone(void *argument);
void mc_mode_idle(void *argument);

/** What a child of the mode `forkstorm` becomes by exec: verifies some memory of its own, and ends.
 */
int mc_brief_main(void);

#endif
