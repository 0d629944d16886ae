#include "state/memory_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"

/* 65,530 mappings (vm.max_map_count's default) of some 800 bytes are 50 MiB. */
#define MAPS_MAX (512u << 20)

void fm_memory_map_clear(struct fm_memory_map *map)
{
    free(map->text);
    free(map->items);
    *map = (struct fm_memory_map){0};
}

/* ---- a line of maps ---- */

/* A token of a line; moves on behind it and the blanks that follow. */
struct token {
    const char *text;
    size_t len;
};

static struct token next_token(const char **at, const char *end)
{
    struct token token = {*at, 0};

    while (*at < end && **at != ' ')
        (*at)++;
    token.len = (size_t)(*at - token.text);
    while (*at < end && **at == ' ')
        (*at)++;
    return token;
}

static bool token_is(struct token token, const char *text)
{
    return token.len == strlen(text) && memcmp(token.text, text, token.len) == 0;
}

static bool starts_with(const char *text, size_t len, const char *prefix)
{
    return len >= strlen(prefix) && memcmp(text, prefix, strlen(prefix)) == 0;
}

/* Names of ordinary memory; [vdso], [vvar], [uprobes] and whatever a later kernel adds are not. */
static bool is_ordinary_name(const char *name, size_t len)
{
    return len == 0 || (len == 6 && starts_with(name, len, "[heap]")) ||
           starts_with(name, len, "[stack]") || starts_with(name, len, "[stack:") ||
           starts_with(name, len, "[anon:");
}

static bool is_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

static const char *parse_hex(const char *at, const char *end, uint64_t *value)
{
    *value = 0;
    for (; at < end && is_digit(*at); at++)
        *value = *value << 4 | (uint64_t)(*at <= '9' ? *at - '0' : *at - 'a' + 10);
    return at;
}

/* "START-END perms offset major:minor inode   name"; false when it is something else. */
static bool parse_line(const char *line, const char *end, struct fm_mapping *m)
{
    const char *at = parse_hex(line, end, &m->start);
    struct token perms, device, inode;

    if (at == line || at == end || *at++ != '-')
        return false;
    at = parse_hex(at, end, &m->end);
    if (at == end || *at++ != ' ' || m->start >= m->end)
        return false;
    m->line = line;
    m->line_len = (size_t)(end - line);
    m->traits = at;
    perms = next_token(&at, end);
    next_token(&at, end); /* offset */
    device = next_token(&at, end);
    inode = next_token(&at, end);
    if (perms.len != 4 || inode.len == 0)
        return false;
    m->anonymous = perms.text[3] == 'p' && token_is(device, "00:00") && token_is(inode, "0") &&
                   is_ordinary_name(at, (size_t)(end - at));
    return true;
}

/* ---- the whole ---- */

/* While a process runs, a mapping that changes may be read twice: the later wins. */
static void add(struct fm_memory_map *map, size_t *capacity, const struct fm_mapping *m)
{
    while (map->count > 0 && map->items[map->count - 1].end > m->start)
        map->count--;
    if (map->count == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 64;
        map->items = fm_xrealloc(map->items, *capacity * sizeof(*map->items));
    }
    map->items[map->count++] = *m;
}

static const char FLAGS_PREFIX[] = "VmFlags: ";

static void note_flags(struct fm_memory_map *map, const char *line, const char *end)
{
    struct fm_mapping *m = &map->items[map->count - 1];

    m->flags = line + strlen(FLAGS_PREFIX);
    while (end > m->flags && end[-1] == ' ')
        end--;
    m->flags_len = (size_t)(end - m->flags);
}

int fm_memory_map_parse(char *text, size_t len, struct fm_memory_map *map, struct fm_error *err)
{
    const char *at = text, *end = text + len, *newline;
    size_t capacity = 0;

    *map = (struct fm_memory_map){.text = text, .len = len};
    for (; at < end; at = newline + 1) {
        struct fm_mapping m = {0};

        newline = memchr(at, '\n', (size_t)(end - at));
        if (!newline)
            newline = end;
        if (parse_line(at, newline, &m)) {
            add(map, &capacity, &m);
        } else if (*at < 'A' || *at > 'Z' || map->count == 0) { /* smaps: "Rss:  12 kB" */
            fm_memory_map_clear(map);
            return fm_error_set(err, FM_E_INVALID, "a line of a memory map makes no sense");
        } else if (starts_with(at, (size_t)(newline - at), FLAGS_PREFIX)) {
            note_flags(map, at, newline);
        }
    }
    return 0;
}

static int read_map(pid_t pid, const char *file, struct fm_memory_map *map, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("/proc/%d/%s", (int)pid, file);
    struct fm_error why = {0};
    char *text;
    size_t len;

    *map = (struct fm_memory_map){0};
    if (fm_file_read(path, MAPS_MAX, &text, &len, &why) < 0) {
        if (why.sys_errno == ESRCH || why.sys_errno == ENOENT)
            return fm_error_set(err, FM_E_NOT_FOUND, "process %d has ended", (int)pid);
        return fm_error_set(err, FM_E_IO, "%s", why.text);
    }
    if (fm_memory_map_parse(text, len, map, err) < 0)
        return fm_error_prefix(err, "cannot read '%s'", path);
    return 0;
}

int fm_memory_map_read(pid_t pid, struct fm_memory_map *map, struct fm_error *err)
{
    return read_map(pid, "maps", map, err);
}

int fm_memory_map_read_flags(pid_t pid, struct fm_memory_map *map, struct fm_error *err)
{
    return read_map(pid, "smaps", map, err);
}

/* ---- flags ---- */

bool fm_mapping_has_flag(const struct fm_mapping *m, const char *flag)
{
    const char *at = m->flags, *end = at + m->flags_len;

    while (at < end) {
        if (token_is(next_token(&at, end), flag))
            return true;
    }
    return false;
}

bool fm_mapping_same_line(const struct fm_mapping *a, const struct fm_mapping *b)
{
    return a->line_len == b->line_len && memcmp(a->line, b->line, a->line_len) == 0;
}

/* "uw" comes and goes with our own registration, "sd" with soft-dirty tracking, and with "gu" there
 * may be guard regions, or not. */
static struct token next_flag(const char **at, const char *end)
{
    struct token token;

    do
        token = next_token(at, end);
    while (token_is(token, "uw") || token_is(token, "sd") || token_is(token, "gu"));
    return token;
}

bool fm_mapping_same_flags(const struct fm_mapping *a, const struct fm_mapping *b)
{
    const char *at_a = a->flags, *end_a = at_a + a->flags_len;
    const char *at_b = b->flags, *end_b = at_b + b->flags_len;

    for (;;) {
        struct token one = next_flag(&at_a, end_a), other = next_flag(&at_b, end_b);

        if (one.len != other.len || memcmp(one.text, other.text, one.len) != 0)
            return false;
        if (one.len == 0)
            return true;
    }
}

bool fm_mapping_is_movable(const struct fm_mapping *m)
{
    /* locked, huge pages, droppable, shadow stack, device memory (2), mixed, wiped on fork */
    static const char *const excluded[] = {"lo", "ht", "dp", "ss", "io", "pf", "mm", "wf"};

    if (!m->anonymous)
        return false;
    for (size_t i = 0; m->flags && i < FM_COUNT(excluded); i++) {
        if (fm_mapping_has_flag(m, excluded[i]))
            return false;
    }
    return true;
}

const struct fm_mapping *fm_memory_map_find(const struct fm_memory_map *map, uint64_t address)
{
    size_t low = 0, high = map->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (map->items[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < map->count ? &map->items[low] : NULL;
}
