/* SHA-256 as OCI writes it: "sha256:<64 hex digits>". */
#ifndef FM_CONTAINER_DIGEST_H
#define FM_CONTAINER_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define FM_DIGEST_SIZE 72 /* with the NUL */

struct fm_digest {
    void *state;
};
/* Pairs: every begun digest is ended. Failure to begin aborts (the library is unusable). */
void fm_digest_begin(struct fm_digest *d);
void fm_digest_add(struct fm_digest *d, const void *data, size_t len);
void fm_digest_end(struct fm_digest *d, char out[FM_DIGEST_SIZE]);

/* Of everything that can still be read from fd. */
int fm_digest_fd(int fd, char out[FM_DIGEST_SIZE], uint64_t *bytes, struct fm_error *err);

#endif
