#include "state/page_delta.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>
#include <xxhash.h>

#define WORD sizeof(uint64_t)
#define STEP 8u /* words that are compared at once while they are the same */
#define COUNT_BYTES_MAX 3u

static uint64_t word_at(const uint8_t *page, size_t index)
{
    uint64_t word;

    memcpy(&word, page + index * WORD, WORD);
    return word;
}

/* The first word from `at` on that differs. */
static size_t skip_same(const uint8_t *a, const uint8_t *b, size_t at, size_t words)
{
    for (; at + STEP <= words; at += STEP) {
        uint64_t differs = 0;

        for (size_t i = 0; i < STEP; i++)
            differs |= word_at(a, at + i) ^ word_at(b, at + i);
        if (differs)
            break;
    }
    while (at < words && word_at(a, at) == word_at(b, at))
        at++;
    return at;
}

static size_t skip_changed(const uint8_t *a, const uint8_t *b, size_t at, size_t words)
{
    while (at < words && word_at(a, at) != word_at(b, at))
        at++;
    return at;
}

static size_t put_count(uint8_t *out, size_t count)
{
    size_t n = 0;

    for (; count >= 0x80; count >>= 7)
        out[n++] = (uint8_t)(count | 0x80);
    out[n++] = (uint8_t)count;
    return n;
}

size_t fm_page_delta_encode(const uint8_t *before, const uint8_t *after, size_t size, uint8_t *out,
                            size_t max)
{
    size_t words = size / WORD, at = 0, used = WORD;
    uint64_t hash;

    if (max < used)
        return 0;
    for (;;) {
        size_t begin = skip_same(before, after, at, words), end;

        if (begin == words)
            break;
        end = skip_changed(before, after, begin, words);
        if (max - used < 2 * COUNT_BYTES_MAX + (end - begin) * WORD)
            return 0;
        used += put_count(out + used, begin - at);
        used += put_count(out + used, end - begin);
        memcpy(out + used, after + begin * WORD, (end - begin) * WORD);
        used += (end - begin) * WORD;
        at = end;
    }
    hash = htole64(XXH3_64bits(after, size));
    memcpy(out, &hash, sizeof(hash));
    return used;
}

/* Takes a count off the front of the delta. */
static bool get_count(const uint8_t **delta, const uint8_t *end, size_t *count)
{
    *count = 0;
    for (unsigned int n = 0; n < COUNT_BYTES_MAX && *delta < end; n++) {
        uint8_t byte = *(*delta)++;

        *count |= (size_t)(byte & 0x7f) << (7 * n);
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

int fm_page_delta_apply(uint8_t *page, size_t size, const uint8_t *delta, size_t len,
                        struct fm_error *err)
{
    const uint8_t *end = delta + len;
    size_t words = size / WORD, at = 0;
    uint64_t hash;

    if (len < sizeof(hash))
        return fm_error_set(err, FM_E_PROTOCOL, "the delta of a page is too short");
    memcpy(&hash, delta, sizeof(hash));
    delta += sizeof(hash);
    while (delta < end) {
        size_t same, changed;

        if (!get_count(&delta, end, &same) || !get_count(&delta, end, &changed) ||
            same > words - at || changed > words - at - same || changed == 0 ||
            changed > (size_t)(end - delta) / WORD)
            return fm_error_set(err, FM_E_PROTOCOL, "the delta of a page is not valid");
        memcpy(page + (at + same) * WORD, delta, changed * WORD);
        delta += changed * WORD;
        at += same + changed;
    }
    if (XXH3_64bits(page, size) != le64toh(hash))
        return fm_error_set(err, FM_E_CHECKSUM,
                            "a page is not the one that its delta was made from (checksum "
                            "mismatch)");
    return 0;
}
