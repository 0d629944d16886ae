/* The registry: documents, and decisions that are taken once and for all. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "base/file.h"
#include "cluster/store.h"

struct fixture {
    char dir[32];
    char path[64];
    struct fm_store store;
    struct fm_error err;
};

static int set_up(void **state)
{
    static struct fixture f;

    f = (struct fixture){.dir = "/tmp/fm-store-XXXXXX"};
    if (!mkdtemp(f.dir))
        return -1;
    snprintf(f.path, sizeof(f.path), "%s/registry.db", f.dir);
    *state = &f;
    return fm_store_sqlite_open(f.path, &f.store, &f.err);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    fm_store_sqlite_close(&f->store);
    return fm_remove_tree(f->dir, NULL);
}

static void put(struct fixture *f, const char *kind, const char *key, int value)
{
    json_auto_t *doc = json_pack("{s:s,s:i}", "name", key, "value", value);

    assert_int_equal(f->store.ops->put(f->store.ctx, kind, key, doc, &f->err), 0);
}

static int get(struct fixture *f, const char *kind, const char *key)
{
    json_auto_t *doc = f->store.ops->get(f->store.ctx, kind, key, &f->err);

    return doc ? (int)json_integer_value(json_object_get(doc, "value")) : -1;
}

static void reopen(struct fixture *f)
{
    fm_store_sqlite_close(&f->store);
    assert_int_equal(fm_store_sqlite_open(f->path, &f->store, &f->err), 0);
}

static void documents_are_kept_by_kind_and_key(void **state)
{
    struct fixture *f = *state;

    put(f, "host", "a", 1);
    put(f, "container", "a", 2);
    put(f, "host", "a", 3);
    reopen(f);
    assert_int_equal(get(f, "host", "a"), 3);
    assert_int_equal(get(f, "container", "a"), 2);
    assert_int_equal(get(f, "host", "b"), -1);
    assert_int_equal(f->err.code, FM_E_NOT_FOUND);
    assert_string_equal(f->err.text, "there is no host 'b'");
}

static void lists_are_ordered_by_key(void **state)
{
    struct fixture *f = *state;

    put(f, "host", "c", 3);
    put(f, "host", "a'; DROP TABLE documents; --", 1);
    put(f, "host", "b", 2);
    put(f, "container", "x", 9);
    json_auto_t *list = f->store.ops->list(f->store.ctx, "host", &f->err);
    assert_int_equal(json_array_size(list), 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(json_integer_value(json_object_get(json_array_get(list, i), "value")),
                         i + 1);
    json_auto_t *none = f->store.ops->list(f->store.ctx, "nothing", &f->err);
    assert_int_equal(json_array_size(none), 0);
}

static void removing_twice_is_not_found(void **state)
{
    struct fixture *f = *state;

    put(f, "host", "a", 1);
    assert_int_equal(f->store.ops->remove(f->store.ctx, "host", "a", &f->err), 0);
    assert_int_equal(get(f, "host", "a"), -1);
    assert_int_equal(f->store.ops->remove(f->store.ctx, "host", "a", &f->err), -FM_E_NOT_FOUND);
}

static void the_first_decision_stands(void **state)
{
    struct fixture *f = *state;
    bool commit = true;
    bool decided = true;

    assert_int_equal(f->store.ops->decision(f->store.ctx, "m1", &decided, &commit, &f->err), 0);
    assert_false(decided);
    assert_int_equal(f->store.ops->decide(f->store.ctx, "m1", false, &commit, &f->err), 0);
    assert_false(commit);
    assert_int_equal(f->store.ops->decide(f->store.ctx, "m1", true, &commit, &f->err), 0);
    assert_false(commit);
    assert_int_equal(f->store.ops->decide(f->store.ctx, "m2", true, &commit, &f->err), 0);
    assert_true(commit);
    reopen(f);
    assert_int_equal(f->store.ops->decision(f->store.ctx, "m1", &decided, &commit, &f->err), 0);
    assert_true(decided && !commit);
    assert_int_equal(f->store.ops->decision(f->store.ctx, "m2", &decided, &commit, &f->err), 0);
    assert_true(decided && commit);
}

static void a_decision_survives_the_death_of_its_writer(void **state)
{
    struct fixture *f = *state;
    bool decided = false;
    bool commit = false;
    int status;

    fm_store_sqlite_close(&f->store);
    pid_t pid = fork();
    if (pid == 0) {
        bool mine;
        struct fm_store store;
        if (fm_store_sqlite_open(f->path, &store, NULL) == 0 &&
            store.ops->decide(store.ctx, "m", true, &mine, NULL) == 0)
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(fm_store_sqlite_open(f->path, &f->store, &f->err), 0);
    assert_int_equal(f->store.ops->decision(f->store.ctx, "m", &decided, &commit, &f->err), 0);
    assert_true(decided && commit);
}

/* --- threads -------------------------------------------------------------------------------------
 */

