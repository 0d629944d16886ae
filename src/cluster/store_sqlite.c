#include "cluster/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

#define SCHEMA_VERSION 1
#define APPLICATION_ID 0x464d5247 /* "FMRG" in the file's header */
#define BUSY_TIMEOUT_MS 5000

static const char schema[] = "CREATE TABLE documents("
                             " kind TEXT NOT NULL, key TEXT NOT NULL, doc TEXT NOT NULL,"
                             " PRIMARY KEY(kind, key)) WITHOUT ROWID;"
                             "CREATE TABLE decisions("
                             " migration TEXT NOT NULL PRIMARY KEY,"
                             " committed INTEGER NOT NULL CHECK(committed IN (0, 1)),"
                             " decided_at_us INTEGER NOT NULL) WITHOUT ROWID;";

enum statement { PUT, GET, LIST, REMOVE, DECIDE, DECISION, STATEMENTS };

static const char *const statement_sql[STATEMENTS] = {
    [PUT] = "INSERT INTO documents(kind, key, doc) VALUES(?1, ?2, ?3)"
            " ON CONFLICT(kind, key) DO UPDATE SET doc = excluded.doc",
    [GET] = "SELECT doc FROM documents WHERE kind = ?1 AND key = ?2",
    [LIST] = "SELECT doc FROM documents WHERE kind = ?1 ORDER BY key",
    [REMOVE] = "DELETE FROM documents WHERE kind = ?1 AND key = ?2",
    [DECIDE] = "INSERT INTO decisions(migration, committed, decided_at_us) VALUES(?1, ?2, ?3)"
               " ON CONFLICT(migration) DO NOTHING",
    [DECISION] = "SELECT committed FROM decisions WHERE migration = ?1",
};

struct registry {
    char *path;
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    pthread_mutex_t lock; /* one statement runs at a time */
};

/* --- errors
 * ---------------------------------------------------------------------------------------- */

static int registry_failed(const struct registry *r, const char *what, struct fm_error *err)
{
    switch (sqlite3_errcode(r->db) & 0xff) {
    case SQLITE_FULL:
        return fm_error_set(err, FM_E_NO_SPACE, "registry %s: cannot %s: the disk is full", r->path,
                            what);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return fm_error_set(err, FM_E_TIMEOUT,
                            "registry %s: cannot %s: another program holds it locked", r->path,
                            what);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return fm_error_set(err, FM_E_INVALID,
                            "registry %s: cannot %s: it is damaged (%s): restore it from a backup, "
                            "or move it away to start with an empty one",
                            r->path, what, sqlite3_errmsg(r->db));
    default:
        return fm_error_set(err, FM_E_IO, "registry %s: cannot %s: %s", r->path, what,
                            sqlite3_errmsg(r->db));
    }
}

/* --- opening
 * ----------------------------------------------------------------------------------------- */

static int execute(struct registry *r, const char *sql, const char *what, struct fm_error *err)
{
    return sqlite3_exec(r->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0
                                                                   : registry_failed(r, what, err);
}

static int query_int(struct registry *r, const char *sql, int *value, struct fm_error *err)
{
    sqlite3_stmt *statement = NULL;

    bool ok = sqlite3_prepare_v2(r->db, sql, -1, &statement, NULL) == SQLITE_OK &&
              sqlite3_step(statement) == SQLITE_ROW;
    int rc = ok ? 0 : registry_failed(r, "read its version", err);
    if (ok)
        *value = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return rc;
}

static int create_schema(struct registry *r, struct fm_error *err)
{
    int tables = 0;

    int rc = query_int(r, "SELECT count(*) FROM sqlite_schema", &tables, err);
    if (rc < 0)
        return rc;
    if (tables > 0)
        return fm_error_set(err, FM_E_INVALID,
                            "registry %s is the database of another program: choose another path",
                            r->path);
    fm_autofree char *sql = fm_strf("%s PRAGMA application_id = %d; PRAGMA user_version = %d;",
                                    schema, APPLICATION_ID, SCHEMA_VERSION);
    return execute(r, sql, "create its tables", err);
}

static int check_schema(struct registry *r, struct fm_error *err)
{
    int version = 0;
    int application = 0;

    int rc = query_int(r, "PRAGMA user_version", &version, err);
    if (rc == 0)
        rc = query_int(r, "PRAGMA application_id", &application, err);
    if (rc < 0)
        return rc;
    if (application == 0 && version == 0)
        return create_schema(r, err);
    if (application != APPLICATION_ID)
        return fm_error_set(err, FM_E_INVALID,
                            "registry %s is the database of another program: choose another path",
                            r->path);
    if (version > SCHEMA_VERSION)
        return fm_error_set(err, FM_E_INVALID,
                            "registry %s is from a newer version (schema %d, this program knows "
                            "%d): upgrade this program",
                            r->path, version, SCHEMA_VERSION);
    return version == SCHEMA_VERSION
               ? 0
               : fm_error_set(err, FM_E_INVALID, "registry %s has the unknown schema %d", r->path,
                              version);
}

/* Under an immediate transaction, so that two programs that start at once agree on who creates it.
 */
static int prepare_schema(struct registry *r, struct fm_error *err)
{
    int rc = execute(r, "BEGIN IMMEDIATE", "lock it", err);

    if (rc < 0)
        return rc;
    rc = check_schema(r, err);
    if (rc == 0)
        return execute(r, "COMMIT", "create its tables", err);
    sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

static int prepare_statements(struct registry *r, struct fm_error *err)
{
    for (int i = 0; i < STATEMENTS; i++) {
        if (sqlite3_prepare_v3(r->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &r->statements[i], NULL) != SQLITE_OK)
            return registry_failed(r, "prepare its statements", err);
    }
    return 0;
}

/* Readable by the owner alone. SQLite gives its log the same mode. The name is made durable too: a
 * decision must not vanish with its file. */
static int create_file(const char *path, struct fm_error *err)
{
    fm_autofree char *dir = fm_xstrdup(path);

    if (fm_streq(path, ":memory:"))
        return 0;
    fm_autoclose int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open registry %s", path);
    char *slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir ? 1 : 0] = '\0';
    fm_autoclose int dir_fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0 || fsync(dir_fd) < 0)
        return fm_error_errno(err, errno, "cannot sync the directory of registry %s", path);
    return 0;
}

