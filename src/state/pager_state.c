#include "state/pager_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

#define STATE_FILE "pager.state"
#define MAGIC 0x466d5032u
#define HEADER_BYTES (1ull << 16) /* a multiple of every page size */
#define TABLE_BYTES (16ull << 20) /* more areas than a task may have mappings */
#define BITMAP_BYTES (64ull << 20)
#define SLOT_BYTES (128ull << 20)
#define SLOTS_MAX 65536u
#define LOCK_MS 500u
#define AREAS_MAX ((uint32_t)(TABLE_BYTES / sizeof(struct fm_pager_area)))

uint64_t fm_pager_page(void)
{
    static uint64_t size;

    if (!size)
        size = (uint64_t)sysconf(_SC_PAGESIZE);
    return size;
}

/* What follows must not reach memory before what precedes: another process may look any time. */
static void publish(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* ---- The file ---- */

/* Small pages, whatever the file system prefers: most of it is never touched. */
static void *map_part(int fd, uint64_t offset, uint64_t len)
{
    void *p =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)offset);

    if (p == MAP_FAILED)
        return NULL;
    madvise(p, len, MADV_NOHUGEPAGE);
    return p;
}

/* Kernels before 5.14 cannot tell whether there is room. */
static int reserve(const void *p, uint64_t len)
{
    uintptr_t start = (uintptr_t)p & ~(fm_pager_page() - 1);
    int ret;

    do
        ret = madvise((void *)start, (uintptr_t)p + len - start, MADV_POPULATE_WRITE);
    while (ret < 0 && errno == EINTR);
    return ret < 0 && errno != EINVAL ? -FM_E_NO_SPACE : 0;
}

static int map_header(struct fm_pager_maps *maps, struct fm_error *err)
{
    maps->state = map_part(maps->fd, 0, HEADER_BYTES);
    return maps->state ? 0 : fm_error_errno(err, errno, "cannot map the pager's state");
}

static int open_file(struct fm_pager_maps *maps, const char *store_dir, int flags,
                     struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/" STATE_FILE, store_dir);

    if (flags & O_CREAT)
        unlink(path);
    *maps = (struct fm_pager_maps){.fd = open(path, O_RDWR | O_CLOEXEC | flags, 0600)};
    if (maps->fd < 0)
        return fm_error_errno(err, errno, "cannot open '%s'", path);
    return 0;
}

int fm_pager_state_lock(const struct fm_pager_maps *maps, struct fm_error *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    uint64_t deadline = fm_now_ms() + LOCK_MS;

    /* One that was killed just now closes its descriptors one after the other. */
    while (fcntl(maps->fd, F_SETLK, &lock) < 0) {
        if (fm_now_ms() >= deadline)
            return fm_error_set(err, FM_E_REFUSED, "another pager works with this store");
        usleep(1000);
    }
    return 0;
}

int fm_pager_state_create(struct fm_pager_maps *maps, const char *store_dir, struct fm_error *err)
{
    if (open_file(maps, store_dir, O_CREAT | O_EXCL, err) < 0)
        return fm_error_result(err);
    if (ftruncate(maps->fd, (off_t)(HEADER_BYTES + SLOTS_MAX * SLOT_BYTES)) < 0)
        return fm_error_errno(err, errno, "cannot make the pager's state");
    if (map_header(maps, err) < 0)
        return fm_error_result(err);
    if (reserve(maps->state, sizeof(*maps->state)) < 0)
        return fm_error_set(err, FM_E_NO_SPACE, "no room for the pager's state in '%s'", store_dir);
    *maps->state = (struct fm_pager_state){
        .magic = MAGIC,
        .page_size = (uint32_t)fm_pager_page(),
        .lazy_listen = -1,
        .lazy = -1,
        .control_listen = -1,
        .control = -1,
        .deposit = -1,
    };
    return 0;
}

int fm_pager_state_find(struct fm_pager_maps *maps, const char *store_dir, struct fm_error *err)
{
    if (open_file(maps, store_dir, 0, err) < 0)
        return fm_error_result(err);
    return fm_pager_state_open(maps, maps->fd, err);
}

