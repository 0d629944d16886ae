/* Memory map of a process: its mappings as /proc/PID/maps and smaps show them, and which of them
 * the state engine may move.
 *
 * Format: Documentation/filesystems/proc.rst. */
#ifndef FM_STATE_MEMORY_MAP_H
#define FM_STATE_MEMORY_MAP_H

#include "state/memory.h"

struct fm_mapping {
    uint64_t start, end;
    const char *line; /* its line of maps, of `line_len` bytes, no newline; in the map's text */
    size_t line_len;
    const char *traits; /* what follows the range: permissions, offset, device, inode, name */
    const char *flags;  /* of VmFlags, e.g. "rd wr mr mw me ac"; NULL: not read */
    size_t flags_len;
    bool anonymous; /* private, without a file behind it, nothing special of the kernel's */
};

/* Sorted by address. */
struct fm_memory_map {
    char *text; /* of /proc/PID/maps or smaps */
    size_t len;
    struct fm_mapping *items;
    size_t count;
};
void fm_memory_map_clear(struct fm_memory_map *map);

/* From maps: fast, no flags. FM_E_NOT_FOUND: the process has ended; a zombie's map is empty. */
int fm_memory_map_read(pid_t pid, struct fm_memory_map *map, struct fm_error *err);
/* From smaps, with the flags: walks every page. */
int fm_memory_map_read_flags(pid_t pid, struct fm_memory_map *map, struct fm_error *err);
/* Takes over `text` (malloc'ed). FM_E_INVALID when it is neither. */
int fm_memory_map_parse(char *text, size_t len, struct fm_memory_map *map, struct fm_error *err);

bool fm_mapping_has_flag(const struct fm_mapping *m, const char *flag);
/* The same line and the same flags, but for those which tracking itself changes. */
bool fm_mapping_same_line(const struct fm_mapping *a, const struct fm_mapping *b);
bool fm_mapping_same_flags(const struct fm_mapping *a, const struct fm_mapping *b);
/* What CRIU fills lazily at a restore, or less: private anonymous memory, not locked, not huge, no
 * shadow stack, not droppable, no device. Without flags: as far as the line tells. */
bool fm_mapping_is_movable(const struct fm_mapping *m);
/* The mapping that holds `address`, or the first one behind it; NULL: none. */
const struct fm_mapping *fm_memory_map_find(const struct fm_memory_map *map, uint64_t address);

#endif
