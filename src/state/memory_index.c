#include "state/memory_index.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "base/text.h"

#define MAGIC "FMMI"
#define VERSION 1
#define FILE_MAX (1u << 30)
#define ADDRESS_MAX (UINT64_C(1) << 56)

/* --- writing --- */

struct buffer {
    uint8_t *data;
    size_t len, capacity;
};

static void put(struct buffer *b, const void *data, size_t len)
{
    if (b->len + len > b->capacity) {
        b->capacity = (b->len + len) * 2;
        b->data = fm_xrealloc(b->data, b->capacity);
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void put_u32(struct buffer *b, uint32_t value)
{
    value = htole32(value);
    put(b, &value, sizeof(value));
}

static void put_u64(struct buffer *b, uint64_t value)
{
    value = htole64(value);
    put(b, &value, sizeof(value));
}

static void put_ranges(struct buffer *b, const struct fm_ranges *ranges)
{
    for (size_t i = 0; i < ranges->count; i++) {
        put_u64(b, ranges->items[i].start);
        put_u64(b, ranges->items[i].end);
    }
}

static void put_process(struct buffer *b, const struct fm_process_memory *process, bool leave)
{
    put_u32(b, (uint32_t)process->pid);
    put_u32(b, (uint32_t)process->inner_pid);
    put_u64(b, fm_process_start_time(process->pid));
    put_u64(b, process->present.count);
    put_u64(b, leave ? process->dirty.count : 0);
    put_ranges(b, &process->present);
    if (leave)
        put_ranges(b, &process->dirty);
}

/* Without an fsync: it lies in the freeze, and a source that dies before the commit starts anew. */
int fm_memory_index_save(const char *path, const struct fm_memory_scan *scan, bool leave,
                         struct fm_error *err)
{
    struct buffer b = {0};
    put(&b, MAGIC, 4);
    put_u32(&b, VERSION);
    put_u32(&b, (uint32_t)scan->count);
    for (size_t i = 0; i < scan->count; i++)
        put_process(&b, &scan->items[i], leave);
    fm_autofree uint8_t *data = b.data;
    fm_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || fm_write_full(fd, data, b.len) < 0)
        return fm_error_errno(err, errno, "cannot write %s", path);
    return 0;
}

/* --- reading --- */

struct reader {
    const uint8_t *at, *end;
    bool broken;
};

static void get(struct reader *r, void *data, size_t len)
{
    memset(data, 0, len);
    if (r->broken || (size_t)(r->end - r->at) < len) {
        r->broken = true;
        return;
    }
    memcpy(data, r->at, len);
    r->at += len;
}

static uint32_t get_u32(struct reader *r)
{
    uint32_t value;
    get(r, &value, sizeof(value));
    return le32toh(value);
}

static uint64_t get_u64(struct reader *r)
{
    uint64_t value;
    get(r, &value, sizeof(value));
    return le64toh(value);
}

static void get_ranges(struct reader *r, uint64_t count, struct fm_ranges *ranges)
{
    uint64_t last = 0, mask = fm_page_size() - 1;
    for (uint64_t i = 0; i < count && !r->broken; i++) {
        uint64_t start = get_u64(r), end = get_u64(r);
        r->broken = r->broken || start < last || end <= start || end > ADDRESS_MAX ||
                    ((start | end) & mask) != 0;
        if (!r->broken)
            fm_ranges_append(ranges, start, end);
        last = end;
    }
}

static bool is_within(const struct fm_ranges *part, const struct fm_ranges *whole)
{
    for (size_t i = 0; i < part->count; i++) {
        size_t at = fm_ranges_find(whole, part->items[i].start);
        if (at == whole->count || whole->items[at].start > part->items[i].start ||
            whole->items[at].end < part->items[i].end)
            return false;
    }
    return true;
}

static void get_process(struct reader *r, struct fm_memory_index_entry *entry)
{
    entry->pid = (pid_t)get_u32(r);
    entry->inner_pid = (pid_t)get_u32(r);
    entry->start_time = get_u64(r);
    uint64_t present = get_u64(r), missing = get_u64(r);
    get_ranges(r, present, &entry->present);
    get_ranges(r, missing, &entry->missing);
    r->broken = r->broken || entry->inner_pid <= 0 || !is_within(&entry->missing, &entry->present);
}

static int parse(struct reader *r, struct fm_memory_index *index)
{
    char magic[4];
    get(r, magic, sizeof(magic));
    uint32_t version = get_u32(r), count = get_u32(r);
    if (r->broken || memcmp(magic, MAGIC, sizeof(magic)) != 0 || version != VERSION ||
        count > FM_MEMORY_INDEX_PROCESSES_MAX)
        return -1;
    index->items = fm_xcalloc(count ? count : 1, sizeof(*index->items));
    for (; index->count < count && !r->broken; index->count++)
        get_process(r, &index->items[index->count]);
    return r->broken || r->at != r->end ? -1 : 0;
}

int fm_memory_index_load(const char *path, struct fm_memory_index *index, struct fm_error *err)
{
    fm_autofree char *data = NULL;
    size_t len = 0;
    *index = (struct fm_memory_index){0};
    int rc = fm_file_read(path, FILE_MAX, &data, &len, err);
    if (rc < 0)
        return rc;
    struct reader r = {.at = (const uint8_t *)data, .end = (const uint8_t *)data + len};
    if (parse(&r, index) == 0)
        return 0;
    fm_memory_index_clear(index);
    return fm_error_set(err, FM_E_PROTOCOL, "memory index %s is broken", path);
}

void fm_memory_index_clear(struct fm_memory_index *index)
{
    for (size_t i = 0; i < index->count; i++) {
        fm_ranges_clear(&index->items[i].present);
        fm_ranges_clear(&index->items[i].missing);
    }
    free(index->items);
    *index = (struct fm_memory_index){0};
}

uint64_t fm_memory_index_missing(const struct fm_memory_index *index)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < index->count; i++)
        bytes += fm_ranges_bytes(&index->items[i].missing);
    return bytes;
}

uint64_t fm_memory_index_missing_in(const char *path)
{
    fm_cleanup(fm_memory_index_clear) struct fm_memory_index index = {0};
    return fm_memory_index_load(path, &index, NULL) == 0 ? fm_memory_index_missing(&index) : 0;
}
