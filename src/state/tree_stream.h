/* File trees over a connection: a pax archive (libarchive) cut into checked DATA frames.
 *
 * A tree is three streams. The first is the list of all paths, each ended by a NUL, and empty when
 * the whole tree travels; the second is the archive; the third lists the paths of the first that
 * were gone when their turn came.
 *
 * An entry with the extended attribute FM_TREE_PATCH_KEY is a patch of a file that a pass before it
 * has brought, whose size the attribute tells in decimal: only its data is written, what lies
 * between stays, and then it gets the entry's size. Names of real attributes have a prefix that
 * this one does not. */
#ifndef FM_STATE_TREE_STREAM_H
#define FM_STATE_TREE_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/text.h"
#include "state/tree_blocks.h"
#include "wire/connection.h"

#define FM_TREE_PATCH_KEY "fleximigrate.patch"
#define FM_TREE_PATCH_VALUE_MAX 21 /* with a NUL */

struct fm_tree_stats {
    uint64_t entries;
    uint64_t bytes;   /* of archive; each entry costs 0.5 to 2 KiB beside its content */
    uint64_t patches; /* of the entries; known to the sender only */
};

/* Sends everything below `dir` (ownership, modes, times in ns, xattrs incl. trusted.overlay.*,
 * ACLs, hard links, device nodes, FIFOs, sockets skipped, sparse files) as DATA … DATA_END.
 * `changed_after_us` > 0 leaves out what has an older ctime, and then a list of all paths goes
 * first, so that the receiver removes what is gone. For the next pass give the real time just
 * *before* this one began. What is mounted below `dir` stays out. The tree may change during the
 * pass; the next one puts that right. */
int fm_tree_send(struct fm_connection *c, const char *dir, uint64_t changed_after_us,
                 struct fm_tree_stats *stats, struct fm_error *err);

/* The same with more to say. A store to a shared mapping touches the ctime only at its page's first
 * fault, and on tmpfs never: an unchanged ctime does not mean an unchanged file. Hence `always`;
 * without it dirty pages are written back before they are read, which makes the next store fault
 * (and costs disk writes, and does not help on tmpfs). */
struct fm_tree_selection {
    uint64_t changed_after_us;
    /* Paths ("data/db.lmdb") that travel in any case: what was mapped shared and writable when this
     * pass began, or when one before it did. NULL: not known. See fm_tree_mapped_files. */
    const struct fm_strv *always;
    bool last; /* nobody writes during this pass (frozen), and no other follows */
    /* Large files travel as patches where this knows what the receiver has of the tree `name`, and
     * are remembered in it. NULL: all files travel whole. */
    struct fm_tree_blocks *blocks;
    const char *name;
};
int fm_tree_send_selected(struct fm_connection *c, const char *dir,
                          const struct fm_tree_selection *selection, struct fm_tree_stats *stats,
                          struct fm_error *err);
/* Adds the files that a process has mapped shared and writable, as paths relative to its root. */
int fm_tree_mapped_files(pid_t pid, struct fm_strv *paths, struct fm_error *err);

/* Receives into `dir` (exists). Hostile input: no path leaves `dir` (openat2 RESOLVE_BENEATH |
 * NO_SYMLINKS), bytes at most `max_bytes`. Nothing of a frame is written before its checksum was
 * verified. After a pass with changes every listed path exists, or it fails. When it fails on its
 * own account (no space …) the connection can still carry the reason to the sender. Xattrs other
 * than user.*, trusted.overlay.*, security.capability and POSIX ACLs do not travel. */
int fm_tree_receive(struct fm_connection *c, const char *dir, uint64_t max_bytes,
                    struct fm_tree_stats *stats, struct fm_error *err);

#endif
