/* Pages that know what they must hold, and regions of them. */
#include "memcheck.h"
#include "workload.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { KEY, VERSION, SUM, PATTERN };
#define TICK_US 2000
#define ROUND_US 300000 /* within which a small region is verified */
#define VERIFIED_PER_TICK_MAX 128

static uint64_t factor(uint64_t key, uint64_t version)
{
    return wl_mix(key ^ wl_mix(version)) | 1;
}

/* The sum of the other words follows from the pattern: words are factor * (2i + 1). */
static uint64_t word(uint64_t key, uint64_t version, size_t words, size_t i)
{
    uint64_t odd_numbers = (uint64_t)words * words - (uint64_t)PATTERN * PATTERN;

    switch (i) {
    case KEY:
        return key;
    case VERSION:
        return version;
    case SUM:
        return key + version + factor(key, version) * odd_numbers;
    default:
        return factor(key, version) * (2 * i + 1);
    }
}

void mc_block_fill(void *block, size_t bytes, uint64_t key, uint64_t version)
{
    const uint64_t f = factor(key, version);
    const size_t words = bytes / sizeof(uint64_t);
    uint64_t *at = block;

    for (size_t i = 0; i < PATTERN; i++)
        at[i] = word(key, version, words, i);
    for (size_t i = PATTERN; i < words; i++)
        at[i] = f * (2 * i + 1);
}

/* The first word that differs, or `words`. */
static size_t first_difference(const uint64_t *at, size_t words, uint64_t key, uint64_t version,
                               bool or_zero)
{
    const uint64_t f = version ? factor(key, version) : 0;

    for (size_t i = 0; i < PATTERN; i++) {
        if (at[i] != (version ? word(key, version, words, i) : 0) && !(or_zero && at[i] == 0))
            return i;
    }
    for (size_t i = PATTERN; i < words; i++) {
        if (at[i] != f * (2 * i + 1) && !(or_zero && at[i] == 0))
            return i;
    }
    return words;
}

bool mc_block_matches(const void *block, size_t bytes, uint64_t key, uint64_t version, bool or_zero)
{
    const size_t words = bytes / sizeof(uint64_t);

    return first_difference(block, words, key, version, or_zero) == words;
}

/* What the block holds instead, for whoever looks for the cause. */
static void describe(char *out, size_t size, const uint64_t *at, size_t words)
{
    size_t zeroes = 0;

    for (size_t i = 0; i < words; i++)
        zeroes += at[i] == 0;
    if (zeroes == words)
        snprintf(out, size, "it is all zeroes");
    else if (first_difference(at, words, at[KEY], at[VERSION], false) == words)
        snprintf(out, size, "it is key %#" PRIx64 " version %" PRIu64 ", whole", at[KEY],
                 at[VERSION]);
    else
        snprintf(out, size,
                 "it is torn: key %#" PRIx64 " version %" PRIu64 ", %zu of %zu words zero", at[KEY],
                 at[VERSION], zeroes, words);
}

void mc_block_check(const void *block, size_t bytes, uint64_t key, uint64_t version)
{
    const size_t words = bytes / sizeof(uint64_t);
    const uint64_t *at = block;
    size_t i = first_difference(at, words, key, version, false);
    char text[128];

    if (i == words)
        return;
    uint64_t found = at[i];
    describe(text, sizeof(text), at, words);
    mc_fail("at %p + %zu expected %016" PRIx64 " found %016" PRIx64
            "; the page must be key %#" PRIx64 " version %" PRIu64 ", %s",
            block, i * sizeof(uint64_t), version ? word(key, version, words, i) : 0, found, key,
            version, text);
}

/* ---- regions --------------------------------------------------------------------------------- */

void *mc_map(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    mc_must(at != MAP_FAILED, "mmap");
    return at;
}

static void *page_at(const struct mc_region *region, uint64_t page)
{
    return region->base + page * mc_page_size;
}

uint64_t mc_region_key(const struct mc_region *region, uint64_t page)
{
    return region->key ? region->key + page : (uint64_t)(uintptr_t)page_at(region, page);
}

void mc_region_fill(struct mc_region *region, uint64_t page)
{
    region->version[page]++;
    region->writes++;
    mc_block_fill(page_at(region, page), mc_page_size, mc_region_key(region, page),
                  region->version[page]);
}

void mc_region_check(const struct mc_region *region, uint64_t page)
{
    mc_block_check(page_at(region, page), mc_page_size, mc_region_key(region, page),
                   region->version[page]);
}

void mc_region_check_all(const struct mc_region *region)
{
    for (uint64_t page = 0; page < region->pages; page++)
        mc_region_check(region, page);
}

struct mc_region mc_region_adopt(void *base, uint64_t pages, uint64_t key)
{
    struct mc_region region = {
        .base = base, .pages = pages, .key = key, .version = mc_map(pages * sizeof(uint32_t))};

    for (uint64_t page = 0; page < pages; page++)
        mc_region_fill(&region, page);
    return region;
}

struct mc_region mc_region_new(uint64_t pages)
{
    return mc_region_adopt(mc_map(pages * mc_page_size), pages, 0);
}

void mc_region_dirty(struct mc_region *region, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = mc_random_below(region->pages);

        mc_region_check(region, page);
        mc_region_fill(region, page);
    }
}

/* The versions are memory, too: a page that is old together with its version would match. */
static void check_sum(const struct mc_region *region)
{
    uint64_t sum = 0;

    for (uint64_t page = 0; page < region->pages; page++)
        sum += region->version[page];
    if (sum != region->writes)
        mc_fail("the versions at %p add up to %" PRIu64 " instead of %" PRIu64,
                (void *)region->version, sum, region->writes);
}

bool mc_region_verify(struct mc_region *region, uint64_t count)
{
    for (uint64_t i = 0; i < count && region->next < region->pages; i++)
        mc_region_check(region, region->next++);
    mc_count(count);
    if (region->next < region->pages)
        return false;
    check_sum(region);
    region->next = 0;
    region->rounds++;
    return true;
}

/* Pages that are due; a silence such as a freeze is not made up for. */
static uint64_t due_pages(uint64_t rate)
{
    static __thread uint64_t last_us, credit_us;
    uint64_t now = wl_now_us(), elapsed = last_us ? now - last_us : 0, due;

    last_us = now;
    credit_us += (elapsed > 10 * TICK_US ? 10 * TICK_US : elapsed) * rate;
    due = credit_us / 1000000;
    credit_us %= 1000000;
    return due;
}

static uint64_t pages_per_tick(const struct mc_region *region)
{
    uint64_t pages = region->pages * TICK_US / ROUND_US + 1;

    return pages < VERIFIED_PER_TICK_MAX ? pages : VERIFIED_PER_TICK_MAX;
}

void mc_regions_run(struct mc_region *regions, size_t count, uint64_t rate)
{
    for (uint64_t rounds = 0;;) {
        uint64_t due = due_pages(rate), least = UINT64_MAX;

        for (size_t i = 0; i < count; i++) {
            mc_region_dirty(&regions[i], due);
            mc_region_verify(&regions[i], pages_per_tick(&regions[i]));
            least = regions[i].rounds < least ? regions[i].rounds : least;
        }
        for (; rounds < least; rounds++)
            mc_round();
        mc_reap();
        mc_pause(TICK_US);
    }
}
