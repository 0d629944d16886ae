/* What CRIU is shown of the memory maps instead of smaps, whose page walk would lie in the freeze.
 */
#include "state/tracker_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif

void fm_tracker_set_small(struct fm_tracker *t, uint64_t bytes)
{
    t->small_bytes = bytes;
}

bool fm_tracker_kernel_tells_guards(void)
{
    size_t size = fm_page_size();
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map map = {0};
    const struct fm_mapping *m = NULL;
    void *page = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return false;
    if (madvise(page, size, MADV_GUARD_INSTALL) == 0 &&
        fm_memory_map_read_flags(getpid(), &map, NULL) == 0)
        m = fm_memory_map_find(&map, (uintptr_t)page);
    munmap(page, size);
    return m && m->flags && fm_mapping_has_flag(m, "gu");
}

static uint64_t resident_bytes(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/statm", (int)pid);
    fm_autofree char *line = fm_file_line(path);
    unsigned long long size, resident;

    return line && sscanf(line, "%llu %llu", &size, &resident) == 2 ? resident * fm_page_size()
                                                                    : UINT64_MAX;
}

void fm_tracker_unwatch_maps(struct fm_tracker *t)
{
    fm_flag_watch_close(t->watch);
    t->watch = NULL;
}

/* Before the copy, so that nothing comes between. Those with whom it shares memory change its flags
 * as well. */
static void watch(struct fm_tracker *t, const struct fm_tracked *p)
{
    struct fm_error why = {0};

    if (!t->watch)
        t->watch = fm_flag_watch_open(&why);
    if (t->watch && !fm_tracker_has_sharer(t, p))
        fm_flag_watch_add(t->watch, p->pid, &why);
    if (why.code)
        fm_debug(FM_STATE_SYNCHRONIZER, "Mappings of process %d are read twice: %s.", (int)p->pid,
                 why.text);
}

/* FM_E_NOT_FOUND: it has ended. */
static int note(struct fm_tracker *t, struct fm_tracked *p, struct fm_error *err)
{
    uint64_t resident = resident_bytes(p->pid);
    struct fm_process_status status;
    int rc;

    if (resident < t->small_bytes && resident < FM_TRACKER_TINY_BYTES)
        return 0;
    rc = fm_process_status_read(p->pid, &status, err);
    if (rc < 0)
        return rc;
    watch(t, p);
    p->noted_small = resident < t->small_bytes;
    p->noted_locked = status.locked_bytes;
    return fm_memory_map_read_flags(p->pid, &p->noted, err);
}

int fm_tracker_note_maps(struct fm_tracker *t, const pid_t *pids, size_t count,
                         struct fm_error *err)
{
    int rc = 0;

    fm_tracker_unwatch_maps(t);
    for (size_t i = 0; i < count && rc == 0; i++) {
        struct fm_tracked *p;

        rc = fm_tracker_see(t, pids[i], &p, err);
    }
    for (size_t i = 0; i < count && rc == 0; i++) {
        struct fm_tracked *p = fm_tracker_find(t, pids[i]);

        if (!p)
            continue;
        fm_memory_map_clear(&p->shown);
        fm_memory_map_clear(&p->noted);
        rc = note(t, p, err);
        if (rc == -FM_E_NOT_FOUND)
            rc = 0;
    }
    return rc;
}

/* ---- maps with flags, without a walk ---- */

static bool same_traits(const struct fm_mapping *a, const struct fm_mapping *b)
{
    size_t len_a = a->line_len - (size_t)(a->traits - a->line);
    size_t len_b = b->line_len - (size_t)(b->traits - b->line);

    return len_a == len_b && memcmp(a->traits, b->traits, len_a) == 0;
}

/* Anonymous memory that only grew over what was noted keeps its flags: mappings whose flags differ
 * do not become one. */
