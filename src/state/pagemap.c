#include "state/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/page_scan.h"
#include "base/text.h"

/* Bits of an entry of the table. */
#define ENTRY_PFN ((UINT64_C(1) << 55) - 1)
#define ENTRY_SOFT_DIRTY (UINT64_C(1) << 55)
#define ENTRY_GUARD (UINT64_C(1) << 58)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_PRESENT (UINT64_C(1) << 63)

#define BUFFER_SIZE (192u << 10)
#define REGIONS (BUFFER_SIZE / sizeof(struct fm_page_region))
#define ENTRIES (BUFFER_SIZE / sizeof(uint64_t))

/* ---- what this kernel can ---- */

static bool accepts(int fd, uint64_t category)
{
    struct fm_page_region region;
    uint64_t page = fm_page_size(), here = (uintptr_t)&region / page * page;
    struct fm_page_scan request = {
        .size = sizeof(request),
        .start = here,
        .end = here + page,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_mask = category,
        .return_mask = category,
    };

    return ioctl(fd, FM_PAGE_SCAN, &request) >= 0;
}

static uint64_t entry_of(int fd, const volatile char *address)
{
    uint64_t entry = 0;
    off_t at = (off_t)((uintptr_t)address / fm_page_size() * sizeof(entry));

    return pread(fd, &entry, sizeof(entry), at) == (ssize_t)sizeof(entry) ? entry : 0;
}

uint64_t fm_pagemap_zero_pfn(void)
{
    fm_autoclose int fd = fm_pagemap_open(getpid());
    size_t len = fm_page_size();
    volatile char *page = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t entry = 0;

    if (page == MAP_FAILED)
        return 0;
    if (fd >= 0 && page[0] == 0) /* reading what nobody wrote maps it */
        entry = entry_of(fd, page);
    munmap((void *)page, len);
    return entry & ENTRY_PRESENT ? entry & ENTRY_PFN : 0;
}

/* Memory that is there: within a freeze its first touch would cost more than the walk. */
static void *new_buffer(void)
{
    return memset(fm_xmalloc(BUFFER_SIZE), 0, BUFFER_SIZE);
}

void fm_pagemap_reader_open(struct fm_pagemap_reader *r)
{
    fm_autoclose int fd = fm_pagemap_open(getpid());

    *r = (struct fm_pagemap_reader){.buffer = new_buffer()};
    if (fd < 0)
        return;
    r->scans = accepts(fd, FM_PAGE_IS_PRESENT);
    r->sees_guards = r->scans && accepts(fd, FM_PAGE_IS_GUARD);
    if (!r->scans)
        r->zero_pfn = fm_pagemap_zero_pfn();
}

void fm_pagemap_reader_copy(struct fm_pagemap_reader *r, const struct fm_pagemap_reader *like)
{
    *r = *like;
    r->buffer = new_buffer();
}

void fm_pagemap_reader_close(struct fm_pagemap_reader *r)
{
    free(r->buffer);
    *r = (struct fm_pagemap_reader){0};
}

