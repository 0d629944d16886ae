#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sqlite3.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "migration/journal.h"
#include "scratch.h"

static struct fm_journal *journal;
static struct fm_error err;

static int open_journal(void **state)
{
    (void)state;
    err = (struct fm_error){0};
    journal = fm_journal_open(":memory:", &err);
    return journal ? 0 : -1;
}

static int close_journal(void **state)
{
    (void)state;
    fm_journal_close(journal);
    return 0;
}

static int create(const char *id, const char *role, const char *return_of)
{
    json_auto_t *doc = json_pack("{s:s, s:s}", "id", id, "return_of", return_of);

    return fm_journal_create(journal, id, role, doc, &err);
}

static void assert_ids(json_t *list, const char *expected)
{
    char ids[64] = "";
    json_t *doc;
    size_t i;

    json_array_foreach(list, i, doc)
    {
        size_t len = strlen(ids);
        snprintf(ids + len, sizeof(ids) - len, "%s%s", i ? " " : "",
                 json_string_value(json_object_get(doc, "id")));
    }
    assert_string_equal(ids, expected);
}

static void a_document_comes_back_with_its_history(void **state)
{
    const struct fm_transition first = {.to = FM_STATE_PENDING,
                                        .component = "MigrationManager",
                                        .message = "Requested.",
                                        .duration_ms = 0.5};
    const struct fm_transition last = {.from = FM_STATE_PENDING,
                                       .to = FM_STATE_FAILED,
                                       .final = true,
                                       .component = "MigrationManager",
                                       .message = "Rolled back."};

    (void)state;
    assert_int_equal(create("one", FM_ROLE_SOURCE, ""), 0);
    assert_int_equal(fm_journal_transition(journal, "one", &first, &err), 0);
    assert_int_equal(fm_journal_step(journal, "one", FM_STEP_PREPARE, NULL, &err), 0);
    assert_int_equal(fm_journal_transition(journal, "one", &last, &err), 0);
    json_auto_t *doc = fm_journal_load(journal, "one", &err);
    json_t *transitions = json_object_get(doc, "transitions");
    json_t *steps = json_object_get(doc, "steps");
    json_t *t = json_array_get(transitions, 1);
    assert_int_equal(json_array_size(transitions), 2);
    assert_true(json_is_null(json_object_get(json_array_get(transitions, 0), "from")));
    assert_string_equal(json_string_value(json_object_get(t, "from")), "PENDING");
    assert_string_equal(json_string_value(json_object_get(t, "to")), "FAILED");
    assert_true(json_is_true(json_object_get(t, "final")));
    assert_int_equal(json_array_size(steps), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(steps, 0), "step")),
                        "prepare");
}

static void an_id_is_used_once(void **state)
{
    (void)state;
    assert_int_equal(create("one", FM_ROLE_SOURCE, ""), 0);
    assert_true(create("one", FM_ROLE_DESTINATION, "") < 0);
    assert_null(fm_journal_load(journal, "two", &err));
    assert_int_equal(err.code, FM_E_NOT_FOUND);
}

static void the_newest_detail_of_a_step_counts(void **state)
{
    json_auto_t *old = json_pack("{s:i}", "n", 1);
    json_auto_t *new = json_pack("{s:i}", "n", 2);
    json_t *detail = NULL;

    (void)state;
    assert_int_equal(create("one", FM_ROLE_SOURCE, ""), 0);
    assert_false(fm_journal_has(journal, "one", FM_STEP_DUMP, NULL));
    fm_journal_step(journal, "one", FM_STEP_DUMP, old, &err);
    fm_journal_step(journal, "one", FM_STEP_DUMP, new, &err);
    assert_true(fm_journal_has(journal, "one", FM_STEP_DUMP, &detail));
    assert_int_equal(json_integer_value(json_object_get(detail, "n")), 2);
    json_decref(detail);
    assert_false(fm_journal_has(journal, "two", FM_STEP_DUMP, &detail));
    assert_null(detail);
}

static void an_undone_step_counts_no_more(void **state)
{
    (void)state;
    assert_int_equal(create("one", FM_ROLE_SOURCE, ""), 0);
    fm_journal_step(journal, "one", FM_STEP_HOLD, NULL, &err);
    fm_journal_step(journal, "one", FM_STEP_HOLD, NULL, &err);
    assert_int_equal(fm_journal_undone(journal, "one", FM_STEP_HOLD, &err), 0);
    assert_false(fm_journal_has(journal, "one", FM_STEP_HOLD, NULL));
    fm_journal_step(journal, "one", FM_STEP_HOLD, NULL, &err);
    assert_true(fm_journal_has(journal, "one", FM_STEP_HOLD, NULL));
}

