/* libFuzzer: what a peer may send as a frame's header and as a control frame's JSON. */
#include <stdlib.h>
#include <string.h>

#include "wire/connection.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was accepted must encode to the same bytes, and lie within the limits. */
static void check_header(const uint8_t *data)
{
    struct fm_frame_header header;
    uint8_t again[FM_FRAME_HEADER_SIZE];
    struct fm_error err = {0};

    if (fm_frame_header_decode(data, &header, &err) < 0) {
        if (err.code != FM_E_PROTOCOL || !err.text[0])
            abort();
        return;
    }
    fm_frame_header_encode(&header, again);
    if (memcmp(again, data, sizeof(again)) != 0 || header.length > FM_FRAME_MAX_PAYLOAD)
        abort();
}

static void check_json(const uint8_t *data, size_t size)
{
    const struct fm_frame frame = {
        .type = FM_FRAME_PREPARE,
        .length = (uint32_t)size,
        .payload = data,
    };
    struct fm_error err = {0};
    json_t *doc = fm_frame_json(&frame, &err);

    if (!doc && err.code != FM_E_PROTOCOL)
        abort();
    json_decref(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < FM_FRAME_HEADER_SIZE) {
        check_json(data, size);
        return 0;
    }
    check_header(data);
    check_json(data + FM_FRAME_HEADER_SIZE, size - FM_FRAME_HEADER_SIZE);
    return 0;
}