static int registry_open(struct registry *r, struct fm_error *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;

    int rc = create_file(r->path, err);
    if (rc < 0)
        return rc;
    if (sqlite3_open_v2(r->path, &r->db, flags, NULL) != SQLITE_OK)
        return registry_failed(r, "open it", err);
    sqlite3_busy_timeout(r->db, BUSY_TIMEOUT_MS);
    rc = prepare_schema(r, err);
    if (rc == 0)
        rc = execute(r, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
                     "switch on its write-ahead log", err);
    return rc < 0 ? rc : prepare_statements(r, err);
}

static void registry_free(struct registry *r)
{
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(r->statements[i]);
    sqlite3_close(r->db);
    pthread_mutex_destroy(&r->lock);
    free(r->path);
    free(r);
}

/* --- statements: begin locks and binds, end resets and unlocks
 * ---------------------------------------- */

static sqlite3_stmt *begin(struct registry *r, enum statement which, const char *first,
                           const char *second, const char *third)
{
    sqlite3_stmt *statement = r->statements[which];

    pthread_mutex_lock(&r->lock);
    sqlite3_bind_text(statement, 1, first, -1, SQLITE_STATIC);
    if (second)
        sqlite3_bind_text(statement, 2, second, -1, SQLITE_STATIC);
    if (third)
        sqlite3_bind_text(statement, 3, third, -1, SQLITE_STATIC);
    return statement;
}

