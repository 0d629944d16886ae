#include "pager_fuzz.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pager_world.h"
#include "state/pager_state.h"

#define STEPS 300
#define STRETCH_MAX 200 /* pages that one step deals with */
#define FORKS_MAX 4     /* generations */

enum content { NOT_MAPPED, ZEROES, ORIGINAL, WRITTEN };

struct cell {
    enum content content;
    uint64_t value;   /* number of the original page, or what was written */
    uint32_t mapping; /* pages of one mapping have the same */
};

struct fuzz {
    int32_t inner_pid;
    unsigned char *memory;
    struct cell *cells;
    uint64_t count;
    uint32_t mappings;
    uint64_t random;
    int generation;
};

static uint64_t draw(struct fuzz *f, uint64_t below)
{
    f->random ^= f->random << 13;
    f->random ^= f->random >> 7;
    f->random ^= f->random << 17;
    return f->random % below;
}

static unsigned char *page_at(struct fuzz *f, uint64_t i)
{
    return f->memory + i * fm_pager_page();
}

static int check(struct fuzz *f, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++) {
        const struct cell *c = &f->cells[i];
        uint64_t word;
        bool good = true;

        if (c->content == ZEROES)
            good = world_page_is_zero(page_at(f, i));
        if (c->content == ORIGINAL)
            good = world_page_is(page_at(f, i), f->inner_pid, c->value);
        if (c->content == WRITTEN) {
            memcpy(&word, page_at(f, i), sizeof(word));
            good = word == c->value;
        }
        if (!good) {
            fprintf(stderr,
                    "generation %d: page %" PRIu64 " (content %d, value %" PRIu64 ") is %s\n",
                    f->generation, i, c->content, c->value,
                    world_page_is_zero(page_at(f, i)) ? "zero" : "wrong");
            return 1;
        }
    }
    return 0;
}

/* ---- Steps ---- */

static void write_page(struct fuzz *f, uint64_t i)
{
    uint64_t value = draw(f, UINT64_MAX) | 1;

    if (f->cells[i].content == NOT_MAPPED)
        return;
    memcpy(page_at(f, i), &value, sizeof(value));
    f->cells[i].content = WRITTEN;
    f->cells[i].value = value;
}

static void set(struct fuzz *f, uint64_t first, uint64_t end, enum content content,
                uint32_t mapping)
{
    for (uint64_t i = first; i < end; i++)
        f->cells[i] = (struct cell){.content = content, .mapping = mapping};
}

static bool all_mapped(struct fuzz *f, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++) {
        if (f->cells[i].content == NOT_MAPPED)
            return false;
    }
    return true;
}

static int discard(struct fuzz *f, uint64_t first, uint64_t end)
{
    if (!all_mapped(f, first, end))
        return 0;
    if (madvise(page_at(f, first), (end - first) * fm_pager_page(), MADV_DONTNEED) < 0)
        return 1;
    for (uint64_t i = first; i < end; i++)
        f->cells[i].content = ZEROES;
    return 0;
}

static int unmap(struct fuzz *f, uint64_t first, uint64_t end)
{
    set(f, first, end, NOT_MAPPED, 0);
    return munmap(page_at(f, first), (end - first) * fm_pager_page()) < 0;
}

