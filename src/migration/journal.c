#include "migration/journal.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/text.h"

#define SCHEMA_VERSION 1

static const char schema[] =
    "CREATE TABLE migrations (id TEXT PRIMARY KEY, role TEXT NOT NULL, doc TEXT NOT NULL,"
    " final INTEGER NOT NULL DEFAULT 0, created_us INTEGER NOT NULL);"
    "CREATE TABLE transitions (seq INTEGER PRIMARY KEY, migration TEXT NOT NULL, doc TEXT NOT "
    "NULL);"
    "CREATE TABLE steps (seq INTEGER PRIMARY KEY, migration TEXT NOT NULL, step TEXT NOT NULL,"
    " detail TEXT, at_us INTEGER NOT NULL, undone INTEGER NOT NULL DEFAULT 0);"
    "CREATE INDEX steps_of ON steps (migration, step);"
    "CREATE INDEX transitions_of ON transitions (migration);"
    "PRAGMA user_version = 1;";

struct fm_journal {
    sqlite3 *db;
    pthread_mutex_t lock;
};

const char *fm_step_text(enum fm_step step)
{
    static const char *const texts[] = {
#define X(name, text) text,
        FM_STEPS(X)
#undef X
    };
    return texts[step];
}

static int db_error(struct fm_journal *j, struct fm_error *err)
{
    int rc = sqlite3_errcode(j->db);
    return fm_error_set(err, rc == SQLITE_FULL ? FM_E_NO_SPACE : FM_E_IO, "journal: %s",
                        sqlite3_errmsg(j->db));
}

static void finalize(sqlite3_stmt **s)
{
    sqlite3_finalize(*s);
}
#define autostmt fm_cleanup(finalize) sqlite3_stmt *

static sqlite3_stmt *prepare(struct fm_journal *j, const char *sql, struct fm_error *err)
{
    sqlite3_stmt *s = NULL;
    if (sqlite3_prepare_v2(j->db, sql, -1, &s, NULL) != SQLITE_OK)
        db_error(j, err);
    return s;
}

static void bind_text(sqlite3_stmt *s, int index, const char *text)
{
    sqlite3_bind_text(s, index, text, -1, SQLITE_TRANSIENT);
}

static void bind_json(sqlite3_stmt *s, int index, const json_t *doc)
{
    if (doc)
        sqlite3_bind_text(s, index, json_dumps(doc, JSON_COMPACT), -1, free);
}

/* Runs a statement that returns no rows. */
static int run(struct fm_journal *j, sqlite3_stmt *s, struct fm_error *err)
{
    return sqlite3_step(s) == SQLITE_DONE ? 0 : db_error(j, err);
}

static json_t *column_json(sqlite3_stmt *s, int column)
{
    const char *text = (const char *)sqlite3_column_text(s, column);
    return text ? json_loads(text, 0, NULL) : NULL;
}

static void lock(struct fm_journal *j)
{
    pthread_mutex_lock(&j->lock);
}

static void unlock(struct fm_journal **j)
{
    pthread_mutex_unlock(&(*j)->lock);
}
#define HOLD_LOCK(j)                                                                               \
    fm_cleanup(unlock) struct fm_journal *locked_ = (j);                                           \
    lock(locked_)

static int open_schema(struct fm_journal *j, const char *path, struct fm_error *err)
{
    autostmt s = prepare(j, "PRAGMA user_version", err);
    if (!s || sqlite3_step(s) != SQLITE_ROW)
        return db_error(j, err);
    int version = sqlite3_column_int(s, 0);
    if (version > SCHEMA_VERSION)
        return fm_error_set(err, FM_E_REFUSED,
                            "journal %s is from a newer version (schema %d, this program knows %d)",
                            path, version, SCHEMA_VERSION);
    if (version == 0 && sqlite3_exec(j->db, schema, NULL, NULL, NULL) != SQLITE_OK)
        return db_error(j, err);
    return 0;
}

struct fm_journal *fm_journal_open(const char *path, struct fm_error *err)
{
    struct fm_journal *j = fm_xcalloc(1, sizeof(*j));
    pthread_mutex_init(&j->lock, NULL);
    if (sqlite3_open(path, &j->db) != SQLITE_OK ||
        sqlite3_exec(j->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;", NULL, NULL,
                     NULL) != SQLITE_OK) {
        db_error(j, err);
        fm_error_prefix(err, "cannot open %s", path);
        fm_journal_close(j);
        return NULL;
    }
    sqlite3_busy_timeout(j->db, 5000);
    if (open_schema(j, path, err) < 0) {
        fm_journal_close(j);
        return NULL;
    }
    return j;
}

