/* The two protocols of the benchmark's client: redis, and the echo of bench_memory. */
#include "bench_client.h"
#include "bench_memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- redis ---------------------------------------------------------------------------------- */

/* Half of the bytes random, the other half the same text everywhere. */
static void make_value(unsigned char value[BENCH_VALUE], uint64_t key, uint32_t version)
{
    static const char text[] = "a value of the benchmark; ";
    uint64_t word = wl_mix(key << 32 | version);

    for (size_t at = 0; at < BENCH_VALUE / 2; at += sizeof(word)) {
        word = word * 6364136223846793005u + 1442695040888963407u;
        memcpy(value + at, &word, sizeof(word));
    }
    for (size_t at = BENCH_VALUE / 2; at < BENCH_VALUE; at++)
        value[at] = (unsigned char)text[at % (sizeof(text) - 1)];
}

static size_t redis_encode(const struct bench_request *request, unsigned char *out)
{
    char name[32];
    int name_length = snprintf(name, sizeof(name), "key:%" PRIu64, request->key);
    char *at = (char *)out;

    if (request->kind == BENCH_READ_BACK)
        return (size_t)sprintf(at, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", name_length, name);
    at += sprintf(at, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", name_length, name, BENCH_VALUE);
    make_value((unsigned char *)at, request->key, request->version);
    at += BENCH_VALUE;
    at += sprintf(at, "\r\n");
    return (size_t)(at - (char *)out);
}

static bool holds_version(const struct bench_request *request, uint32_t newest,
                          const unsigned char *value, long size)
{
    unsigned char expected[BENCH_VALUE];

    for (uint32_t v = request->version; size == BENCH_VALUE && v <= newest; v++) {
        make_value(expected, request->key, v);
        if (memcmp(value, expected, BENCH_VALUE) == 0)
            return true;
    }
    return false;
}

static size_t redis_judge(const struct bench_request *request, uint32_t newest,
                          const unsigned char *in, size_t length, enum bench_verdict *verdict)
{
    const unsigned char *end = memchr(in, '\n', length);
    size_t head, whole;
    long size;

    if (!end)
        return 0;
    head = (size_t)(end - in) + 1;
    *verdict = in[0] == '+' ? BENCH_GOOD : BENCH_ERROR;
    if (in[0] != '$')
        return head;
    size = strtol((const char *)in + 1, NULL, 10);
    *verdict = BENCH_LOST;
    if (size < 0)
        return head;
    whole = head + (size_t)size + 2;
    if (length < whole)
        return 0;
    if (holds_version(request, newest, in + head, size))
        *verdict = BENCH_GOOD;
    return whole;
}

const struct bench_protocol bench_redis = {.encode = redis_encode, .judge = redis_judge};

/* ---- ping ----------------------------------------------------------------------------------- */

static size_t ping_encode(const struct bench_request *request, unsigned char *out)
{
    struct wl_frame frame =
        wl_frame_make(WL_ECHO, request->kind == BENCH_CHECK ? BENCH_MEMORY_CHECK : 0, request->key);

    memcpy(out, &frame, sizeof(frame));
    return sizeof(frame);
}

static size_t ping_judge(const struct bench_request *request, uint32_t newest,
                         const unsigned char *in, size_t length, enum bench_verdict *verdict)
{
    uint64_t wanted = request->kind == BENCH_CHECK ? 0 : request->key;
    struct wl_frame frame;

    (void)newest;
    if (length < sizeof(frame))
        return 0;
    memcpy(&frame, in, sizeof(frame));
    *verdict = wl_frame_intact(&frame) && frame.seq == wanted ? BENCH_GOOD : BENCH_LOST;
    return sizeof(frame);
}

const struct bench_protocol bench_ping = {.encode = ping_encode, .judge = ping_judge};