struct voter {
    struct fixture *f;
    int number;
    unsigned commits; /* bit i: migration i was committed */
};

static void *vote(void *arg)
{
    struct voter *v = arg;
    struct fm_store *store = &v->f->store;

    for (int i = 0; i < 32; i++) {
        char name[16];
        bool commit = false;
        snprintf(name, sizeof(name), "m%d", i);
        json_auto_t *doc = json_pack("{s:i}", "value", v->number);
        if (store->ops->put(store->ctx, "host", name, doc, NULL) < 0 ||
            store->ops->decide(store->ctx, name, (i + v->number) % 2 == 0, &commit, NULL) < 0)
            return NULL;
        v->commits |= (unsigned)commit << i;
    }
    return v;
}

static void threads_see_one_decision(void **state)
{
    struct fixture *f = *state;
    struct voter voters[4];
    pthread_t threads[4];

    for (int i = 0; i < 4; i++) {
        voters[i] = (struct voter){.f = f, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, vote, &voters[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *done = NULL;
        pthread_join(threads[i], &done);
        assert_ptr_equal(done, &voters[i]);
    }
    for (int i = 1; i < 4; i++)
        assert_int_equal(voters[i].commits, voters[0].commits);
}

/* --- databases that are not ours
 * -------------------------------------------------------------------- */

static void alter(struct fixture *f, const char *sql)
{
    sqlite3 *db;

    fm_store_sqlite_close(&f->store);
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void a_newer_schema_is_refused(void **state)
{
    struct fixture *f = *state;

    alter(f, "PRAGMA user_version = 9");
    assert_int_equal(fm_store_sqlite_open(f->path, &f->store, &f->err), -FM_E_INVALID);
    assert_non_null(strstr(f->err.text, f->path));
    assert_non_null(strstr(f->err.text, "newer version (schema 9, this program knows 1)"));
}

static void a_foreign_database_is_refused(void **state)
{
    struct fixture *f = *state;

    fm_store_sqlite_close(&f->store);
    unlink(f->path);
    alter(f, "CREATE TABLE recipes(name)");
    assert_int_equal(fm_store_sqlite_open(f->path, &f->store, &f->err), -FM_E_INVALID);
    assert_non_null(strstr(f->err.text, "another program"));
}

static void a_damaged_database_is_refused(void **state)
{
    struct fixture *f = *state;
    char junk[4096];

    fm_store_sqlite_close(&f->store);
    memset(junk, 'x', sizeof(junk));
    assert_int_equal(fm_file_write(f->path, junk, sizeof(junk), 0600, &f->err), 0);
    assert_int_equal(fm_store_sqlite_open(f->path, &f->store, &f->err), -FM_E_INVALID);
    assert_non_null(strstr(f->err.text, "damaged"));
}

static void a_missing_directory_is_reported(void **state)
{
    struct fixture *f = *state;
    struct fm_store other = {0};

    assert_int_equal(fm_store_sqlite_open("/nonexistent/registry.db", &other, &f->err),
                     -FM_E_NOT_FOUND);
    assert_non_null(strstr(f->err.text, "/nonexistent/registry.db"));
}

static void the_file_is_private_and_memory_works(void **state)
{
    struct fixture *f = *state;
    struct fm_store memory = {0};
    struct stat st;

    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(fm_store_sqlite_open(":memory:", &memory, &f->err), 0);
    json_auto_t *list = memory.ops->list(memory.ctx, "host", &f->err);
    assert_non_null(list);
    fm_store_sqlite_close(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(documents_are_kept_by_kind_and_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lists_are_ordered_by_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(removing_twice_is_not_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_decision_stands, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_decision_survives_the_death_of_its_writer, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(threads_see_one_decision, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_newer_schema_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_foreign_database_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_damaged_database_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_missing_directory_is_reported, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_file_is_private_and_memory_works, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