static const struct fm_mapping *find_origin(const struct fm_memory_map *noted,
                                            const struct fm_mapping *m)
{
    const struct fm_mapping *origin = fm_memory_map_find(noted, m->start);
    const struct fm_mapping *end = noted->items + noted->count;

    if (!origin || origin->start >= m->end)
        return NULL;
    if (fm_mapping_same_line(origin, m))
        return origin;
    for (const struct fm_mapping *o = origin; o < end && o->start < m->end; o++) {
        if (!o->anonymous || !o->flags || o->start < m->start || o->end > m->end ||
            !same_traits(o, m) || !fm_mapping_same_flags(o, origin))
            return NULL;
        if (fm_mapping_has_flag(o, "gu"))
            origin = o;
    }
    return origin;
}

static bool complete(struct fm_memory_map *map, const struct fm_memory_map *noted)
{
    for (size_t i = 0; i < map->count; i++) {
        const struct fm_mapping *origin = find_origin(noted, &map->items[i]);

        if (!origin || !origin->flags)
            return false;
        map->items[i].flags = origin->flags;
        map->items[i].flags_len = origin->flags_len;
    }
    return true;
}

int fm_tracker_show_maps(struct fm_tracker *t, struct fm_tracked *p,
                         const struct fm_process_status *status, struct fm_error *err)
{
    fm_memory_map_clear(&p->shown);
    p->shown_flags_hold = fm_flag_watch_is_quiet(t->watch, p->pid);
    if (p->noted.count > 0 && p->noted_locked == status->locked_bytes &&
        (p->shown_flags_hold || !p->noted_small)) {
        int rc = fm_memory_map_read(p->pid, &p->shown, err);

        if (rc < 0 || complete(&p->shown, &p->noted))
            return rc;
        fm_memory_map_clear(&p->shown);
    }
    p->shown_flags_hold = true;
    return fm_memory_map_read_flags(p->pid, &p->shown, err);
}

/* ---- files for the page filter ---- */

static int write_file(const char *dir, pid_t pid, const char *kind, const void *data, size_t len,
                      struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/%d.%s", dir, (int)pid, kind);
    fm_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = fd < 0 ? -errno : fm_write_full(fd, data, len);

    return rc < 0 ? fm_error_errno(err, -rc, "cannot write '%s'", path) : 0;
}

/* Of each mapping, CRIU reads the line and the flags. */
static int write_maps(const struct fm_tracked *p, const char *dir, struct fm_error *err)
{
    fm_autofree char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    if (!out)
        return fm_error_errno(err, errno, "cannot write the map of process %d", (int)p->pid);
    for (size_t i = 0; i < p->shown.count; i++) {
        const struct fm_mapping *m = &p->shown.items[i];

        fprintf(out, "%.*s\nVmFlags: %.*s\n", (int)m->line_len, m->line, (int)m->flags_len,
                m->flags);
    }
    fclose(out);
    return write_file(dir, p->pid, "smaps", text, len, err);
}

/* All that lies between mappings with guard regions. */
static int write_unguarded(const struct fm_tracked *p, const char *dir, struct fm_error *err)
{
    fm_autofree uint64_t *pairs = fm_xcalloc(p->shown.count + 1, 2 * sizeof(*pairs));
    uint64_t at = 0;
    size_t n = 0;

    for (size_t i = 0; i < p->shown.count; i++) {
        const struct fm_mapping *m = &p->shown.items[i];

        if (!fm_mapping_has_flag(m, "gu"))
            continue;
        pairs[n++] = htole64(at);
        pairs[n++] = htole64(m->start);
        at = m->end;
    }
    pairs[n++] = htole64(at);
    pairs[n++] = UINT64_MAX;
    return write_file(dir, p->pid, "unguarded", pairs, n * sizeof(*pairs), err);
}