static int map_new(struct fuzz *f, uint64_t first, uint64_t end)
{
    set(f, first, end, ZEROES, ++f->mappings);
    return mmap(page_at(f, first), (end - first) * fm_pager_page(), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED;
}

static int move(struct fuzz *f, uint64_t from, uint64_t len, uint64_t to)
{
    const uint64_t page = fm_pager_page();

    if (to < from + len && from < to + len)
        return 0;
    for (uint64_t i = from; i < from + len; i++) {
        if (f->cells[i].content == NOT_MAPPED || f->cells[i].mapping != f->cells[from].mapping)
            return 0;
    }
    if (mremap(page_at(f, from), len * page, len * page, MREMAP_MAYMOVE | MREMAP_FIXED,
               page_at(f, to)) == MAP_FAILED)
        return 1;
    f->mappings++;
    for (uint64_t i = 0; i < len; i++) {
        f->cells[to + i] = f->cells[from + i];
        f->cells[to + i].mapping = f->mappings;
    }
    set(f, from, from + len, NOT_MAPPED, 0);
    return 0;
}

/* Grows a mapping in place, into what is free behind it. */
static int grow(struct fuzz *f, uint64_t first, uint64_t end)
{
    const uint64_t page = fm_pager_page();
    uint64_t last = first;

    if (f->cells[first].content == NOT_MAPPED)
        return 0;
    while (last < end && f->cells[last].content != NOT_MAPPED &&
           f->cells[last].mapping == f->cells[first].mapping)
        last++;
    for (uint64_t i = last; i < end; i++) {
        if (f->cells[i].content != NOT_MAPPED)
            return 0;
    }
    if (last == end ||
        mremap(page_at(f, first), (last - first) * page, (end - first) * page, 0) == MAP_FAILED)
        return 0; /* the mapping is longer or shorter than we know: nothing has changed */
    set(f, last, end, ZEROES, f->cells[first].mapping);
    /* What it touches now may have been part of it once, and is another mapping all the same. */
    f->mappings++;
    while (first > 0 && f->cells[first - 1].content != NOT_MAPPED &&
           f->cells[first - 1].mapping == f->cells[first].mapping)
        first--;
    for (uint64_t i = first; i < end; i++)
        f->cells[i].mapping = f->mappings;
    return 0;
}

static int run(struct fuzz *f, int steps);

/* The child checks all it has, at once or after it has changed it. */
static int fork_child(struct fuzz *f)
{
    int status;
    pid_t pid;

    if (f->generation >= FORKS_MAX)
        return 0;
    pid = fork();
    if (pid == 0) {
        f->generation++;
        f->random ^= 0x5555;
        _exit(run(f, (int)draw(f, 40)));
    }
    if (pid < 0)
        return 1;
    if (draw(f, 2))
        return 0; /* goes on beside it; waited for at the end */
    return waitpid(pid, &status, 0) != pid || status != 0;
}

static int step(struct fuzz *f)
{
    uint64_t len = 1 + draw(f, STRETCH_MAX);
    uint64_t first = draw(f, f->count - len);

    switch (draw(f, 20)) {
    case 0:
    case 1:
        return discard(f, first, first + len);
    case 2:
        return unmap(f, first, first + len);
    case 3:
    case 4:
    case 5:
    case 6:
        return move(f, first, len, draw(f, f->count - len));
    case 7:
        return map_new(f, first, first + len);
    case 8:
    case 9:
        return grow(f, first, first + len);
    case 10:
        return fork_child(f);
    case 11:
    case 12:
    case 13:
        write_page(f, first);
        return 0;
    default:
        return check(f, first, first + (len > 8 ? 8 : len));
    }
}

static int wait_children(void)
{
    int status, bad = 0;

    while (wait(&status) > 0)
        bad |= status != 0;
    return bad;
}

static int run(struct fuzz *f, int steps)
{
    int bad = 0;

    for (int i = 0; i < steps && !bad; i++) {
        bad = step(f);
        if (bad)
            fprintf(stderr, "generation %d: step %d failed: %s\n", f->generation, i,
                    strerror(errno));
    }
    if (!bad)
        bad = check(f, 0, f->count);
    return wait_children() | bad;
}

int fuzz_memory(int32_t inner_pid, unsigned char *memory, uint64_t pages, uintptr_t seed)
{
    struct fuzz f = {
        .inner_pid = inner_pid,
        .memory = memory,
        .cells = calloc(2 * pages, sizeof(struct cell)),
        .count = 2 * pages,
        .mappings = 1,
        .random = (seed + 1) * 0x9e3779b97f4a7c15ull,
    };
    int bad;

    for (uint64_t i = 0; i < pages; i++)
        f.cells[i] = (struct cell){ORIGINAL, i, 1};
    bad = run(&f, STEPS);
    if (bad)
        fprintf(stderr, "seed %" PRIuPTR "\n", seed);
    free(f.cells);
    return bad;
}
