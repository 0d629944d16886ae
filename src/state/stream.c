#include "state/stream.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"

#define DRAIN_US (5u * 1000 * 1000)

void fm_stream_init(struct fm_stream *s, struct fm_connection *c)
{
    *s = (struct fm_stream){.connection = c, .digest = XXH3_createState()};
    if (!s->digest)
        abort();
    XXH3_128bits_reset(s->digest);
}

void fm_stream_clear(struct fm_stream *s)
{
    XXH3_freeState(s->digest);
    s->digest = NULL;
}

void fm_stream_digest(const struct fm_stream *s, char hex[FM_STREAM_DIGEST_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(s->digest));
    for (size_t i = 0; i < sizeof(canonical.digest); i++) {
        hex[2 * i] = digits[canonical.digest[i] >> 4];
        hex[2 * i + 1] = digits[canonical.digest[i] & 15];
    }
    hex[2 * sizeof(canonical.digest)] = '\0';
}

void fm_stream_account(struct fm_stream *s, const void *data, size_t len)
{
    XXH3_128bits_update(s->digest, data, len);
    s->bytes += len;
}

int fm_stream_send(struct fm_stream *s, const void *data, size_t len, struct fm_error *err)
{
    const uint8_t *p = data;

    while (len > 0) {
        size_t n = len < FM_STREAM_CHUNK ? len : FM_STREAM_CHUNK;
        int r = fm_connection_send(s->connection, FM_FRAME_DATA, p, n, err);
        if (r < 0)
            return r;
        fm_stream_account(s, p, n);
        p += n;
        len -= n;
    }
    return 0;
}

int fm_stream_send_end(struct fm_stream *s, struct fm_error *err)
{
    char hex[FM_STREAM_DIGEST_SIZE];

    fm_stream_digest(s, hex);
    json_auto_t *end = json_pack("{s:I,s:s}", "bytes", (json_int_t)s->bytes, "digest", hex);
    return fm_connection_send_json(s->connection, FM_FRAME_DATA_END, end, err);
}

static int check_end(const struct fm_stream *s, const struct fm_frame *frame, struct fm_error *err)
{
    json_int_t bytes = 0;
    const char *digest = NULL;
    char hex[FM_STREAM_DIGEST_SIZE];

    json_auto_t *end = fm_frame_json(frame, err);
    if (!end)
        return err ? -(int)err->code : -FM_E_PROTOCOL;
    if (json_unpack(end, "{s:I,s:s}", "bytes", &bytes, "digest", &digest) < 0)
        return fm_error_set(err, FM_E_PROTOCOL, "DATA_END without \"bytes\" and \"digest\"");
    fm_stream_digest(s, hex);
    if ((uint64_t)bytes != s->bytes || strcmp(digest, hex) != 0)
        return fm_error_set(err, FM_E_CHECKSUM,
                            "checksum mismatch: %" PRIu64 " bytes arrived with digest %s, which is "
                            "not what the sender computed over its %" JSON_INTEGER_FORMAT " bytes",
                            s->bytes, hex, bytes);
    return 0;
}

/* What ends a stream before its time: the peer's reason if it gives one. */
static int refuse_frame(const struct fm_frame *frame, struct fm_error *err)
{
    const char *code = NULL;
    const char *message = NULL;

    if (frame->type == FM_FRAME_ABORT)
        return fm_error_set(err, FM_E_CANCELLED, "the sender aborted the transfer");
    if (frame->type != FM_FRAME_ERROR && frame->type != FM_FRAME_FAILED)
        return fm_error_set(err, FM_E_PROTOCOL, "expected DATA or DATA_END, got %s",
                            fm_frame_type_name(frame->type));

    json_auto_t *reason = fm_frame_json(frame, NULL);
    if (!reason || json_unpack(reason, "{s:s,s:s}", "code", &code, "message", &message) < 0)
        return fm_error_set(err, FM_E_PROTOCOL, "the sender failed and gave no reason");
    enum fm_code known = fm_code_by_name(code);
    return fm_error_set(err, known == FM_E_OK ? FM_E_FAILED : known, "the sender failed: %s",
                        message);
}

int fm_stream_recv(struct fm_stream *s, uint64_t limit, const void **data, size_t *len,
                   struct fm_error *err)
{
    struct fm_frame frame;

    *data = NULL;
    *len = 0;
    int r = fm_connection_recv(s->connection, &frame, err);
    if (r < 0)
        return r;
    if (frame.type == FM_FRAME_DATA_END)
        return check_end(s, &frame, err);
    s->ended_by_peer = frame.type != FM_FRAME_DATA;
    if (s->ended_by_peer)
        return refuse_frame(&frame, err);
    if (frame.length == 0 || frame.length > FM_STREAM_CHUNK)
        return fm_error_set(err, FM_E_PROTOCOL, "a DATA frame of %" PRIu32 " bytes", frame.length);
    if (s->bytes > limit || frame.length > limit - s->bytes)
        return fm_error_set(err, FM_E_NO_SPACE,
                            "more than the %" PRIu64 " bytes that were reserved arrive", limit);

    fm_stream_account(s, frame.payload, frame.length);
    *data = frame.payload;
    *len = frame.length;
    return 0;
}

void fm_stream_drain(struct fm_connection *c, unsigned ends)
{
    uint64_t deadline = fm_now_us() + DRAIN_US;
    struct fm_frame frame;

    while (ends > 0 && fm_now_us() < deadline) {
        if (fm_connection_recv(c, &frame, NULL) < 0)
            return;
        if (frame.type == FM_FRAME_DATA_END)
            ends--;
        else if (frame.type != FM_FRAME_DATA)
            return;
    }
}
