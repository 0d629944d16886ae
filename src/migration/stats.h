/* Every counter of a migration. Units: bytes, milliseconds (with fraction), microseconds since the
 * epoch. */
#ifndef FM_MIGRATION_STATS_H
#define FM_MIGRATION_STATS_H

#include <stdint.h>

#include <jansson.h>

#include "state/page_stream.h"

struct fm_migration_stats {
    uint64_t started_us, ended_us; /* realtime */
    /* The freeze, step by step (source's monotonic clock relative to `frozen`, in ms). */
    double freeze_ms; /* last instruction on the source → first on the destination (RUNNING
                         received) */
    double dump_ms;   /* frozen → CRIU's images complete; files and last pages travel meanwhile */
    double transfer_ms;          /* images complete → all of them sent */
    double restore_ms;           /* all sent → READY */
    double decide_ms;            /* READY → decision durable */
    double resume_ms;            /* decision → RUNNING */
    double total_ms;             /* request → final state */
    double downtime_rollback_ms; /* of a rollback before the commit: frozen → running again on the
                                    source */
    /* Memory, by page streams. */
    unsigned rounds;
    unsigned throttle_percent; /* of processor time taken from the container in the end */
    uint64_t memory_bytes;     /* present pages, at the last look */
    uint64_t dirty_bytes;      /* found by the last scan */
    double dirty_rate;         /* bytes per second */
    double throughput;         /* bytes of pages per second */
    double expected_downtime_ms;
    double rounds_ms;       /* all rounds before the freeze */
    double scan_ms;         /* in the freeze: finding the last pages */
    uint64_t last_bytes;    /* pages that travelled in the freeze */
    double pages_ms;        /* in the freeze: files sent → last pages in the store */
    double fill_ms;         /* RUNNING → all memory in place */
    uint64_t missing_bytes; /* that were left on the source at the commit */
    uint64_t faults, fault_us_max;
    struct fm_page_stats pages;
    uint64_t wire_bytes;               /* sent and received on all connections */
    uint64_t image_bytes, early_bytes; /* checkpoint; of it sent before the dump had ended */
    uint64_t file_bytes, layer_bytes;
    uint64_t last_file_bytes; /* of them in the freeze */
    unsigned file_passes;     /* the one in the freeze included */
    uint64_t held_frames, released_frames, forwarded_frames, dropped_frames;
};
json_t *fm_migration_stats_to_json(const struct fm_migration_stats *stats);

#endif
