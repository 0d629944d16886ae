/* The receiving half of a connection whose frames come from a fuzzer's input. They are well-formed,
 * as the wire has checked that before anybody sees them; what they carry is not. */
#ifndef FM_TESTS_FAKE_WIRE_H
#define FM_TESTS_FAKE_WIRE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/text.h"
#include "wire/connection.h"

struct fm_connection {
    const uint8_t *data; /* what is left of the input */
    size_t size;
    XXH3_state_t *digest;
    uint64_t bytes;
    uint8_t *payload; /* a copy with its own bounds, so that reads past its end are found */
    char text[128];
};

static inline size_t fake_wire_take(struct fm_connection *c, size_t n)
{
    if (n > c->size)
        n = c->size;
    free(c->payload);
    c->payload = fm_xmalloc(n + 1);
    if (n > 0)
        memcpy(c->payload, c->data, n);
    c->payload[n] = '\0';
    c->data += n;
    c->size -= n;
    return n;
}

static inline size_t fake_wire_number(struct fm_connection *c)
{
    size_t n = fake_wire_take(c, 2);

    return n < 2 ? 0 : (size_t)c->payload[0] << 8 | c->payload[1];
}

/* DATA_END with the count and the digest that the receiver expects. */
static inline void fake_wire_end(struct fm_connection *c, struct fm_frame *frame)
{
    XXH128_canonical_t canonical;
    int n = snprintf(c->text, sizeof(c->text), "{\"bytes\":%llu,\"digest\":\"",
                     (unsigned long long)c->bytes);

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(c->digest));
    for (size_t i = 0; i < sizeof(canonical.digest); i++)
        n += snprintf(c->text + n, sizeof(c->text) - (size_t)n, "%02x", canonical.digest[i]);
    n += snprintf(c->text + n, sizeof(c->text) - (size_t)n, "\"}");
    *frame = (struct fm_frame){FM_FRAME_DATA_END, (uint32_t)n, (const uint8_t *)c->text};
}

static inline void fake_wire_data(struct fm_connection *c, size_t n, struct fm_frame *frame)
{
    n = fake_wire_take(c, n);
    XXH3_128bits_update(c->digest, c->payload, n);
    c->bytes += n;
    *frame = (struct fm_frame){FM_FRAME_DATA, (uint32_t)n, c->payload};
}

static inline void fake_wire_restart(struct fm_connection *c)
{
    XXH3_128bits_reset(c->digest);
    c->bytes = 0;
}

static inline void fake_wire_open(struct fm_connection *c, const uint8_t *data, size_t size)
{
    *c = (struct fm_connection){.data = data, .size = size, .digest = XXH3_createState()};
    fake_wire_restart(c);
}

static inline void fake_wire_close(struct fm_connection *c)
{
    XXH3_freeState(c->digest);
    free(c->payload);
}

int fm_connection_send(struct fm_connection *c, enum fm_frame_type type, const void *payload,
                       size_t len, struct fm_error *err)
{
    (void)c;
    (void)type;
    (void)payload;
    (void)len;
    return fm_error_set(err, FM_E_CLOSED, "only receives");
}

const struct fm_tls_peer *fm_connection_peer(const struct fm_connection *c)
{
    static const struct fm_tls_peer nobody = {.name = "fuzzer"};

    (void)c;
    return &nobody;
}

#endif
