#include "container/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <gnutls/crypto.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"

#define STEP (256u << 10)

void fm_digest_begin(struct fm_digest *d)
{
    gnutls_hash_hd_t state;

    if (gnutls_hash_init(&state, GNUTLS_DIG_SHA256) < 0)
        abort();
    d->state = state;
}

void fm_digest_add(struct fm_digest *d, const void *data, size_t len)
{
    gnutls_hash(d->state, data, len);
}

void fm_digest_end(struct fm_digest *d, char out[FM_DIGEST_SIZE])
{
    unsigned char raw[32];

    gnutls_hash_deinit(d->state, raw);
    d->state = NULL;
    memcpy(out, "sha256:", 7);
    for (size_t i = 0; i < sizeof(raw); i++)
        snprintf(out + 7 + 2 * i, 3, "%02x", raw[i]);
}

int fm_digest_fd(int fd, char out[FM_DIGEST_SIZE], uint64_t *bytes, struct fm_error *err)
{
    fm_autofree unsigned char *buf = fm_xmalloc(STEP);
    struct fm_digest d;
    uint64_t total = 0;
    ssize_t n;

    fm_digest_begin(&d);
    while ((n = fm_read_full(fd, buf, STEP)) > 0) {
        fm_digest_add(&d, buf, (size_t)n);
        total += (uint64_t)n;
    }
    fm_digest_end(&d, out);
    if (bytes)
        *bytes = total;
    return n < 0 ? fm_error_errno(err, (int)-n, "cannot read") : 0;
}