static void reset(sqlite3_stmt *statement)
{
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

static void end(struct registry *r, sqlite3_stmt *statement)
{
    reset(statement);
    pthread_mutex_unlock(&r->lock);
}

static json_t *column_document(const struct registry *r, sqlite3_stmt *statement,
                               struct fm_error *err)
{
    const char *text = (const char *)sqlite3_column_text(statement, 0);

    json_t *doc = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    if (!doc)
        fm_error_set(err, FM_E_INVALID, "registry %s: a document in it is not JSON", r->path);
    return doc;
}

/* --- the interface
 * -------------------------------------------------------------------------------------- */

static int sqlite_put(void *ctx, const char *kind, const char *key, const json_t *doc,
                      struct fm_error *err)
{
    struct registry *r = ctx;
    int rc = 0;

    fm_autofree char *text = json_dumps(doc, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    if (!text)
        return fm_error_set(err, FM_E_INVALID, "the document of %s '%s' is not JSON", kind, key);
    sqlite3_stmt *statement = begin(r, PUT, kind, key, text);
    if (sqlite3_step(statement) != SQLITE_DONE)
        rc = registry_failed(r, "write to it", err);
    end(r, statement);
    return rc;
}

static json_t *sqlite_get(void *ctx, const char *kind, const char *key, struct fm_error *err)
{
    struct registry *r = ctx;
    json_t *doc = NULL;

    sqlite3_stmt *statement = begin(r, GET, kind, key, NULL);
    switch (sqlite3_step(statement)) {
    case SQLITE_ROW:
        doc = column_document(r, statement, err);
        break;
    case SQLITE_DONE:
        fm_error_set(err, FM_E_NOT_FOUND, "there is no %s '%s'", kind, key);
        break;
    default:
        registry_failed(r, "read it", err);
    }
    end(r, statement);
    return doc;
}

static json_t *sqlite_list(void *ctx, const char *kind, struct fm_error *err)
{
    struct registry *r = ctx;
    json_t *list = json_array();
    int step;

    sqlite3_stmt *statement = begin(r, LIST, kind, NULL, NULL);
    while (list && (step = sqlite3_step(statement)) != SQLITE_DONE) {
        json_t *doc = NULL;
        if (step == SQLITE_ROW)
            doc = column_document(r, statement, err);
        else
            registry_failed(r, "read it", err);
        if (doc) {
            json_array_append_new(list, doc);
        } else {
            json_decref(list);
            list = NULL;
        }
    }
    end(r, statement);
    return list;
}

static int sqlite_remove(void *ctx, const char *kind, const char *key, struct fm_error *err)
{
    struct registry *r = ctx;
    int rc = 0;

    sqlite3_stmt *statement = begin(r, REMOVE, kind, key, NULL);
    if (sqlite3_step(statement) != SQLITE_DONE)
        rc = registry_failed(r, "write to it", err);
    else if (sqlite3_changes(r->db) == 0)
        rc = fm_error_set(err, FM_E_NOT_FOUND, "there is no %s '%s'", kind, key);
    end(r, statement);
    return rc;
}

/* Reads the record with the lock held. */
static int read_decision(struct registry *r, const char *migration, bool *decided, bool *commit,
                         struct fm_error *err)
{
    sqlite3_stmt *statement = r->statements[DECISION];
    int rc = 0;

    *decided = false;
    *commit = false;
    sqlite3_bind_text(statement, 1, migration, -1, SQLITE_STATIC);
    int step = sqlite3_step(statement);
    if (step == SQLITE_ROW) {
        *decided = true;
        *commit = sqlite3_column_int(statement, 0) == 1;
    } else if (step != SQLITE_DONE) {
        rc = registry_failed(r, "read a decision", err);
    }
    reset(statement);
    return rc;
}

/* With synchronous=FULL every commit ends with an fsync of the write-ahead log (SQLite, "PRAGMA
 * synchronous"). A record of somebody else's that is found instead was written by the same rule. */
static int write_decision(struct registry *r, sqlite3_stmt *statement, bool want_commit,
                          struct fm_error *err)
{
    sqlite3_bind_int(statement, 2, want_commit);
    sqlite3_bind_int64(statement, 3, (sqlite3_int64)fm_realtime_us());
    int rc = execute(r, "PRAGMA synchronous = FULL", "make a decision durable", err);
    if (rc == 0 && sqlite3_step(statement) != SQLITE_DONE)
        rc = registry_failed(r, "write a decision", err);
    reset(statement);
    if (rc == 0)
        rc = execute(r, "PRAGMA synchronous = NORMAL", "write a decision", err);
    return rc;
}

static int sqlite_decide(void *ctx, const char *migration, bool want_commit, bool *commit,
                         struct fm_error *err)
{
    struct registry *r = ctx;
    bool decided = false;

    sqlite3_stmt *statement = begin(r, DECIDE, migration, NULL, NULL);
    int rc = write_decision(r, statement, want_commit, err);
    if (rc == 0)
        rc = read_decision(r, migration, &decided, commit, err);
    if (rc == 0 && !decided)
        rc = fm_error_set(err, FM_E_IO, "registry %s: the decision of migration %s is not there",
                          r->path, migration);
    end(r, statement);
    return rc;
}

static int sqlite_decision(void *ctx, const char *migration, bool *decided, bool *commit,
                           struct fm_error *err)
{
    struct registry *r = ctx;

    pthread_mutex_lock(&r->lock);
    int rc = read_decision(r, migration, decided, commit, err);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static const struct fm_store_ops sqlite_ops = {
    .put = sqlite_put,
    .get = sqlite_get,
    .list = sqlite_list,
    .remove = sqlite_remove,
    .decide = sqlite_decide,
    .decision = sqlite_decision,
};

int fm_store_sqlite_open(const char *path, struct fm_store *store, struct fm_error *err)
{
    struct registry *r = fm_xcalloc(1, sizeof(*r));

    r->path = fm_xstrdup(path);
    pthread_mutex_init(&r->lock, NULL);
    int rc = registry_open(r, err);
    if (rc < 0) {
        registry_free(r);
        return rc;
    }
    *store = (struct fm_store){.ops = &sqlite_ops, .ctx = r};
    return 0;
}

void fm_store_sqlite_close(struct fm_store *store)
{
    if (store->ctx)
        registry_free(store->ctx);
    *store = (struct fm_store){0};
}
