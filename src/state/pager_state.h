/* What a pager must not forget when it dies: which pages are still to be filled, and where.
 *
 * It lies in a file beside the store, which the pager's keeper and the daemon hold as well, and
 * which is there when all of them are dead. Every change is made so that a reader finds it either
 * done or not done, whenever its maker was killed. The file is huge and sparse: a header, then
 * slots of one size, for tasks and for the stores they are filled from. Room is made before
 * anything is written: without it a full file system would kill with SIGBUS. */
#ifndef FM_STATE_PAGER_STATE_H
#define FM_STATE_PAGER_STATE_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "state/pager_protocol.h"

/* Pages of one task's memory that follow each other in its store as well. */
struct fm_pager_area {
    uint64_t start, end; /* where they are now in the task's address space */
    uint64_t source;     /* where they were: the offset in the store's file */
    uint64_t first;      /* number of the first page in the bitmaps */
};

enum fm_pager_slot_kind { FM_PAGER_SLOT_FREE, FM_PAGER_SLOT_STORE, FM_PAGER_SLOT_TASK };

/* STORE: the pages of one process of the source; `table` never changes (start equals source), and a
 * bit is set while the page is not in the store's file yet.
 * TASK: one address space that is being filled; a bit is set while the page is to be filled. */
struct fm_pager_slot {
    uint32_t kind;
    int32_t inner_pid;
    int32_t fd;         /* of a task: its userfaultfd */
    int32_t pidfd;      /* of a task: of its process; -1 for one that was forked since */
    uint32_t store;     /* of a task: number of its store's slot */
    uint32_t ended;     /* of a task: nothing is left to be done */
    uint32_t held;      /* of a task: the daemon may have duplicates of its descriptors */
    uint64_t serial;    /* of a task: no other has the same */
    uint64_t born;      /* of a task: the event of its fork; 0: CRIU has sent it */
    uint64_t pages;     /* bits in use */
    uint64_t total;     /* pages that were to be filled at first */
    uint32_t active;    /* which of the two tables counts */
    uint32_t counts[2]; /* areas in each, sorted by address */
    uint64_t events[2]; /* the event that each was made for */
};

struct fm_pager_state {
    uint32_t magic;
    uint32_t page_size;
    uint32_t slots; /* ever used */
    uint32_t resumed;
    uint32_t done;
    int32_t lazy_listen, lazy; /* CRIU's connection */
    int32_t lazy_number;       /* what came last over it; see pager_criu.c */
    int32_t lazy_pid;          /* a pid whose descriptor is due */
    int32_t control_listen, control;
    int32_t deposit;        /* our descriptor of it; -1: none */
    int32_t deposit_pid;    /* who keeps it, with the number below; 0: nobody does */
    uint64_t deposit_inode; /* see base/deposit.h */
    uint64_t total_bytes, faults, fault_us_max;
    uint64_t serial;         /* the last one given out */
    uint64_t event;          /* number of the one below */
    uint32_t event_slot;     /* whose it is */
    struct uffd_msg message; /* as the kernel wrote it; event 0 when it was dealt with */
};

/* Maps of a state; one for each process that looks at it. */
struct fm_pager_maps {
    int fd;
    struct fm_pager_state *state;
    struct fm_pager_slot **slots; /* those that were asked for */
    uint32_t capacity;
};

uint64_t fm_pager_page(void); /* bytes of a page */

/* Makes the file of a store anew. */
int fm_pager_state_create(struct fm_pager_maps *maps, const char *store_dir, struct fm_error *err);
/* The one that dead ones have left. */
int fm_pager_state_find(struct fm_pager_maps *maps, const char *store_dir, struct fm_error *err);
/* `fd` becomes the maps' own, also on failure. FM_E_INVALID when it is none of this version. */
int fm_pager_state_open(struct fm_pager_maps *maps, int fd, struct fm_error *err);
/* For the processes that share our descriptors, until the last of them ends. FM_E_REFUSED: another
 * pager has it. */
int fm_pager_state_lock(const struct fm_pager_maps *maps, struct fm_error *err);
void fm_pager_state_close(struct fm_pager_maps *maps);

/* NULL when there is no such slot, or no memory for its map. */
struct fm_pager_slot *fm_pager_slot(struct fm_pager_maps *maps, uint32_t number);
/* A free one; its kind is to be set last. UINT32_MAX when there is none. */
uint32_t fm_pager_slot_allocate(struct fm_pager_maps *maps);
void fm_pager_slot_release(struct fm_pager_maps *maps, uint32_t number);
void fm_pager_slot_set_kind(struct fm_pager_slot *slot, enum fm_pager_slot_kind kind);
/* The store of an inner pid; UINT32_MAX when it is not known (yet). */
uint32_t fm_pager_store_find(struct fm_pager_maps *maps, int32_t inner_pid);

const struct fm_pager_area *fm_pager_areas(const struct fm_pager_slot *slot, uint32_t *count);
/* The index of the area that holds an address, or of the first one after it (`count`: none). */
uint32_t fm_pager_area_index(const struct fm_pager_slot *slot, uint64_t address);
/* The area that holds an address, or NULL. */
const struct fm_pager_area *fm_pager_area_find(const struct fm_pager_slot *slot, uint64_t address);
/* Adds one behind the others while a slot is made; -FM_E_NO_SPACE when it, or the file system, is
 * full. */
int fm_pager_area_add(struct fm_pager_slot *slot, uint64_t start, uint64_t end);
/* Room for the bits of all areas; before the first of them is looked at. */
int fm_pager_bits_reserve(const struct fm_pager_slot *slot);
/* A child's slot: what its parent has still to be filled with. */
int fm_pager_slot_copy(struct fm_pager_slot *to, const struct fm_pager_slot *from);
/* What mremap did, for the event of that number. Doing it again for the same one does nothing. */
int fm_pager_areas_move(struct fm_pager_slot *slot, uint64_t from, uint64_t to, uint64_t len,
                        uint64_t event);

/* Bits, safe against others who change other bits meanwhile. */
bool fm_pager_bit(const struct fm_pager_slot *slot, uint64_t page);
void fm_pager_bits_set(struct fm_pager_slot *slot, uint64_t page, uint64_t count);
void fm_pager_bits_clear(struct fm_pager_slot *slot, uint64_t page, uint64_t count);
/* Clears those of the pages within [start, end), by address. */
void fm_pager_bits_drop(struct fm_pager_slot *slot, uint64_t start, uint64_t end);
uint64_t fm_pager_bits_count(const struct fm_pager_slot *slot);
/* Bits set in both (`other` may be NULL: in the first). */
uint64_t fm_pager_bits_count_both(const struct fm_pager_slot *slot,
                                  const struct fm_pager_slot *other);
/* The first page of [page, end) that is set in `slot` and not set in `without`; `end` when none. */
uint64_t fm_pager_bits_next(const struct fm_pager_slot *slot, const struct fm_pager_slot *without,
                            uint64_t page, uint64_t end);

#endif
