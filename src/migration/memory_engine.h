/* Between the files of the real memory interface: the engine of one host. */
#ifndef FM_MIGRATION_MEMORY_ENGINE_H
#define FM_MIGRATION_MEMORY_ENGINE_H

#include "migration/memory_interface.h"
#include "state/tracker.h"

/* Below the directory of page stores: those whose pages come one by one, in no order. */
#define FM_PAGES_SCATTERED "scattered"

struct fm_memory_engine {
    struct fm_memory_config config;
    struct fm_memory_ops ops;
    enum fm_tracker_kind tracker; /* the best that works here */
    char tracker_reason[1024];    /* why not a better one; "" */
    char pager_reason[1024];      /* "": it works */
    char skeleton_reason[1024];   /* "": it works */
};

/* Their part of the table. */
void fm_memory_source_fill(struct fm_memory_ops *ops);
void fm_memory_sink_fill(struct fm_memory_ops *ops);

#endif