static void unfinished_ones_are_listed_oldest_first(void **state)
{
    json_auto_t *doc = json_pack("{s:s}", "id", "two");

    (void)state;
    create("one", FM_ROLE_SOURCE, "");
    create("two", FM_ROLE_DESTINATION, "");
    create("three", FM_ROLE_DESTINATION, "");
    assert_int_equal(fm_journal_update(journal, "two", doc, true, &err), 0);
    json_auto_t *unfinished = fm_journal_unfinished(journal, &err);
    json_auto_t *all = fm_journal_list(journal, 10, &err);
    json_auto_t *newest = fm_journal_list(journal, 1, &err);
    assert_ids(unfinished, "one three");
    assert_ids(all, "three two one");
    assert_ids(newest, "three");
    assert_int_equal(fm_journal_update(journal, "two", doc, false, &err), 0);
    json_auto_t *again = fm_journal_unfinished(journal, &err);
    assert_ids(again, "one two three");
}

static void the_way_back_of_a_migration_is_found_on_both_sides(void **state)
{
    (void)state;
    create("one", FM_ROLE_SOURCE, "");
    create("two", FM_ROLE_SOURCE, "one");
    create("three", FM_ROLE_SOURCE, "one");
    create("four", FM_ROLE_DESTINATION, "one");
    json_auto_t *out = fm_journal_return_of(journal, "one", FM_ROLE_SOURCE);
    json_auto_t *in = fm_journal_return_of(journal, "one", FM_ROLE_DESTINATION);
    assert_string_equal(json_string_value(json_object_get(out, "id")), "three");
    assert_string_equal(json_string_value(json_object_get(in, "id")), "four");
    assert_null(fm_journal_return_of(journal, "two", FM_ROLE_SOURCE));
}

static void a_step_passes_its_fault_point_after_it_was_written(void **state)
{
    (void)state;
    create("one", FM_ROLE_SOURCE, "");
    fm_fault_arm("step.freeze=fail");
    assert_true(fm_journal_step(journal, "one", FM_STEP_FREEZE, NULL, &err) < 0);
    fm_fault_arm(NULL);
    assert_non_null(strstr(err.text, "step.freeze"));
    assert_true(fm_journal_has(journal, "one", FM_STEP_FREEZE, NULL));
}

/* ---- files ---- */

static void it_outlives_the_daemon(void **state)
{
    (void)state;
    struct fm_journal *in_memory = journal;
    journal = fm_journal_open(at("journal.db"), &err);
    assert_non_null(journal);
    create("one", FM_ROLE_SOURCE, "");
    fm_journal_step(journal, "one", FM_STEP_FREEZE, NULL, &err);
    fm_journal_close(journal);
    journal = fm_journal_open(at("journal.db"), &err);
    assert_non_null(journal);
    assert_true(fm_journal_has(journal, "one", FM_STEP_FREEZE, NULL));
    fm_journal_close(journal);
    journal = in_memory;
}

static void a_newer_schema_is_refused(void **state)
{
    sqlite3 *db = NULL;

    (void)state;
    assert_int_equal(sqlite3_open(at("newer.db"), &db), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL);
    sqlite3_close(db);
    assert_null(fm_journal_open(at("newer.db"), &err));
    assert_int_equal(err.code, FM_E_REFUSED);
    assert_non_null(strstr(err.text, "99"));
}

static void what_is_no_database_is_refused(void **state)
{
    static const char text[] = "this is a letter to my aunt, and not a database at all";

    (void)state;
    assert_int_equal(fm_file_write(at("letter.db"), text, sizeof(text), 0600, &err), 0);
    assert_null(fm_journal_open(at("letter.db"), &err));
    assert_int_equal(err.code, FM_E_IO);
    assert_null(fm_journal_open(at("no/such/directory/journal.db"), &err));
}

/* Somebody has the database locked, or the disk is gone: told, not swallowed. */
static void a_write_that_fails_is_told(void **state)
{
    struct fm_journal *in_memory = journal;
    sqlite3 *other = NULL;

    (void)state;
    journal = fm_journal_open(at("dropped.db"), &err);
    create("one", FM_ROLE_SOURCE, "");
    sqlite3_open(at("dropped.db"), &other);
    sqlite3_exec(other, "DROP TABLE steps; DROP TABLE migrations", NULL, NULL, NULL);
    sqlite3_close(other);
    assert_int_equal(fm_journal_step(journal, "one", FM_STEP_DUMP, NULL, &err), -FM_E_IO);
    assert_false(fm_journal_has(journal, "one", FM_STEP_DUMP, NULL));
    err = (struct fm_error){0};
    assert_null(fm_journal_load(journal, "one", &err));
    assert_int_equal(err.code, FM_E_IO);
    assert_null(fm_journal_unfinished(journal, &err));
    assert_null(fm_journal_list(journal, 1, &err));
    fm_journal_close(journal);
    journal = in_memory;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_journal, close_journal)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_document_comes_back_with_its_history),
        TEST(an_id_is_used_once),
        TEST(the_newest_detail_of_a_step_counts),
        TEST(an_undone_step_counts_no_more),
        TEST(unfinished_ones_are_listed_oldest_first),
        TEST(the_way_back_of_a_migration_is_found_on_both_sides),
        TEST(a_step_passes_its_fault_point_after_it_was_written),
        TEST(it_outlives_the_daemon),
        TEST(a_newer_schema_is_refused),
        TEST(what_is_no_database_is_refused),
        TEST(a_write_that_fails_is_told),
    };

    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
