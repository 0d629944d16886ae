/* Guard regions (madvise MADV_GUARD_INSTALL, Linux 6.13): the kernel does not report that a process
 * makes one, and UFFDIO_COPY would make an ordinary page of it. So they are looked for just before
 * pages are filled; what is made within the microsecond between goes unnoticed. */
#include "state/pager_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

/* What <linux/fs.h> has since 6.7. */
struct page_region {
    uint64_t start, end, categories;
};

struct scan_request {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_PAGES _IOWR('f', 16, struct scan_request)
#define IS_GUARD (UINT64_C(1) << 8) /* 6.15 */

#define NOT_OPEN (-1)
#define NOT_THERE (-2)

/* In our pid namespace; 0 when it has ended, or is a child whose pid nobody told. */
static pid_t pid_of(const struct fm_pager_task *t)
{
    fm_autofree char *path = fm_strf("/proc/self/fdinfo/%d", t->slot->pidfd);
    fm_autofclose FILE *f = t->slot->pidfd < 0 ? NULL : fopen(path, "re");
    char line[64];
    int pid = 0;

    while (f && pid == 0 && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "Pid: %d", &pid) != 1)
            pid = 0;
    }
    return pid > 0 ? pid : 0;
}

static void open_pagemap(struct fm_pager_task *t)
{
    pid_t pid = pid_of(t);
    fm_autofree char *path = fm_strf("/proc/%d/pagemap", (int)pid);

    t->pagemap = pid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (t->pagemap < 0)
        t->pagemap = NOT_THERE;
}

uint64_t fm_pager_before_guard(struct fm_pager_task *t, uint64_t address, uint64_t len)
{
    struct page_region first = {0};
    struct scan_request request = {
        .size = sizeof(request),
        .start = address,
        .end = address + len,
        .vec = (uintptr_t)&first,
        .vec_len = 1,
        .category_mask = IS_GUARD,
        .return_mask = IS_GUARD,
    };
    int found;

    if (t->pagemap == NOT_OPEN)
        open_pagemap(t);
    if (t->pagemap == NOT_THERE)
        return len;
    found = ioctl(t->pagemap, SCAN_PAGES, &request);
    if (found < 0 && errno == EINVAL) { /* a kernel that does not tell guards */
        fm_cleanup_close(&t->pagemap);
        t->pagemap = NOT_THERE;
    }
    return found > 0 ? first.start - address : len;
}
