/* Guard regions (madvise MADV_GUARD_INSTALL, Linux 6.13): the kernel does not report that a process
 * makes one, and UFFDIO_COPY would make an ordinary page of it. So they are looked for just before
 * pages are filled; what is made within the microsecond between goes unnoticed. */
#include "state/pager_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/page_scan.h"
#include "base/subprocess.h"
#include "base/text.h"

#define NOT_OPEN (-1)
#define NOT_THERE (-2)

static void open_pagemap(struct fm_pager_task *t)
{
    /* 0 as well for a child whose pid nobody told. */
    pid_t pid = t->slot->pidfd < 0 ? 0 : fm_process_of_pidfd(t->slot->pidfd);
    fm_autofree char *path = fm_strf("/proc/%d/pagemap", (int)pid);

    t->pagemap = pid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (t->pagemap < 0)
        t->pagemap = NOT_THERE;
}

uint64_t fm_pager_before_guard(struct fm_pager_task *t, uint64_t address, uint64_t len)
{
    struct fm_page_region first = {0};
    struct fm_page_scan request = {
        .size = sizeof(request),
        .start = address,
        .end = address + len,
        .vec = (uintptr_t)&first,
        .vec_len = 1,
        .category_mask = FM_PAGE_IS_GUARD,
        .return_mask = FM_PAGE_IS_GUARD,
    };
    int found;

    if (t->pagemap == NOT_OPEN)
        open_pagemap(t);
    if (t->pagemap == NOT_THERE)
        return len;
    found = ioctl(t->pagemap, FM_PAGE_SCAN, &request);
    if (found < 0 && errno == EINVAL) { /* a kernel that does not tell guards */
        fm_cleanup_close(&t->pagemap);
        t->pagemap = NOT_THERE;
    }
    return found > 0 ? first.start - address : len;
}