int fm_pagemap_open(pid_t pid)
{
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* ---- a walk ---- */

/* Where the answers go; the kernel may repeat a region when its answer was cut in two. */
struct walk {
    struct fm_ranges *present, *dirty;
    uint64_t present_end, dirty_end;
    uint64_t told_end; /* of the last region */
};

static void append_behind(struct fm_ranges *ranges, uint64_t *behind, uint64_t start, uint64_t end)
{
    if (start < *behind)
        start = *behind;
    if (start >= end)
        return;
    fm_ranges_append(ranges, start, end);
    *behind = end;
}

static void found(struct walk *w, uint64_t start, uint64_t end, bool dirty)
{
    append_behind(w->present, &w->present_end, start, end);
    if (dirty)
        append_behind(w->dirty, &w->dirty_end, start, end);
}

/* What makes a page one without content: holes are neither present nor swapped. */
#define NOTHING (FM_PAGE_IS_PFNZERO | FM_PAGE_IS_GUARD)
#define CONTENT (FM_PAGE_IS_PRESENT | FM_PAGE_IS_SWAPPED)

static bool region_has_content(const struct fm_page_region *region)
{
    return (region->categories & CONTENT) && !(region->categories & NOTHING);
}

static bool region_is_dirty(const struct fm_page_region *region, enum fm_pagemap_mode mode)
{
    if (mode == FM_PAGEMAP_EVERYTHING || mode == FM_PAGEMAP_STILL)
        return true;
    if (mode == FM_PAGEMAP_SOFT_DIRTY)
        return region->categories & FM_PAGE_IS_SOFT_DIRTY;
    /* Outside of a registered mapping nobody keeps the protection true. */
    return (region->categories & FM_PAGE_IS_WRITTEN) ||
           !(region->categories & FM_PAGE_IS_WPALLOWED);
}

static bool tells_exceptions(enum fm_pagemap_mode mode)
{
    return mode != FM_PAGEMAP_EVERYTHING && mode != FM_PAGEMAP_PROTECT;
}

/* Asks for all pages with content. */
static void ask_for_content(const struct fm_pagemap_reader *r, enum fm_pagemap_mode mode,
                            struct fm_page_scan *request)
{
    request->category_inverted = request->category_mask =
        r->sees_guards ? NOTHING : FM_PAGE_IS_PFNZERO;
    request->category_anyof_mask = request->return_mask = CONTENT;
    if (mode == FM_PAGEMAP_PROTECT) {
        request->flags = FM_PAGE_SCAN_WP_MATCHING | FM_PAGE_SCAN_CHECK_WPASYNC;
        request->return_mask |= FM_PAGE_IS_WRITTEN | FM_PAGE_IS_WPALLOWED;
    }
}

/* Asks for all but the present and clean pages: what is told costs the kernel 8 ns a page, what is
 * not 3. */
static void ask_for_exceptions(const struct fm_pagemap_reader *r, enum fm_pagemap_mode mode,
                               struct fm_page_scan *request)
{
    uint64_t nothing = r->sees_guards ? NOTHING : FM_PAGE_IS_PFNZERO;

    request->category_inverted = FM_PAGE_IS_PRESENT;
    request->category_anyof_mask = FM_PAGE_IS_PRESENT | nothing;
    if (mode == FM_PAGEMAP_SOFT_DIRTY)
        request->category_anyof_mask |= FM_PAGE_IS_SOFT_DIRTY;
    if (mode == FM_PAGEMAP_WRITTEN) {
        request->category_inverted |= FM_PAGE_IS_WPALLOWED;
        request->category_anyof_mask |= FM_PAGE_IS_WRITTEN | FM_PAGE_IS_WPALLOWED;
    }
    request->return_mask = request->category_anyof_mask | CONTENT;
}

static void request_init(const struct fm_pagemap_reader *r, enum fm_pagemap_mode mode,
                         struct fm_page_scan *request)
{
    *request = (struct fm_page_scan){
        .size = sizeof(*request),
        .vec = (uintptr_t)r->buffer,
        .vec_len = REGIONS,
    };
    if (tells_exceptions(mode))
        ask_for_exceptions(r, mode, request);
    else
        ask_for_content(r, mode, request);
}

/* What was not told before an exception, and after the last one, is present and clean. */
static void found_untold(struct walk *w, enum fm_pagemap_mode mode, uint64_t end)
{
    if (tells_exceptions(mode))
        found(w, w->told_end, end, mode == FM_PAGEMAP_STILL);
}

static void found_region(struct walk *w, enum fm_pagemap_mode mode,
                         const struct fm_page_region *region)
{
    found_untold(w, mode, region->start);
    if (region_has_content(region))
        found(w, region->start, region->end, region_is_dirty(region, mode));
    if (region->end > w->told_end)
        w->told_end = region->end;
}

static int walk_by_scan(struct fm_pagemap_reader *r, int fd, enum fm_pagemap_mode mode,
                        uint64_t start, uint64_t end, struct walk *w)
{
    const struct fm_page_region *regions = r->buffer;
    struct fm_page_scan request;
    int n;

    request_init(r, mode, &request);
    request.end = end;
    do {
        request.start = start;
        n = ioctl(fd, FM_PAGE_SCAN, &request);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        for (int i = 0; i < n; i++)
            found_region(w, mode, &regions[i]);
        /* walk_end alone does not tell the end of the walk: it may lie before `end`. */
        start = request.walk_end;
    } while (n < 0 || (n == (int)REGIONS && start < end));
    found_untold(w, mode, end);
    return 0;
}

static bool entry_is_present(const struct fm_pagemap_reader *r, uint64_t entry)
{
    if (!(entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) || (entry & ENTRY_GUARD))
        return false;
    return !(entry & ENTRY_PRESENT) || !r->zero_pfn || (entry & ENTRY_PFN) != r->zero_pfn;
}

static int walk_by_read(struct fm_pagemap_reader *r, int fd, enum fm_pagemap_mode mode,
                        uint64_t start, uint64_t end, struct walk *w)
{
    const uint64_t *entries = r->buffer, page = fm_page_size();

    while (start < end) {
        uint64_t wanted = (end - start) / page;
        ssize_t n = pread(fd, r->buffer, (wanted < ENTRIES ? wanted : ENTRIES) * sizeof(*entries),
                          (off_t)(start / page * sizeof(*entries)));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ESRCH;
        for (size_t i = 0; i < (size_t)n / sizeof(*entries); i++, start += page) {
            if (entry_is_present(r, entries[i]))
                found(w, start, start + page,
                      mode != FM_PAGEMAP_SOFT_DIRTY || (entries[i] & ENTRY_SOFT_DIRTY));
        }
    }
    return 0;
}

/* ---- undoing a walk that failed half-way ---- */

struct mark {
    size_t count;
    uint64_t end;
};

static struct mark mark_of(const struct fm_ranges *r)
{
    return (struct mark){r->count, r->count ? r->items[r->count - 1].end : 0};
}

static void back_to(struct fm_ranges *r, struct mark mark)
{
    r->count = mark.count;
    if (mark.count)
        r->items[mark.count - 1].end = mark.end;
}

int fm_pagemap_walk(struct fm_pagemap_reader *r, int fd, enum fm_pagemap_mode mode, uint64_t start,
                    uint64_t end, struct fm_ranges *present, struct fm_ranges *dirty)
{
    struct mark present_mark = mark_of(present), dirty_mark = mark_of(dirty);
    struct walk w = {present, dirty, start, start, start};
    int rc = r->scans ? walk_by_scan(r, fd, mode, start, end, &w)
                      : walk_by_read(r, fd, mode, start, end, &w);

    if (rc < 0) {
        back_to(present, present_mark);
        back_to(dirty, dirty_mark);
    }
    return rc;
}

bool fm_pagemap_is_registered(struct fm_pagemap_reader *r, int fd, uint64_t address)
{
    struct fm_page_scan request = {
        .size = sizeof(request),
        .flags = FM_PAGE_SCAN_CHECK_WPASYNC,
        .start = address,
        .end = address + fm_page_size(),
        .vec = (uintptr_t)r->buffer,
        .vec_len = 1,
        .category_mask = FM_PAGE_IS_WPALLOWED,
        .return_mask = FM_PAGE_IS_WPALLOWED,
    };

    return ioctl(fd, FM_PAGE_SCAN, &request) >= 0;
}
