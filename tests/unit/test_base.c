#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "scratch.h"

/* ---- error ---- */

static void error_carries_code_and_text(void **state)
{
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_error_set(&err, FM_E_REFUSED, "host %s is cordoned", "b"), -FM_E_REFUSED);
    assert_int_equal(err.code, FM_E_REFUSED);
    assert_string_equal(err.text, "host b is cordoned");
    assert_int_equal(fm_error_prefix(&err, "cannot migrate '%s'", "web"), -FM_E_REFUSED);
    assert_string_equal(err.text, "cannot migrate 'web': host b is cordoned");
    assert_int_equal(fm_error_recode(&err, FM_E_ROLLED_BACK), -FM_E_ROLLED_BACK);
    assert_string_equal(err.text, "cannot migrate 'web': host b is cordoned");
    assert_int_equal(fm_error_set(NULL, FM_E_AUTH, "x"), -FM_E_AUTH);
    assert_int_equal(fm_error_prefix(NULL, "x"), -FM_E_FAILED);
}

static void error_errno_selects_the_code(void **state)
{
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_error_errno(&err, ENOENT, "cannot read '%s'", "x"), -FM_E_NOT_FOUND);
    assert_string_equal(err.text, "cannot read 'x': No such file or directory");
    assert_int_equal(err.sys_errno, ENOENT);
    assert_int_equal(fm_error_errno(&err, EEXIST, "x"), -FM_E_EXISTS);
    assert_int_equal(fm_error_errno(&err, ENOSPC, "x"), -FM_E_NO_SPACE);
    assert_int_equal(fm_error_errno(&err, ETIMEDOUT, "x"), -FM_E_TIMEOUT);
    assert_int_equal(fm_error_errno(&err, EACCES, "x"), -FM_E_IO);
}

static void error_text_stays_on_one_line(void **state)
{
    struct fm_error err = {0};
    char big[3000];

    (void)state;
    fm_error_set(&err, FM_E_FAILED, "first\nsecond\033[31m\n");
    assert_string_equal(err.text, "first second [31m");
    fm_error_set(&err, FM_E_FAILED, "again: %s", err.text); /* its own text as an argument */
    assert_string_equal(err.text, "again: first second [31m");
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    fm_error_set(&err, FM_E_FAILED, "%s", big);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    fm_error_prefix(&err, "context");
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    assert_true(fm_starts_with(err.text, "context: xxx"));
}

static void code_names_go_both_ways(void **state)
{
    (void)state;
    assert_string_equal(fm_code_name(FM_E_NOT_FOUND), "NOT_FOUND");
    assert_string_equal(fm_code_text(FM_E_NOT_FOUND), "not found");
    assert_int_equal(fm_code_by_name("NOT_FOUND"), FM_E_NOT_FOUND);
    assert_int_equal(fm_code_by_name("nonsense"), FM_E_FAILED);
    assert_int_equal(fm_code_by_name(NULL), FM_E_FAILED);
    assert_int_equal(fm_code_exit(FM_E_REFUSED), 4);
    assert_int_equal(fm_code_exit(FM_E_ROLLED_BACK), 5);
    assert_int_equal(fm_code_exit(FM_E_INVALID), 2);
    assert_int_equal(fm_code_exit(FM_E_CHECKSUM), 1);
    assert_int_equal(fm_code_exit((enum fm_code)999), 1);
}

/* ---- text ---- */

static void sizes_parse(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"64M", 64u << 20},
        {"64MiB", 64u << 20},
        {"1.5GiB", 3u << 29},
        {"1 K", 1024},
        {"0.5k", 512},
        {"2T", 2ull << 40},
        {"18446744073709551615", UINT64_MAX},
    };
    static const char *const bad[] = {
        "", "M", "-1", "1.", ".5", "1Q", "64 M x", "0x10", "18446744073709551616", "16777216T",
    };
    uint64_t bytes;
    struct fm_error err;

    (void)state;
    for (size_t i = 0; i < FM_COUNT(good); i++) {
        assert_int_equal(fm_parse_size(good[i].text, &bytes, NULL), 0);
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < FM_COUNT(bad); i++)
        assert_int_equal(fm_parse_size(bad[i], &bytes, &err), -FM_E_INVALID);
    assert_int_equal(fm_parse_size(NULL, &bytes, &err), -FM_E_INVALID);
}

static void durations_parse(void **state)
{
    uint64_t ms;
    struct fm_error err;

    (void)state;
    assert_int_equal(fm_parse_duration("50ms", &ms, NULL), 0);
    assert_int_equal(ms, 50);
    assert_int_equal(fm_parse_duration("1.5s", &ms, NULL), 0);
    assert_int_equal(ms, 1500);
    assert_int_equal(fm_parse_duration("300", &ms, NULL), 0);
    assert_int_equal(ms, 300000);
    assert_int_equal(fm_parse_duration("5m", &ms, NULL), 0);
    assert_int_equal(ms, 300000);
    assert_int_equal(fm_parse_duration("5 years", &ms, &err), -FM_E_INVALID);
    assert_non_null(strstr(err.text, "'5 years'"));
}

