/* runc's record of a container that was restored, kept for the case that runc takes it away.
 *
 * A restore whose tasks run already cannot fail any more, but runc takes the end of CRIU, or of the
 * interposer, for a failure, and forgets the container while it runs. */
#ifndef FM_CONTAINER_RUNC_RECORD_H
#define FM_CONTAINER_RUNC_RECORD_H

#include <stdbool.h>

#include "base/error.h"

/* Keeps the present record of `id` in runc's directory `root` (beside it: no copy is made). */
int fm_runc_record_keep(const char *root, const char *id, struct fm_error *err);

/* Puts the kept record back when runc has none and the container's init still is the process that
 * it names; true when it did. */
bool fm_runc_record_put_back(const char *root, const char *id);

void fm_runc_record_forget(const char *root, const char *id);

#endif
