/* Memory index: which pages the processes of a frozen container have, and which of them stay on the
 * source for now. A file that the source writes and the destination reads.
 *
 * Format, little-endian: "FMMI", version (u32), number of processes (u32), then for each: host pid
 * (u32), inner pid (u32), start time (u64, fm_process_start_time of the source), numbers of present
 * and missing ranges (u64 each), the ranges as pairs of u64. */
#ifndef FM_STATE_MEMORY_INDEX_H
#define FM_STATE_MEMORY_INDEX_H

#include "state/memory.h"

#define FM_MEMORY_INDEX_PROCESSES_MAX 32768u

struct fm_memory_index_entry {
    pid_t pid, inner_pid;
    uint64_t start_time;
    struct fm_ranges present, missing;
};

struct fm_memory_index {
    struct fm_memory_index_entry *items;
    size_t count;
};

/* Of a final scan; `leave`: the dirty pages stay on the source. */
int fm_memory_index_save(const char *path, const struct fm_memory_scan *scan, bool leave,
                         struct fm_error *err);
/* FM_E_PROTOCOL when the file is not what it should be: ranges unaligned, unsorted, missing ones
 * that are not present … */
int fm_memory_index_load(const char *path, struct fm_memory_index *index, struct fm_error *err);
void fm_memory_index_clear(struct fm_memory_index *index);
uint64_t fm_memory_index_missing(const struct fm_memory_index *index); /* bytes */
/* The same of a file; 0 when there is none that can be read. */
uint64_t fm_memory_index_missing_in(const char *path);

#endif