static void integers_parse(void **state)
{
    int64_t value;
    struct fm_error err;

    (void)state;
    assert_int_equal(fm_parse_int("-7", -10, 10, &value, NULL), 0);
    assert_int_equal(value, -7);
    assert_int_equal(fm_parse_int("11", -10, 10, &value, &err), -FM_E_INVALID);
    assert_string_equal(err.text, "'11' is not a whole number from -10 to 10");
    assert_int_equal(fm_parse_int("1x", -10, 10, &value, &err), -FM_E_INVALID);
    assert_int_equal(fm_parse_int("", -10, 10, &value, &err), -FM_E_INVALID);
    assert_int_equal(fm_parse_int(" 1", -10, 10, &value, &err), -FM_E_INVALID);
    assert_int_equal(fm_parse_int("99999999999999999999", 0, INT64_MAX, &value, &err),
                     -FM_E_INVALID);
}

static void names_are_checked(void **state)
{
    static const char *const bad[] = {"",    ".",    "..",       "-x",   "a/b",
                                      "a b", "a\nb", "\xc3\xa4", "../x", NULL};
    char longest[65];
    struct fm_error err;

    (void)state;
    assert_int_equal(fm_check_name("container", "web-1.a_B", &err), 0);
    for (size_t i = 0; i < FM_COUNT(bad); i++)
        assert_int_equal(fm_check_name("container", bad[i], &err), -FM_E_INVALID);
    memset(longest, 'a', 64);
    longest[63] = '\0';
    assert_int_equal(fm_check_name("container", longest, &err), 0);
    longest[63] = 'a';
    longest[64] = '\0';
    assert_int_equal(fm_check_name("container", longest, &err), -FM_E_INVALID);
}

static void sizes_format(void **state)
{
    char buf[32];

    (void)state;
    assert_string_equal(fm_format_size(0, buf, sizeof(buf)), "0 B");
    assert_string_equal(fm_format_size(1023, buf, sizeof(buf)), "1023 B");
    assert_string_equal(fm_format_size(1024, buf, sizeof(buf)), "1.0 KiB");
    assert_string_equal(fm_format_size(1468006, buf, sizeof(buf)), "1.4 MiB");
    assert_string_equal(fm_format_size((1u << 20) - 1, buf, sizeof(buf)), "1.0 MiB");
    assert_string_equal(fm_format_size(UINT64_MAX, buf, sizeof(buf)), "16.0 EiB");
}

static void strings_and_lists(void **state)
{
    fm_cleanup(fm_strv_free) struct fm_strv v = {0};
    fm_autofree char *id = fm_random_id();
    fm_autofree char *other = fm_random_id();
    char text[] = "\t a b \n";

    (void)state;
    fm_strv_add(&v, "runc");
    fm_strv_addf(&v, "--root=%s", "/r");
    fm_strv_add_all(&v, (const char *const[]){"a", "b", NULL});
    assert_int_equal(v.count, 4);
    assert_string_equal(v.items[1], "--root=/r");
    assert_string_equal(v.items[3], "b");
    assert_null(v.items[4]);
    assert_string_equal(fm_trim(text), "a b");
    assert_true(fm_streq(NULL, NULL));
    assert_false(fm_streq(NULL, ""));
    assert_true(fm_ends_with("a.yaml", ".yaml"));
    assert_false(fm_ends_with("l", ".yaml"));
    assert_int_equal(strspn(id, "0123456789abcdef"), 12);
    assert_int_equal(strlen(id), 12);
    assert_string_not_equal(id, other);
}

static void time_formats(void **state)
{
    char buf[32];
    uint64_t before = fm_now_us();

    (void)state;
    assert_string_equal(fm_format_time(1767225600123456, buf, sizeof(buf)),
                        "2026-01-01T00:00:00.123Z");
    assert_true(fm_clock_system()->monotonic_us(NULL) >= before);
    assert_true(fm_realtime_us() > 1600000000000000);
}

/* ---- log ---- */

static void log_to(const char *file, enum fm_log_format format)
{
    assert_int_equal(fm_log_init(FM_LOG_INFO, format, file, NULL), 0);
}

static void log_to_stderr(void)
{
    assert_int_equal(fm_log_init(FM_LOG_WARN, FM_LOG_TEXT, NULL, NULL), 0);
}

static void log_text_has_the_documented_form(void **state)
{
    fm_autofree char *text = NULL;

    (void)state;
    log_to(at("log"), FM_LOG_TEXT);
    fm_debug(FM_NETWORK_MANAGER, "not shown");
    fm_log_transition(FM_LOG_INFO, FM_MIGRATION_MANAGER, "PENDING", "PLANNING", false, 3,
                      "Request for '%s' is valid.", "web");
    fm_log_transition(FM_LOG_ERROR, FM_MIGRATION_MANAGER, "VERIFICATION", "COMPLETED", true, 3,
                      "Done");
    fm_warn(FM_NETWORK_MANAGER, "forged\nINFO [X]: line");
    log_to_stderr();
    assert_int_equal(fm_file_read(at("log"), 4096, &text, NULL, NULL), 0);
    assert_string_equal(
        text, "INFO [MigrationManager]: Request for 'web' is valid. Transitioning: PENDING -> "
              "PLANNING.\n"
              "ERROR [MigrationManager]: Done. Final State: COMPLETED.\n"
              "WARN [NetworkManager]: forged INFO [X]: line.\n");
}