void fm_journal_close(struct fm_journal *j)
{
    if (!j)
        return;
    sqlite3_close(j->db);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

int fm_journal_create(struct fm_journal *j, const char *id, const char *role, const json_t *doc,
                      struct fm_error *err)
{
    HOLD_LOCK(j);
    autostmt s =
        prepare(j, "INSERT INTO migrations (id, role, doc, created_us) VALUES (?, ?, ?, ?)", err);
    if (!s)
        return -FM_E_IO;
    bind_text(s, 1, id);
    bind_text(s, 2, role);
    bind_json(s, 3, doc);
    sqlite3_bind_int64(s, 4, (sqlite3_int64)fm_realtime_us());
    return run(j, s, err);
}

int fm_journal_update(struct fm_journal *j, const char *id, const json_t *doc, bool final,
                      struct fm_error *err)
{
    HOLD_LOCK(j);
    autostmt s = prepare(j, "UPDATE migrations SET doc = ?, final = ? WHERE id = ?", err);
    if (!s)
        return -FM_E_IO;
    bind_json(s, 1, doc);
    sqlite3_bind_int(s, 2, final);
    bind_text(s, 3, id);
    return run(j, s, err);
}

int fm_journal_transition(struct fm_journal *j, const char *id, const struct fm_transition *t,
                          struct fm_error *err)
{
    char at[32];
    fm_format_time(fm_realtime_us(), at, sizeof(at));
    json_auto_t *doc =
        json_pack("{s:s?, s:s, s:s, s:b, s:s, s:s, s:f}", "from",
                  t->from == FM_STATE_NONE ? NULL : fm_state_text(t->from), "to",
                  fm_state_text(t->to), "at", at, "final", (int)t->final, "component", t->component,
                  "message", t->message, "duration_ms", t->duration_ms);
    HOLD_LOCK(j);
    autostmt s = prepare(j, "INSERT INTO transitions (migration, doc) VALUES (?, ?)", err);
    if (!s)
        return -FM_E_IO;
    bind_text(s, 1, id);
    bind_json(s, 2, doc);
    return run(j, s, err);
}

static int write_step(struct fm_journal *j, const char *id, const char *step, const json_t *detail,
                      struct fm_error *err)
{
    HOLD_LOCK(j);
    autostmt s =
        prepare(j, "INSERT INTO steps (migration, step, detail, at_us) VALUES (?, ?, ?, ?)", err);
    if (!s)
        return -FM_E_IO;
    bind_text(s, 1, id);
    bind_text(s, 2, step);
    bind_json(s, 3, detail);
    sqlite3_bind_int64(s, 4, (sqlite3_int64)fm_realtime_us());
    return run(j, s, err);
}

int fm_journal_step(struct fm_journal *j, const char *id, enum fm_step step, const json_t *detail,
                    struct fm_error *err)
{
    int rc = write_step(j, id, fm_step_text(step), detail, err);
    if (rc < 0)
        return rc;
    fm_autofree char *point = fm_strf("step.%s", fm_step_text(step));
    if (fm_fault(point))
        return fm_error_set(err, FM_E_FAILED, "fault injected at %s", point);
    return 0;
}

int fm_journal_undone(struct fm_journal *j, const char *id, enum fm_step step, struct fm_error *err)
{
    HOLD_LOCK(j);
    autostmt s = prepare(j, "UPDATE steps SET undone = 1 WHERE migration = ? AND step = ?", err);
    if (!s)
        return -FM_E_IO;
    bind_text(s, 1, id);
    bind_text(s, 2, fm_step_text(step));
    return run(j, s, err);
}

int fm_journal_amend(struct fm_journal *j, const char *id, enum fm_step step, const json_t *detail,
                     struct fm_error *err)
{
    HOLD_LOCK(j);
    autostmt s = prepare(j,
                         "UPDATE steps SET detail = ?1 WHERE seq = (SELECT max(seq) FROM steps"
                         " WHERE migration = ?2 AND step = ?3 AND undone = 0)",
                         err);
    if (!s)
        return -FM_E_IO;
    bind_json(s, 1, detail);
    bind_text(s, 2, id);
    bind_text(s, 3, fm_step_text(step));
    return run(j, s, err);
}

bool fm_journal_has(struct fm_journal *j, const char *id, enum fm_step step, json_t **detail)
{
    if (detail)
        *detail = NULL;
    HOLD_LOCK(j);
    autostmt s = prepare(j,
                         "SELECT detail FROM steps WHERE migration = ? AND step = ? AND undone = 0"
                         " ORDER BY seq DESC LIMIT 1",
                         NULL);
    if (!s)
        return false;
    bind_text(s, 1, id);
    bind_text(s, 2, fm_step_text(step));
    if (sqlite3_step(s) != SQLITE_ROW)
        return false;
    if (detail)
        *detail = column_json(s, 0);
    return true;
}

/* The rows of a migration in one of its two side tables, as an array. */
static json_t *transitions_of(struct fm_journal *j, const char *id)
{
    json_t *list = json_array();
    autostmt s = prepare(j, "SELECT doc FROM transitions WHERE migration = ? ORDER BY seq", NULL);
    bind_text(s, 1, id);
    while (s && sqlite3_step(s) == SQLITE_ROW)
        json_array_append_new(list, column_json(s, 0));
    return list;
}

static json_t *steps_of(struct fm_journal *j, const char *id)
{
    json_t *list = json_array();
    autostmt s = prepare(
        j, "SELECT step, at_us, undone, detail FROM steps WHERE migration = ? ORDER BY seq", NULL);
    bind_text(s, 1, id);
    while (s && sqlite3_step(s) == SQLITE_ROW) {
        char at[32];
        fm_format_time((uint64_t)sqlite3_column_int64(s, 1), at, sizeof(at));
        json_t *detail = column_json(s, 3);
        json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:o}", "step",
                                              (const char *)sqlite3_column_text(s, 0), "at", at,
                                              "undone", sqlite3_column_int(s, 2), "detail",
                                              detail ? detail : json_null()));
    }
    return list;
}