int fm_pager_state_open(struct fm_pager_maps *maps, int fd, struct fm_error *err)
{
    struct stat st;

    *maps = (struct fm_pager_maps){.fd = fd};
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != HEADER_BYTES + SLOTS_MAX * SLOT_BYTES)
        return fm_error_set(err, FM_E_INVALID, "the pager's state is of another version");
    if (map_header(maps, err) < 0)
        return fm_error_result(err);
    if (maps->state->magic != MAGIC || maps->state->page_size != fm_pager_page())
        return fm_error_set(err, FM_E_INVALID, "the pager's state is of another version");
    return 0;
}

void fm_pager_state_close(struct fm_pager_maps *maps)
{
    for (uint32_t i = 0; i < maps->capacity; i++) {
        if (maps->slots[i])
            munmap(maps->slots[i], SLOT_BYTES);
    }
    free(maps->slots);
    if (maps->state)
        munmap(maps->state, HEADER_BYTES);
    fm_cleanup_close(&maps->fd);
    *maps = (struct fm_pager_maps){.fd = -1};
}

/* ---- Slots ---- */

static uint64_t slot_offset(uint32_t number)
{
    return HEADER_BYTES + number * SLOT_BYTES;
}

static struct fm_pager_slot *map_slot(struct fm_pager_maps *maps, uint32_t number)
{
    if (number >= maps->capacity) {
        uint32_t capacity = number + 64;

        maps->slots = fm_xrealloc(maps->slots, capacity * sizeof(struct fm_pager_slot *));
        memset(maps->slots + maps->capacity, 0,
               (capacity - maps->capacity) * sizeof(struct fm_pager_slot *));
        maps->capacity = capacity;
    }
    if (!maps->slots[number])
        maps->slots[number] = map_part(maps->fd, slot_offset(number), SLOT_BYTES);
    return maps->slots[number];
}

struct fm_pager_slot *fm_pager_slot(struct fm_pager_maps *maps, uint32_t number)
{
    if (number >= __atomic_load_n(&maps->state->slots, __ATOMIC_ACQUIRE) || number >= SLOTS_MAX)
        return NULL;
    return map_slot(maps, number);
}

uint32_t fm_pager_slot_allocate(struct fm_pager_maps *maps)
{
    uint32_t count = maps->state->slots;
    struct fm_pager_slot *slot;

    for (uint32_t i = 0; i < count; i++) {
        slot = fm_pager_slot(maps, i);
        if (slot && slot->kind == FM_PAGER_SLOT_FREE) {
            fm_pager_slot_release(maps, i); /* what a dead maker left in it */
            *slot = (struct fm_pager_slot){.kind = FM_PAGER_SLOT_FREE};
            return i;
        }
    }
    slot = count < SLOTS_MAX ? map_slot(maps, count) : NULL;
    if (!slot || reserve(slot, sizeof(*slot)) < 0)
        return UINT32_MAX;
    publish(&maps->state->slots, count + 1);
    return count;
}

void fm_pager_slot_release(struct fm_pager_maps *maps, uint32_t number)
{
    struct fm_pager_slot *slot = fm_pager_slot(maps, number);

    if (slot)
        publish(&slot->kind, FM_PAGER_SLOT_FREE);
    /* Its first page stays: whoever looks for a slot reads it. */
    fallocate(maps->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              (off_t)(slot_offset(number) + HEADER_BYTES), (off_t)(SLOT_BYTES - HEADER_BYTES));
}

void fm_pager_slot_set_kind(struct fm_pager_slot *slot, enum fm_pager_slot_kind kind)
{
    publish(&slot->kind, kind);
}

uint32_t fm_pager_store_find(struct fm_pager_maps *maps, int32_t inner_pid)
{
    uint32_t count = __atomic_load_n(&maps->state->slots, __ATOMIC_ACQUIRE);

    for (uint32_t i = 0; i < count; i++) {
        const struct fm_pager_slot *slot = fm_pager_slot(maps, i);

        if (slot && __atomic_load_n(&slot->kind, __ATOMIC_ACQUIRE) == FM_PAGER_SLOT_STORE &&
            slot->inner_pid == inner_pid)
            return i;
    }
    return UINT32_MAX;
}

/* ---- Areas ---- */

static struct fm_pager_area *table(const struct fm_pager_slot *slot, uint32_t which)
{
    return (struct fm_pager_area *)((uintptr_t)slot + HEADER_BYTES + which * TABLE_BYTES);
}

const struct fm_pager_area *fm_pager_areas(const struct fm_pager_slot *slot, uint32_t *count)
{
    uint32_t active = __atomic_load_n(&slot->active, __ATOMIC_ACQUIRE) & 1;

    *count = slot->counts[active];
    return table(slot, active);
}