static const char *field(const json_t *doc, const char *name)
{
    return json_string_value(json_object_get(doc, name));
}

static void log_json_has_ecs_names(void **state)
{
    const struct fm_log_context context = {
        .migration = "4f2a", .container = "web", .source = "a", .destination = "b"};
    json_auto_t *doc = NULL;
    fm_autofree char *text = NULL;

    (void)state;
    log_to(at("log.json"), FM_LOG_JSON);
    fm_log_set_context(&context);
    fm_log_transition(FM_LOG_INFO, FM_MIGRATION_MANAGER, "PENDING", "PLANNING", false, 12,
                      "Bad byte \xff and \"quote\".");
    fm_log_set_context(NULL);
    log_to_stderr();
    assert_int_equal(fm_file_read(at("log.json"), 4096, &text, NULL, NULL), 0);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    doc = json_loads(text, 0, NULL);
    assert_non_null(doc);
    assert_string_equal(field(doc, "log.level"), "info");
    assert_string_equal(field(doc, "log.logger"), "MigrationManager");
    assert_string_equal(field(doc, "service.name"), "fleximigrate");
    assert_string_equal(field(doc, "fleximigrate.migration.id"), "4f2a");
    assert_string_equal(field(doc, "fleximigrate.container"), "web");
    assert_string_equal(field(doc, "fleximigrate.source"), "a");
    assert_string_equal(field(doc, "fleximigrate.destination"), "b");
    assert_string_equal(field(doc, "fleximigrate.state.from"), "PENDING");
    assert_string_equal(field(doc, "fleximigrate.state.to"), "PLANNING");
    assert_int_equal(json_integer_value(json_object_get(doc, "event.duration")), 12000000);
    assert_string_equal(field(doc, "message"),
                        "Bad byte ? and \"quote\". Transitioning: PENDING -> PLANNING.");
    assert_int_equal(strlen(field(doc, "@timestamp")), 24);
}

static void *log_many(void *arg)
{
    const struct fm_log_context context = {.migration = arg};

    fm_log_set_context(&context);
    for (int i = 0; i < 200; i++)
        fm_info(FM_MIGRATION_MANAGER, "Record %d of %s.", i, (const char *)arg);
    return NULL;
}

static void log_records_of_threads_do_not_mix(void **state)
{
    static char *const names[] = {"one", "two", "three", "four"};
    pthread_t threads[FM_COUNT(names)];
    fm_autofree char *text = NULL;
    char *rest = NULL;
    int records = 0;

    (void)state;
    log_to(at("log.many"), FM_LOG_JSON);
    for (size_t i = 0; i < FM_COUNT(names); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_many, names[i]), 0);
    for (size_t i = 0; i < FM_COUNT(names); i++)
        pthread_join(threads[i], NULL);
    log_to_stderr();
    assert_int_equal(fm_file_read(at("log.many"), 1 << 20, &text, NULL, NULL), 0);
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_auto_t *doc = json_loads(line, 0, NULL);

        assert_non_null(doc);
        assert_non_null(strstr(field(doc, "message"), field(doc, "fleximigrate.migration.id")));
        records++;
    }
    assert_int_equal(records, 800);
}

static void log_options_parse(void **state)
{
    enum fm_log_level level;
    enum fm_log_format format;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_log_level_parse("Warn", &level), 0);
    assert_int_equal(level, FM_LOG_WARN);
    assert_true(fm_log_level_parse("loud", &level) < 0);
    assert_int_equal(fm_log_format_parse("json", &format), 0);
    assert_int_equal(format, FM_LOG_JSON);
    assert_true(fm_log_format_parse("xml", &format) < 0);
    assert_true(fm_log_init(FM_LOG_INFO, FM_LOG_TEXT, at("none/log"), &err) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_carries_code_and_text),
        cmocka_unit_test(error_errno_selects_the_code),
        cmocka_unit_test(error_text_stays_on_one_line),
        cmocka_unit_test(code_names_go_both_ways),
        cmocka_unit_test(sizes_parse),
        cmocka_unit_test(durations_parse),
        cmocka_unit_test(integers_parse),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(sizes_format),
        cmocka_unit_test(strings_and_lists),
        cmocka_unit_test(time_formats),
        cmocka_unit_test(log_text_has_the_documented_form),
        cmocka_unit_test(log_json_has_ecs_names),
        cmocka_unit_test(log_records_of_threads_do_not_mix),
        cmocka_unit_test(log_options_parse),
    };

    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