json_t *fm_journal_load(struct fm_journal *j, const char *id, struct fm_error *err)
{
    HOLD_LOCK(j);
    autostmt s = prepare(j, "SELECT doc FROM migrations WHERE id = ?", err);
    if (!s)
        return NULL;
    bind_text(s, 1, id);
    int rc = sqlite3_step(s);
    json_t *doc = rc == SQLITE_ROW ? column_json(s, 0) : NULL;
    if (!doc && rc == SQLITE_DONE)
        fm_error_set(err, FM_E_NOT_FOUND, "no migration '%s'", id);
    else if (!doc)
        db_error(j, err);
    if (!doc)
        return NULL;
    json_object_set_new(doc, "transitions", transitions_of(j, id));
    json_object_set_new(doc, "steps", steps_of(j, id));
    return doc;
}

json_t *fm_journal_return_of(struct fm_journal *j, const char *id, const char *role)
{
    HOLD_LOCK(j);
    autostmt s = prepare(j,
                         "SELECT doc FROM migrations WHERE role = ?"
                         " AND json_extract(doc, '$.return_of') = ?"
                         " ORDER BY created_us DESC, rowid DESC LIMIT 1",
                         NULL);
    if (!s)
        return NULL;
    bind_text(s, 1, role);
    bind_text(s, 2, id);
    return sqlite3_step(s) == SQLITE_ROW ? column_json(s, 0) : NULL;
}

bool fm_journal_is_latest(struct fm_journal *j, const char *id, const char *container)
{
    HOLD_LOCK(j);
    autostmt s = prepare(j,
                         "SELECT 1 FROM migrations WHERE json_extract(doc, '$.container') = ?"
                         " AND rowid > (SELECT rowid FROM migrations WHERE id = ?)"
                         " AND coalesce(json_extract(doc, '$.return_of'), '') <> ? LIMIT 1",
                         NULL);
    if (!s)
        return false;
    bind_text(s, 1, container);
    bind_text(s, 2, id);
    bind_text(s, 3, id);
    return sqlite3_step(s) == SQLITE_DONE;
}