static uint32_t area_index(const struct fm_pager_area *areas, uint32_t count, uint64_t address)
{
    uint32_t low = 0, high = count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (areas[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t fm_pager_area_index(const struct fm_pager_slot *slot, uint64_t address)
{
    uint32_t count;
    const struct fm_pager_area *areas = fm_pager_areas(slot, &count);

    return area_index(areas, count, address);
}

const struct fm_pager_area *fm_pager_area_find(const struct fm_pager_slot *slot, uint64_t address)
{
    uint32_t count;
    const struct fm_pager_area *areas = fm_pager_areas(slot, &count);
    uint32_t i = area_index(areas, count, address);

    return i < count && areas[i].start <= address ? &areas[i] : NULL;
}

int fm_pager_area_add(struct fm_pager_slot *slot, uint64_t start, uint64_t end)
{
    uint64_t pages = (end - start) / fm_pager_page();
    uint32_t *count = &slot->counts[slot->active];
    struct fm_pager_area *area = &table(slot, slot->active)[*count];

    if (*count >= AREAS_MAX || slot->pages + pages > BITMAP_BYTES * 8)
        return -FM_E_NO_SPACE;
    if ((uintptr_t)area % fm_pager_page() == 0 && reserve(area, sizeof(*area)) < 0)
        return -FM_E_NO_SPACE;
    (*count)++;
    *area =
        (struct fm_pager_area){.start = start, .end = end, .source = start, .first = slot->pages};
    slot->pages += pages;
    return 0;
}

/* The part of an area within [start, end); false when there is none. */
static bool clip(const struct fm_pager_area *area, uint64_t start, uint64_t end,
                 struct fm_pager_area *part)
{
    *part = *area;
    if (part->end > end)
        part->end = end;
    if (part->start < start) {
        part->source += start - part->start;
        part->first += (start - part->start) / fm_pager_page();
        part->start = start;
    }
    return part->start < part->end;
}

struct move {
    uint64_t from, to, len;
};

/* Appends the parts of [start, end) that stay where they are: neither moved nor overwritten. */
static uint32_t append_staying(struct fm_pager_area *out, uint32_t n,
                               const struct fm_pager_area *areas, uint32_t count,
                               const struct move *m, uint64_t start, uint64_t end)
{
    const uint64_t first_gap = m->from < m->to ? m->from : m->to;
    const uint64_t second_gap = m->from < m->to ? m->to : m->from;
    const uint64_t keep[3][2] = {
        {0, first_gap}, {first_gap + m->len, second_gap}, {second_gap + m->len, UINT64_MAX}};

    for (uint32_t i = area_index(areas, count, start); i < count && areas[i].start < end; i++) {
        for (int k = 0; k < 3; k++) {
            uint64_t low = keep[k][0] > start ? keep[k][0] : start;
            uint64_t high = keep[k][1] < end ? keep[k][1] : end;

            if (low < high && clip(&areas[i], low, high, &out[n]))
                n++;
        }
    }
    return n;
}

static uint32_t append_moved(struct fm_pager_area *out, uint32_t n,
                             const struct fm_pager_area *areas, uint32_t count,
                             const struct move *m)
{
    uint32_t i = area_index(areas, count, m->from);

    for (; i < count && areas[i].start < m->from + m->len; i++) {
        if (!clip(&areas[i], m->from, m->from + m->len, &out[n]))
            continue;
        out[n].start = out[n].start - m->from + m->to;
        out[n].end = out[n].end - m->from + m->to;
        n++;
    }
    return n;
}

int fm_pager_areas_move(struct fm_pager_slot *slot, uint64_t from, uint64_t to, uint64_t len,
                        uint64_t event)
{
    const struct move m = {from, to, len};
    uint32_t count, n;
    const struct fm_pager_area *areas = fm_pager_areas(slot, &count);
    uint32_t other = !slot->active;
    struct fm_pager_area *out = table(slot, other);

    if (slot->events[slot->active] == event)
        return 0;
    if (count + 4 > AREAS_MAX || reserve(out, (count + 4) * sizeof(*out)) < 0)
        return -FM_E_NO_SPACE;
    fm_pager_bits_drop(slot, to, to + len); /* nothing would ever fill them */
    n = append_staying(out, 0, areas, count, &m, 0, to);
    n = append_moved(out, n, areas, count, &m);
    n = append_staying(out, n, areas, count, &m, to, UINT64_MAX);
    slot->counts[other] = n;
    slot->events[other] = event;
    publish(&slot->active, other);
    return 0;
}

/* ---- Bits ---- */

static uint64_t *bitmap(const struct fm_pager_slot *slot)
{
    return (uint64_t *)((uintptr_t)slot + HEADER_BYTES + 2 * TABLE_BYTES);
}

static uint64_t word(const struct fm_pager_slot *slot, uint64_t i)
{
    return __atomic_load_n(&bitmap(slot)[i], __ATOMIC_ACQUIRE);
}

int fm_pager_bits_reserve(const struct fm_pager_slot *slot)
{
    return reserve(bitmap(slot), slot->pages / 8 + sizeof(uint64_t));
}

bool fm_pager_bit(const struct fm_pager_slot *slot, uint64_t page)
{
    return word(slot, page / 64) >> (page % 64) & 1;
}

/* The bits of [page, page + count) that lie in the word of the first, and how many these are. */
static uint64_t mask(uint64_t page, uint64_t count, uint64_t *covered)
{
    uint64_t room = 64 - page % 64;

    *covered = count < room ? count : room;
    return (*covered == 64 ? UINT64_MAX : (1ull << *covered) - 1) << (page % 64);
}

void fm_pager_bits_set(struct fm_pager_slot *slot, uint64_t page, uint64_t count)
{
    for (uint64_t n; count > 0; page += n, count -= n)
        __atomic_fetch_or(&bitmap(slot)[page / 64], mask(page, count, &n), __ATOMIC_RELEASE);
}

void fm_pager_bits_clear(struct fm_pager_slot *slot, uint64_t page, uint64_t count)
{
    for (uint64_t n; count > 0; page += n, count -= n) {
        uint64_t bits = mask(page, count, &n);

        if (word(slot, page / 64) & bits) /* others read it all the time */
            __atomic_fetch_and(&bitmap(slot)[page / 64], ~bits, __ATOMIC_RELEASE);
    }
}

void fm_pager_bits_drop(struct fm_pager_slot *slot, uint64_t start, uint64_t end)
{
    uint32_t count;
    const struct fm_pager_area *areas = fm_pager_areas(slot, &count);
    struct fm_pager_area part;

    for (uint32_t i = area_index(areas, count, start); i < count && areas[i].start < end; i++) {
        if (clip(&areas[i], start, end, &part))
            fm_pager_bits_clear(slot, part.first, (part.end - part.start) / fm_pager_page());
    }
}

uint64_t fm_pager_bits_count_both(const struct fm_pager_slot *slot,
                                  const struct fm_pager_slot *other)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < (slot->pages + 63) / 64; i++) {
        uint64_t bits = word(slot, i);

        sum += (uint64_t)__builtin_popcountll(bits && other ? bits & word(other, i) : bits);
    }
    return sum;
}

uint64_t fm_pager_bits_count(const struct fm_pager_slot *slot)
{
    return fm_pager_bits_count_both(slot, NULL);
}

uint64_t fm_pager_bits_next(const struct fm_pager_slot *slot, const struct fm_pager_slot *without,
                            uint64_t page, uint64_t end)
{
    while (page < end) {
        uint64_t bits = word(slot, page / 64);

        if (bits && without)
            bits &= ~word(without, page / 64);
        bits >>= page % 64;
        if (bits) {
            page += (uint64_t)__builtin_ctzll(bits);
            return page < end ? page : end;
        }
        page = (page / 64 + 1) * 64;
    }
    return end;
}

int fm_pager_slot_copy(struct fm_pager_slot *to, const struct fm_pager_slot *from)
{
    uint32_t count;
    const struct fm_pager_area *areas = fm_pager_areas(from, &count);

    to->inner_pid = from->inner_pid;
    to->store = from->store;
    to->pages = from->pages;
    if (reserve(table(to, to->active), (count + 1) * sizeof(*areas)) < 0 ||
        fm_pager_bits_reserve(to) < 0)
        return -FM_E_NO_SPACE;
    to->counts[to->active] = count;
    memcpy(table(to, to->active), areas, count * sizeof(*areas));
    for (uint64_t i = 0; i < (from->pages + 63) / 64; i++) {
        uint64_t bits = word(from, i);

        if (bits) /* zeroes are there already */
            bitmap(to)[i] = bits;
    }
    to->total = fm_pager_bits_count(to);
    return 0;
}
