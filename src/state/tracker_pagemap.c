/* Backend pagemap-scan: userfaultfd write protection in asynchronous mode, where the kernel takes
 * the protection off at the first write, and PAGEMAP_SCAN, which reads and renews it in one step.
 * Source: Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst. */
#include "state/tracker_backend.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "state/inject.h"

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15) /* 6.7 */
#endif

static int attach(struct fm_tracked *p, struct fm_error *err)
{
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_PAGEFAULT_FLAG_WP,
    };
    struct fm_injected injected;
    int rc = fm_inject_userfaultfd(p->pid, &injected, err);

    if (rc < 0)
        return rc;
    if (ioctl(injected.fd, UFFDIO_API, &api) < 0) {
        rc = fm_error_errno(err, errno, "no asynchronous write protection (Linux 6.7)");
        close(injected.fd);
        return rc;
    }
    p->uffd = injected.fd;
    p->number = injected.number;
    return 0;
}

/* Takes every protection off as well. */
static void detach(struct fm_tracked *p)
{
    if (p->uffd >= 0)
        close(p->uffd);
    p->uffd = -1;
}

static int register_mapping(int uffd, uint64_t start, uint64_t end)
{
    struct uffdio_register request = {
        .range = {start, end - start},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };

    return ioctl(uffd, UFFDIO_REGISTER, &request) < 0 ? -errno : 0;
}

/* Up to Linux 6.12 mremap carries marks along into a mapping that nobody watches. */
static bool leaves_marks(void)
{
    struct utsname name;
    unsigned major = 0, minor = 0;

    return uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2 || major < 6 ||
           (major == 6 && minor < 13);
}

static int unprotect(int uffd, uint64_t start, uint64_t end)
{
    struct uffdio_writeprotect request = {.range = {start, end - start}};

    return ioctl(uffd, UFFDIO_WRITEPROTECT, &request) < 0 ? -errno : 0;
}

/* 0: the pages are known and protected. */
static int protect(struct fm_tracker_visit *v, const struct fm_mapping *m)
{
    struct fm_process_memory *answer = v->answer;
    int uffd = v->process->uffd, rc;
    bool known = fm_pagemap_is_registered(fm_tracker_reader(v->tracker), v->pagemap, m->start);

    rc = register_mapping(uffd, m->start, m->end);
    if (rc < 0) {
        if (rc == -EBUSY) /* another userfaultfd has it; its protection is not ours */
            v->process->foreign = true;
        return rc;
    }
    if (!known && leaves_marks() && (rc = unprotect(uffd, m->start, m->end)) < 0)
        return rc;
    return fm_pagemap_walk(fm_tracker_reader(v->tracker), v->pagemap, FM_PAGEMAP_PROTECT, m->start,
                           m->end, &answer->present, &answer->dirty);
}

static int scan_round(struct fm_tracker_visit *v)
{
    struct fm_process_memory *answer = v->answer;
    size_t tried = 0, protected = 0;

    v->process->foreign = false;
    for (size_t i = 0; i < v->map->count; i++) {
        const struct fm_mapping *m = &v->map->items[i];
        int rc;

        if (!fm_mapping_is_movable(m))
            continue;
        tried++;
        if (protect(v, m) == 0) {
            protected++;
            continue;
        }
        /* It changed just now, or is not ours. */
        rc = fm_pagemap_walk(fm_tracker_reader(v->tracker), v->pagemap, FM_PAGEMAP_EVERYTHING,
                             m->start, m->end, &answer->present, &answer->dirty);
        if (rc < 0)
            return rc;
    }
    return tried > 0 && protected == 0 ? -ESTALE : 0;
}

static int scan_final(struct fm_tracker_visit *v)
{
    return fm_tracker_walk(v, FM_PAGEMAP_WRITTEN);
}

const struct fm_tracker_backend fm_tracker_pagemap = {
    .attach = attach,
    .detach = detach,
    .round = scan_round,
    .final = scan_final,
};