static int write_hidden(const struct fm_process_memory *m, const char *dir, struct fm_error *err)
{
    fm_autofree uint64_t *pairs = fm_xcalloc(m->mapped.count + 1, 2 * sizeof(*pairs));

    for (size_t i = 0; i < m->mapped.count; i++) {
        pairs[2 * i] = htole64(m->mapped.items[i].start);
        pairs[2 * i + 1] = htole64(m->mapped.items[i].end);
    }
    return write_file(dir, m->pid, "hide", pairs, m->mapped.count * 2 * sizeof(*pairs), err);
}

/* That of the final scan; those who share memory show the same. */
static int shown_maps(struct fm_tracker *t, pid_t pid, struct fm_tracked **p, struct fm_error *err)
{
    struct fm_process_status status;
    int rc;

    *p = fm_tracker_find(t, pid);
    if (!*p)
        return fm_error_set(err, FM_E_NOT_FOUND, "process %d was not in the final scan", (int)pid);
    if ((*p)->shown.count > 0)
        return 0;
    rc = fm_process_status_read(pid, &status, err);
    if (rc == 0)
        rc = fm_tracker_show_maps(t, *p, &status, err);
    (*p)->shown_flags_hold = false; /* the other one may have changed them */
    return rc;
}

int fm_tracker_write_filter(struct fm_tracker *t, const struct fm_memory_scan *scan,
                            const char *dir, struct fm_error *err)
{
    for (size_t i = 0; i < scan->count; i++) {
        struct fm_tracked *p;
        int rc = shown_maps(t, scan->items[i].pid, &p, err);

        if (rc == 0)
            rc = write_maps(p, dir, err);
        if (rc == 0 && t->tells_guards)
            rc = write_unguarded(p, dir, err);
        if (rc == 0)
            rc = write_hidden(&scan->items[i], dir, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- were they true? ---- */

static int differs(const struct fm_tracked *p, const struct fm_mapping *m, const char *how,
                   struct fm_error *err)
{
    return fm_error_set(err, FM_E_FAILED,
                        "the mapping at 0x%" PRIx64
                        " of process %d %s just before the freeze: try again",
                        m->start, (int)p->pid, how);
}

static bool same_flags(const struct fm_mapping *now, const struct fm_mapping *shown)
{
    return fm_mapping_same_flags(now, shown) &&
           (!fm_mapping_has_flag(now, "gu") || fm_mapping_has_flag(shown, "gu"));
}

static int verify_one(const struct fm_tracked *p, struct fm_error *err)
{
    fm_cleanup(fm_memory_map_clear) struct fm_memory_map now = {0};
    int rc = p->shown_flags_hold ? fm_memory_map_read(p->pid, &now, err)
                                 : fm_memory_map_read_flags(p->pid, &now, err);
    size_t next = 0;

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < p->shown.count; i++, next++) {
        const struct fm_mapping *shown = &p->shown.items[i], *m;

        /* CRIU's own mapping may still be among them. */
        while (next < now.count && now.items[next].start < shown->start &&
               !now.items[next].anonymous)
            next++;
        m = &now.items[next];
        if (next == now.count || !fm_mapping_same_line(m, shown))
            return differs(p, shown, "changed", err);
        if (!p->shown_flags_hold && !same_flags(m, shown)) {
            fm_autofree char *how =
                fm_strf("changed its flags (madvise, mlock) from %.*s to %.*s",
                        (int)shown->flags_len, shown->flags, (int)m->flags_len, m->flags);
            return differs(p, shown, how, err);
        }
    }
    return 0;
}

int fm_tracker_verify_maps(struct fm_tracker *t, const struct fm_memory_scan *scan,
                           struct fm_error *err)
{
    for (size_t i = 0; i < scan->count; i++) {
        const struct fm_tracked *p = fm_tracker_find(t, scan->items[i].pid);

        if (!p || p->shown.count == 0)
            return fm_error_set(err, FM_E_NOT_FOUND, "process %d was not in the final scan",
                                (int)scan->items[i].pid);
        int rc = verify_one(p, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}
