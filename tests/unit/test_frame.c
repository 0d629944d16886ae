#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/cleanup.h"
#include "wire/connection.h"
#include "wire/frame.h"

static const struct fm_frame_header example = {
    .type = FM_FRAME_DATA,
    .length = 0x00012345,
    .checksum = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
    .sequence = 0x0102030405060708,
};

static void header_has_the_documented_layout(void **state)
{
    static const uint8_t expected[FM_FRAME_HEADER_SIZE] = {
        'F', 'M', 'W', '1', 0, 3,  0,  0,  0,  1,  0x23, 0x45, 0, 0, 0, 0, 1, 2, 3, 4,
        5,   6,   7,   8,   9, 10, 11, 12, 13, 14, 15,   16,   1, 2, 3, 4, 5, 6, 7, 8,
    };
    uint8_t encoded[FM_FRAME_HEADER_SIZE];

    (void)state;
    fm_frame_header_encode(&example, encoded);
    assert_memory_equal(encoded, expected, sizeof(expected));
}

static void header_comes_back(void **state)
{
    uint8_t encoded[FM_FRAME_HEADER_SIZE];
    struct fm_frame_header header;
    struct fm_error err = {0};

    (void)state;
    fm_frame_header_encode(&example, encoded);
    assert_int_equal(fm_frame_header_decode(encoded, &header, &err), 0);
    assert_int_equal(header.type, example.type);
    assert_int_equal(header.length, example.length);
    assert_int_equal(header.sequence, example.sequence);
    assert_memory_equal(header.checksum, example.checksum, 16);
}

static void bad_headers_are_rejected(void **state)
{
    static const struct {
        size_t offset;
        uint8_t value;
        const char *why;
    } bad[] = {
        {0, 'X', "not a frame"},      {3, '2', "not a frame"},  {4, 0xff, "unknown frame type"},
        {5, 0, "unknown frame type"}, {7, 1, "reserved"},       {12, 1, "reserved"},
        {15, 1, "reserved"},          {8, 1, "over the limit"}, {9, 0x41, "over the limit"},
    };

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        uint8_t encoded[FM_FRAME_HEADER_SIZE];
        struct fm_frame_header header;
        struct fm_error err = {0};

        fm_frame_header_encode(&example, encoded);
        encoded[bad[i].offset] = bad[i].value;
        assert_int_equal(fm_frame_header_decode(encoded, &header, &err), -FM_E_PROTOCOL);
        assert_non_null(strstr(err.text, bad[i].why));
    }
}

static void the_limit_itself_is_allowed(void **state)
{
    struct fm_frame_header header = example;
    uint8_t encoded[FM_FRAME_HEADER_SIZE];

    (void)state;
    header.length = FM_FRAME_MAX_PAYLOAD;
    fm_frame_header_encode(&header, encoded);
    assert_int_equal(fm_frame_header_decode(encoded, &header, NULL), 0);
    header.length++;
    fm_frame_header_encode(&header, encoded);
    assert_int_equal(fm_frame_header_decode(encoded, &header, NULL), -FM_E_PROTOCOL);
}

static void checksum_is_xxh3_128(void **state)
{
    /* The empty input's hash is given in xxHash's own tests. */
    static const uint8_t empty[16] = {0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
                                      0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f};
    uint8_t a[16], b[16];

    (void)state;
    fm_frame_checksum(NULL, 0, a);
    assert_memory_equal(a, empty, sizeof(empty));
    fm_frame_checksum("hello", 5, a);
    fm_frame_checksum("hellp", 5, b);
    assert_memory_not_equal(a, b, sizeof(a));
}

static void types_have_names(void **state)
{
    (void)state;
    assert_string_equal(fm_frame_type_name(FM_FRAME_PREPARE), "PREPARE");
    assert_string_equal(fm_frame_type_name(FM_FRAME_PONG), "PONG");
    assert_string_equal(fm_frame_type_name(9), "?");
}

static json_t *parse(const char *text, struct fm_error *err)
{
    const struct fm_frame frame = {
        .type = FM_FRAME_PREPARE,
        .length = (uint32_t)strlen(text),
        .payload = (const uint8_t *)text,
    };

    return fm_frame_json(&frame, err);
}

static void control_frames_carry_one_object(void **state)
{
    static const char *const bad[] = {
        "", "[]", "1", "null", "{", "{}x", "{\"a\":1,\"a\":2}", "\xff", "{\"a\":\"\xc3\"}",
    };
    json_auto_t *good = parse("{\"name\":\"web\"}", NULL);

    (void)state;
    assert_string_equal(json_string_value(json_object_get(good, "name")), "web");
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_error err = {0};

        assert_null(parse(bad[i], &err));
        assert_int_equal(err.code, FM_E_PROTOCOL);
        assert_non_null(strstr(err.text, "PREPARE"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_has_the_documented_layout),
        cmocka_unit_test(header_comes_back),
        cmocka_unit_test(bad_headers_are_rejected),
        cmocka_unit_test(the_limit_itself_is_allowed),
        cmocka_unit_test(checksum_is_xxh3_128),
        cmocka_unit_test(types_have_names),
        cmocka_unit_test(control_frames_carry_one_object),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