json_t *fm_journal_left(struct fm_journal *j, const char *container, uint64_t now_us)
{
    /* A time that is further away than any pause is of a clock that was wrong. */
    static const char sql[] =
        "SELECT id FROM migrations WHERE final = 0 AND role = '" FM_ROLE_SOURCE "'"
        " AND json_extract(doc, '$.final') AND json_extract(doc, '$.followers_left') IS NOT NULL"
        " AND coalesce(json_extract(doc, '$.container') = ?1, 1)"
        " AND json_extract(doc, '$.followers_left.retry_us') NOT BETWEEN ?2 + 1 AND ?2 + 120000000"
        " ORDER BY created_us, rowid";
    json_t *list = json_array();
    HOLD_LOCK(j);
    autostmt s = prepare(j, sql, NULL);
    if (!s)
        return list;
    if (container)
        bind_text(s, 1, container);
    sqlite3_bind_int64(s, 2, now_us > INT64_MAX / 2 ? INT64_MAX / 2 : (sqlite3_int64)now_us);
    while (sqlite3_step(s) == SQLITE_ROW)
        json_array_append_new(list, json_string((const char *)sqlite3_column_text(s, 0)));
    return list;
}

json_t *fm_journal_standing(struct fm_journal *j, enum fm_step step)
{
    json_t *list = json_array();
    HOLD_LOCK(j);
    autostmt s = prepare(j,
                         "SELECT migration, detail, max(seq) AS newest FROM steps"
                         " WHERE step = ? AND undone = 0 GROUP BY migration ORDER BY newest",
                         NULL);
    if (!s)
        return list;
    bind_text(s, 1, fm_step_text(step));
    while (sqlite3_step(s) == SQLITE_ROW)
        json_array_append_new(list, json_pack("{s:s, s:o*}", "id",
                                              (const char *)sqlite3_column_text(s, 0), "detail",
                                              column_json(s, 1)));
    return list;
}

bool fm_journal_told_later(struct fm_journal *j, const char *id, const char *container,
                           const char *follower)
{
    HOLD_LOCK(j);
    autostmt s = prepare(j,
                         "SELECT 1 FROM migrations AS m JOIN steps AS s ON s.migration = m.id"
                         " WHERE m.role = '" FM_ROLE_SOURCE "' AND s.step = ?4"
                         " AND json_extract(m.doc, '$.container') = ?1"
                         " AND m.rowid > (SELECT rowid FROM migrations WHERE id = ?2)"
                         " AND EXISTS (SELECT 1 FROM json_each(s.detail, '$.told')"
                         "             WHERE value = ?3) LIMIT 1",
                         NULL);
    if (!s)
        return false;
    bind_text(s, 1, container);
    bind_text(s, 2, id);
    bind_text(s, 3, follower);
    bind_text(s, 4, fm_step_text(FM_STEP_FOLLOW));
    return sqlite3_step(s) == SQLITE_ROW;
}

bool fm_journal_came_later(struct fm_journal *j, const char *id, const char *container)
{
    HOLD_LOCK(j);
    autostmt s =
        prepare(j,
                "SELECT 1 FROM migrations WHERE role = '" FM_ROLE_DESTINATION "'"
                " AND json_extract(doc, '$.container') = ?1"
                " AND rowid > (SELECT rowid FROM migrations WHERE id = ?2)"
                " AND coalesce(json_extract(doc, '$.return_of'), '') = ''"
                " AND json_extract(doc, '$.stage') IN ('committed', 'running', 'done') LIMIT 1",
                NULL);
    if (!s)
        return false;
    bind_text(s, 1, container);
    bind_text(s, 2, id);
    return sqlite3_step(s) == SQLITE_ROW;
}

json_t *fm_journal_list(struct fm_journal *j, size_t limit, struct fm_error *err)
{
    HOLD_LOCK(j);
    autostmt s =
        prepare(j, "SELECT doc FROM migrations ORDER BY created_us DESC, rowid DESC LIMIT ?", err);
    if (!s)
        return NULL;
    sqlite3_bind_int64(s, 1, (sqlite3_int64)limit);
    json_t *list = json_array();
    while (sqlite3_step(s) == SQLITE_ROW)
        json_array_append_new(list, column_json(s, 0));
    return list;
}

json_t *fm_journal_unfinished(struct fm_journal *j, struct fm_error *err)
{
    HOLD_LOCK(j);
    autostmt s = prepare(
        j, "SELECT id, role FROM migrations WHERE final = 0 ORDER BY created_us, rowid", err);
    if (!s)
        return NULL;
    json_t *list = json_array();
    while (sqlite3_step(s) == SQLITE_ROW)
        json_array_append_new(list,
                              json_pack("{s:s, s:s}", "id", (const char *)sqlite3_column_text(s, 0),
                                        "role", (const char *)sqlite3_column_text(s, 1)));
    return list;
}
