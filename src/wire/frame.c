#include "wire/frame.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>

#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h> /* the widest vectors that the CPU has */
#endif

static const uint8_t magic[4] = {'F', 'M', 'W', '1'};

static void put16(uint8_t *out, uint16_t value)
{
    value = htobe16(value);
    memcpy(out, &value, sizeof(value));
}

static void put32(uint8_t *out, uint32_t value)
{
    value = htobe32(value);
    memcpy(out, &value, sizeof(value));
}

static void put64(uint8_t *out, uint64_t value)
{
    value = htobe64(value);
    memcpy(out, &value, sizeof(value));
}

static uint16_t get16(const uint8_t *in)
{
    uint16_t value;

    memcpy(&value, in, sizeof(value));
    return be16toh(value);
}

static uint32_t get32(const uint8_t *in)
{
    uint32_t value;

    memcpy(&value, in, sizeof(value));
    return be32toh(value);
}

static uint64_t get64(const uint8_t *in)
{
    uint64_t value;

    memcpy(&value, in, sizeof(value));
    return be64toh(value);
}

/* NULL when there is no such type. */
static const char *type_name(uint16_t type)
{
    switch (type) {
#define X(name, value)                                                                             \
    case value:                                                                                    \
        return #name;
        FM_FRAME_TYPES(X)
#undef X
    default:
        return NULL;
    }
}

const char *fm_frame_type_name(uint16_t type)
{
    const char *name = type_name(type);

    return name ? name : "?";
}

void fm_frame_header_encode(const struct fm_frame_header *header, uint8_t out[FM_FRAME_HEADER_SIZE])
{
    memcpy(out, magic, 4);
    put16(out + 4, header->type);
    put16(out + 6, 0);
    put32(out + 8, header->length);
    put32(out + 12, 0);
    memcpy(out + 16, header->checksum, 16);
    put64(out + 32, header->sequence);
}

int fm_frame_header_decode(const uint8_t in[FM_FRAME_HEADER_SIZE], struct fm_frame_header *header,
                           struct fm_error *err)
{
    if (memcmp(in, magic, 4) != 0)
        return fm_error_set(err, FM_E_PROTOCOL, "not a frame of ours (it begins %02x%02x%02x%02x)",
                            in[0], in[1], in[2], in[3]);
    if (get16(in + 6) != 0 || get32(in + 12) != 0)
        return fm_error_set(err, FM_E_PROTOCOL, "a frame has reserved fields set");
    header->type = get16(in + 4);
    header->length = get32(in + 8);
    memcpy(header->checksum, in + 16, 16);
    header->sequence = get64(in + 32);
    if (!type_name(header->type))
        return fm_error_set(err, FM_E_PROTOCOL, "unknown frame type %u", header->type);
    if (header->length > FM_FRAME_MAX_PAYLOAD)
        return fm_error_set(err, FM_E_PROTOCOL,
                            "a frame of %" PRIu32 " bytes is over the limit of %u", header->length,
                            FM_FRAME_MAX_PAYLOAD);
    return 0;
}

void fm_frame_checksum(const void *payload, size_t len, uint8_t out[16])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(len ? payload : "", len));
    memcpy(out, canonical.digest, 16);
}
