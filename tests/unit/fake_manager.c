#include "fake_manager.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

#define SUBSCRIBERS 16
#define THREADS 256

struct fm_manager {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char *host, *run_dir;
    json_t *hosts, *containers, *migrations, *networks; /* objects by name or id */
    struct {
        fm_event_fn fn;
        void *ctx;
    } subscribers[SUBSCRIBERS];
    pthread_mutex_t publishing;
    pthread_t threads[THREADS];
    size_t thread_count;
    int running;
    bool ready, closing;
};

/* --- life --- */

static void add_host(struct fm_manager *m, const char *name, const char *status, bool self)
{
    json_object_set_new(m->hosts, name,
                        json_pack("{s:s, s:s, s:i, s:i, s:b, s:b, s:s}", "name", name, "address",
                                  "127.0.0.1", "api_port", 7440, "wire_port", 7441, "cordoned", 0,
                                  "self", self, "status", status));
}

static void add_container(struct fm_manager *m, const char *name)
{
    fm_autofree char *path = fm_strf("%s/%s.log", m->run_dir, name);

    json_object_set_new(m->containers, name,
                        json_pack("{s:s, s:s, s:b, s:s, s:i, s:s, s:[s,s], s:s}", "name", name,
                                  "runtime", "runc", "found", 0, "state", "running", "pid", 4711,
                                  "ip", "10.88.0.5/24", "command", "sleep", "inf", "host",
                                  m->host));
    if (fm_file_write(path, "one\ntwo\nthree\n", 14, 0600, NULL) < 0)
        abort();
}

struct fm_manager *fm_manager_open(const struct fm_manager_config *config, struct fm_error *err)
{
    struct fm_manager *m = fm_xcalloc(1, sizeof(*m));

    (void)err;
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->publishing, NULL);
    pthread_cond_init(&m->changed, NULL);
    m->host = fm_xstrdup(config->host);
    m->run_dir = fm_xstrdup(config->run_dir);
    m->hosts = json_object();
    m->containers = json_object();
    m->migrations = json_object();
    m->networks = json_pack(
        "{s:{s:s, s:s, s:s, s:s, s:i, s:s, s:i, s:[{s:s, s:s, s:s, s:s, s:[s]}]}}", "default",
        "name", "default", "mode", "overlay", "subnet", "10.88.0.0/16", "gateway", "10.88.0.1",
        "vni", 4096, "parent", "", "containers", 1, "leases", "ip", "10.88.0.5", "mac",
        "02:fd:0a:58:00:05", "owner", "redis", "host", m->host, "publish", "8080:80/tcp");
    m->ready = true;
    add_host(m, config->host, "online", true);
    add_host(m, "host-b", "online", false);
    add_host(m, "host-broken", "online", false);
    add_host(m, "host-off", "offline", false);
    add_container(m, "redis");
    add_container(m, "slow");
    add_container(m, "immovable");
    return m;
}

void fm_manager_close(struct fm_manager *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->closing = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    for (size_t i = 0; i < m->thread_count; i++)
        pthread_join(m->threads[i], NULL);
    json_decref(m->hosts);
    json_decref(m->containers);
    json_decref(m->migrations);
    json_decref(m->networks);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->publishing);
    pthread_cond_destroy(&m->changed);
    free(m->host);
    free(m->run_dir);
    free(m);
}

void fake_manager_set_ready(struct fm_manager *m, bool ready)
{
    m->ready = ready;
}

bool fm_manager_ready(struct fm_manager *m)
{
    return m->ready;
}

int fm_manager_running(struct fm_manager *m)
{
    int running;

    pthread_mutex_lock(&m->lock);
    running = m->running;
    pthread_mutex_unlock(&m->lock);
    return running;
}

/* --- documents --- */

static json_t *copy(struct fm_manager *m, const json_t *from, const char *key, const char *what,
                    struct fm_error *err)
{
    json_t *doc;

    pthread_mutex_lock(&m->lock);
    doc = json_deep_copy(json_object_get(from, key));
    pthread_mutex_unlock(&m->lock);
    if (!doc)
        fm_error_set(err, FM_E_NOT_FOUND, "there is no %s '%s'", what, key);
    return doc;
}

static json_t *copy_all(struct fm_manager *m, json_t *from)
{
    json_t *list = json_array();
    const char *key;
    json_t *value;

    pthread_mutex_lock(&m->lock);
    json_object_foreach(from, key, value) json_array_append_new(list, json_deep_copy(value));
    pthread_mutex_unlock(&m->lock);
    return list;
}

static int drop(struct fm_manager *m, json_t *from, const char *key, const char *what,
                struct fm_error *err)
{
    int ret;

    pthread_mutex_lock(&m->lock);
    ret = json_object_del(from, key);
    pthread_mutex_unlock(&m->lock);
    return ret == 0 ? 0 : fm_error_set(err, FM_E_NOT_FOUND, "there is no %s '%s'", what, key);
}

static int set(struct fm_manager *m, json_t *from, const char *name, const char *key, json_t *value,
               struct fm_error *err)
{
    json_t *doc;

    pthread_mutex_lock(&m->lock);
    doc = json_object_get(from, name);
    if (doc)
        json_object_set(doc, key, value);
    pthread_mutex_unlock(&m->lock);
    json_decref(value);
    return doc ? 0 : fm_error_set(err, FM_E_NOT_FOUND, "there is no '%s'", name);
}

/* --- events --- */

int fm_manager_subscribe(struct fm_manager *m, fm_event_fn fn, void *ctx)
{
    int handle = -1;

    pthread_mutex_lock(&m->publishing);
    for (int i = 0; i < SUBSCRIBERS && handle < 0; i++)
        if (!m->subscribers[i].fn)
            handle = i;
    if (handle >= 0) {
        m->subscribers[handle].fn = fn;
        m->subscribers[handle].ctx = ctx;
    }
    pthread_mutex_unlock(&m->publishing);
    return handle;
}

void fm_manager_unsubscribe(struct fm_manager *m, int handle)
{
    pthread_mutex_lock(&m->publishing);
    m->subscribers[handle].fn = NULL;
    pthread_mutex_unlock(&m->publishing);
}

void fake_manager_emit(struct fm_manager *m, const json_t *event)
{
    pthread_mutex_lock(&m->publishing);
    for (int i = 0; i < SUBSCRIBERS; i++)
        if (m->subscribers[i].fn)
            m->subscribers[i].fn(event, m->subscribers[i].ctx);
    pthread_mutex_unlock(&m->publishing);
}

/* --- migrations --- */

struct job {
    struct fm_manager *m;
    char *id;
};

static void to_state(struct fm_manager *m, const char *id, const char *state, bool final,
                     const char *message)
{
    json_auto_t *event = NULL;
    char at[32];
    json_t *doc;

    fm_format_time(fm_realtime_us(), at, sizeof(at));
    pthread_mutex_lock(&m->lock);
    doc = json_object_get(m->migrations, id);
    event =
        json_pack("{s:s, s:s, s:s, s:O, s:O, s:O, s:O, s:s, s:b, s:s, s:s}", "type", "transition",
                  "at", at, "migration", id, "container", json_object_get(doc, "container"),
                  "source", json_object_get(doc, "source"), "destination",
                  json_object_get(doc, "destination"), "from", json_object_get(doc, "state"), "to",
                  state, "final", final, "component", "MigrationManager", "message", message);
    json_array_append_new(json_object_get(doc, "transitions"), json_deep_copy(event));
    json_object_set_new(doc, "state", json_string(state));
    json_object_set_new(doc, "final", json_boolean(final));
    pthread_mutex_unlock(&m->lock);
    fake_manager_emit(m, event);
}

static void set_reason(struct fm_manager *m, const char *id, const char *failed_in,
                       enum fm_code code, const char *message)
{
    set(m, m->migrations, id, "failed_in", json_string(failed_in), NULL);
    set(m, m->migrations, id, "result", json_string("failed"), NULL);
    set(m, m->migrations, id, "reason",
        json_pack("{s:s, s:s}", "code", fm_code_name(code), "message", message), NULL);
}

static void fail(struct fm_manager *m, const char *id, const char *failed_in, enum fm_code code,
                 const char *message)
{
    set_reason(m, id, failed_in, code, message);
    to_state(m, id, "FAILED", false, message);
    to_state(m, id, "ROLLBACK", false, "undoing what was done");
    to_state(m, id, "FAILED", true, "rolled back");
}

static void wait_for_cancel(struct fm_manager *m, const char *id)
{
    json_auto_t *progress = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i}", "type", "progress",
                                      "migration", id, "phase", "EXECUTION", "percent", 45, "bytes",
                                      45 << 20, "remaining", 55 << 20, "throughput", 123 << 20);

    fake_manager_emit(m, progress);
    pthread_mutex_lock(&m->lock);
    while (!m->closing &&
           !json_is_true(json_object_get(json_object_get(m->migrations, id), "cancel")))
        pthread_cond_wait(&m->changed, &m->lock);
    pthread_mutex_unlock(&m->lock);
}

static void play(struct fm_manager *m, const char *id, const char *container,
                 const char *destination)
{
    to_state(m, id, "PENDING", false, "request accepted");
    if (fm_streq(destination, "host-off")) {
        fail(m, id, "PENDING", FM_E_UNREACHABLE, "host-off does not answer");
        return;
    }
    to_state(m, id, "PLANNING", false, "hosts are reachable");
    if (fm_streq(container, "immovable")) {
        fail(m, id, "PLANNING", FM_E_REFUSED, "the container is labelled immovable");
        return;
    }
    to_state(m, id, "PREPARATION", false, "strategy cold");
    to_state(m, id, "EXECUTION", false, "destination is prepared");
    if (fm_streq(container, "slow")) {
        wait_for_cancel(m, id);
        fail(m, id, "EXECUTION", FM_E_CANCELLED, "cancelled");
        return;
    }
    if (fm_streq(destination, "host-broken")) {
        fail(m, id, "EXECUTION", FM_E_CHECKSUM, "chunk 7 is corrupted");
        return;
    }
    to_state(m, id, "VERIFICATION", false, "committed");
    set(m, m->migrations, id, "result", json_string("completed"), NULL);
    set(m, m->migrations, id, "stats",
        json_pack("{s:f, s:f, s:i}", "freeze_ms", 143.5, "total_ms", 2100.0, "wire_bytes",
                  73400320),
        NULL);
    to_state(m, id, "COMPLETED", true, "container runs on the destination");
}

static void *run_job(void *arg)
{
    struct job *job = arg;
    struct fm_manager *m = job->m;
    json_auto_t *doc = copy(m, m->migrations, job->id, "migration", NULL);

    play(m, job->id, json_string_value(json_object_get(doc, "container")),
         json_string_value(json_object_get(doc, "destination")));
    pthread_mutex_lock(&m->lock);
    m->running--;
    pthread_mutex_unlock(&m->lock);
    free(job->id);
    free(job);
    return NULL;
}

static bool has(struct fm_manager *m, const json_t *from, const char *key)
{
    bool found;

    pthread_mutex_lock(&m->lock);
    found = json_object_get(from, key) != NULL;
    pthread_mutex_unlock(&m->lock);
    return found;
}

json_t *fm_manager_migrate(struct fm_manager *m, const json_t *request, struct fm_error *err)
{
    const char *container = json_string_value(json_object_get(request, "container"));
    const char *destination = json_string_value(json_object_get(request, "destination"));
    struct job *job;
    json_t *doc;
    char *id;

    if (!container || !destination) {
        fm_error_set(err, FM_E_INVALID, "'container' and 'destination' are needed");
        return NULL;
    }
    if (!has(m, m->containers, container)) {
        fm_error_set(err, FM_E_NOT_FOUND, "there is no container '%s'", container);
        return NULL;
    }
    if (!has(m, m->hosts, destination)) {
        fm_error_set(err, FM_E_NOT_FOUND, "there is no host '%s'", destination);
        return NULL;
    }
    if (fm_streq(destination, m->host)) {
        fm_error_set(err, FM_E_INVALID, "'%s' is on '%s' already", container, destination);
        return NULL;
    }
    id = fm_random_id();
    job = fm_xcalloc(1, sizeof(*job));
    job->m = m;
    job->id = id;
    pthread_mutex_lock(&m->lock);
    json_object_set_new(m->migrations, id,
                        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:s, s:s, s:O, s:[]}", "id",
                                  id, "container", container, "source", m->host, "destination",
                                  destination, "strategy", "cold", "state", "NONE", "final", 0,
                                  "result", "running", "created", "2026-01-31T12:00:00.123Z",
                                  "options", (json_t *)(uintptr_t)request, "transitions"));
    if (m->thread_count == THREADS)
        abort();
    m->running++;
    pthread_mutex_unlock(&m->lock);
    doc = copy(m, m->migrations, id, "migration", err);
    if (pthread_create(&m->threads[m->thread_count++], NULL, run_job, job) != 0)
        abort();
    return doc;
}

json_t *fm_manager_check(struct fm_manager *m, const char *container, const char *destination,
                         struct fm_error *err)
{
    json_auto_t *found = copy(m, m->containers, container, "container", err);
    json_auto_t *host = found ? copy(m, m->hosts, destination, "host", err) : NULL;

    if (!host)
        return NULL;
    if (fm_streq(container, "immovable"))
        return json_pack("{s:b, s:[{s:s, s:b, s:s, s:s, s:s}]}", "ok", 0, "findings", "check",
                         "labels", "ok", 0, "severity", "error", "message",
                         "the container is labelled immovable", "cure",
                         "remove the label fleximigrate.immovable");
    return json_pack("{s:b, s:[{s:s, s:b, s:s, s:s, s:s}]}", "ok", 1, "findings", "check", "memory",
                     "ok", 1, "severity", "error", "message", "4.0 GiB free", "cure", "");
}

json_t *fm_manager_migration_list(struct fm_manager *m, struct fm_error *err)
{
    (void)err;
    return copy_all(m, m->migrations);
}

json_t *fm_manager_migration_show(struct fm_manager *m, const char *id, struct fm_error *err)
{
    return copy(m, m->migrations, id, "migration", err);
}

int fm_manager_migration_cancel(struct fm_manager *m, const char *id, struct fm_error *err)
{
    json_auto_t *doc = copy(m, m->migrations, id, "migration", err);

    if (!doc)
        return -FM_E_NOT_FOUND;
    if (json_is_true(json_object_get(doc, "final")))
        return fm_error_set(err, FM_E_REFUSED, "migration %s is over", id);
    set(m, m->migrations, id, "cancel", json_true(), NULL);
    pthread_cond_broadcast(&m->changed);
    return 0;
}

/* --- containers --- */

json_t *fm_manager_container_run(struct fm_manager *m, const json_t *request, struct fm_error *err)
{
    const char *name = json_string_value(json_object_get(request, "name"));
    bool there;

    if (fm_check_name("container", name ? name : "", err) < 0)
        return NULL;
    pthread_mutex_lock(&m->lock);
    there = json_object_get(m->containers, name) != NULL;
    if (!there) {
        add_container(m, name);
        json_object_set(json_object_get(m->containers, name), "request",
                        (json_t *)(uintptr_t)request);
    }
    pthread_mutex_unlock(&m->lock);
    if (there) {
        fm_error_set(err, FM_E_EXISTS, "container '%s' exists", name);
        return NULL;
    }
    return copy(m, m->containers, name, "container", err);
}

json_t *fm_manager_container_list(struct fm_manager *m, struct fm_error *err)
{
    (void)err;
    return copy_all(m, m->containers);
}

json_t *fm_manager_container_show(struct fm_manager *m, const char *name, struct fm_error *err)
{
    return copy(m, m->containers, name, "container", err);
}

char *fm_manager_container_log(struct fm_manager *m, const char *name, struct fm_error *err)
{
    json_auto_t *doc = copy(m, m->containers, name, "container", err);

    return doc ? fm_strf("%s/%s.log", m->run_dir, name) : NULL;
}

json_t *fm_manager_container_exec(struct fm_manager *m, const char *name, const json_t *request,
                                  struct fm_error *err)
{
    json_auto_t *doc = copy(m, m->containers, name, "container", err);
    const json_t *command = json_object_get(request, "command");
    fm_autofree char *out = NULL;
    const json_t *word;
    size_t i;

    if (!doc)
        return NULL;
    if (json_array_size(command) == 0) {
        fm_error_set(err, FM_E_INVALID, "'command' is needed");
        return NULL;
    }
    out = fm_xstrdup("");
    json_array_foreach(command, i, word)
    {
        fm_autofree char *before = FM_MOVE(out);

        out = fm_strf("%s%s\n", before, json_string_value(word));
    }
    return json_pack("{s:i, s:s, s:s}", "exit_code",
                     fm_streq(json_string_value(json_array_get(command, 0)), "false") ? 7 : 0,
                     "stdout", out, "stderr", "noise\n");
}

int fm_manager_container_stop(struct fm_manager *m, const char *name, uint64_t timeout_ms,
                              struct fm_error *err)
{
    set(m, m->containers, name, "timeout_ms", json_integer((json_int_t)timeout_ms), NULL);
    return set(m, m->containers, name, "state", json_string("stopped"), err);
}

int fm_manager_container_remove(struct fm_manager *m, const char *name, bool force,
                                struct fm_error *err)
{
    json_auto_t *doc = copy(m, m->containers, name, "container", err);
    fm_autofree char *path = fm_strf("%s/%s.log", m->run_dir, name);

    if (!doc)
        return -FM_E_NOT_FOUND;
    if (!force && fm_streq(json_string_value(json_object_get(doc, "state")), "running"))
        return fm_error_set(err, FM_E_REFUSED, "container '%s' runs; stop it first, or use --force",
                            name);
    unlink(path);
    return drop(m, m->containers, name, "container", err);
}

/* --- hosts --- */

json_t *fm_manager_host_list(struct fm_manager *m, struct fm_error *err)
{
    (void)err;
    return copy_all(m, m->hosts);
}

json_t *fm_manager_host_show(struct fm_manager *m, const char *name, struct fm_error *err)
{
    json_t *doc = copy(m, m->hosts, name, "host", err);

    if (doc)
        json_object_set_new(doc, "memory_bytes", json_integer(8LL << 30));
    return doc;
}

json_t *fm_manager_host_add(struct fm_manager *m, const json_t *request, struct fm_error *err)
{
    const char *name = json_string_value(json_object_get(request, "name"));

    if (fm_check_name("host", name ? name : "", err) < 0)
        return NULL;
    pthread_mutex_lock(&m->lock);
    add_host(m, name, "unknown", false);
    pthread_mutex_unlock(&m->lock);
    set(m, m->hosts, name, "warning", json_string("it does not answer"), NULL);
    return copy(m, m->hosts, name, "host", err);
}

int fm_manager_host_remove(struct fm_manager *m, const char *name, struct fm_error *err)
{
    return drop(m, m->hosts, name, "host", err);
}

int fm_manager_host_cordon(struct fm_manager *m, const char *name, bool cordoned,
                           struct fm_error *err)
{
    return set(m, m->hosts, name, "cordoned", json_boolean(cordoned), err);
}

/* --- networks --- */

json_t *fm_manager_network_list(struct fm_manager *m, struct fm_error *err)
{
    (void)err;
    return copy_all(m, m->networks);
}

json_t *fm_manager_network_show(struct fm_manager *m, const char *name, struct fm_error *err)
{
    return copy(m, m->networks, name, "network", err);
}

json_t *fm_manager_network_create(struct fm_manager *m, const json_t *request, struct fm_error *err)
{
    const char *name = json_string_value(json_object_get(request, "name"));
    bool exists;

    if (!name) {
        fm_error_set(err, FM_E_INVALID, "a network needs a name");
        return NULL;
    }
    pthread_mutex_lock(&m->lock);
    exists = json_object_get(m->networks, name) != NULL;
    if (!exists)
        json_object_set_new(m->networks, name, json_deep_copy(request));
    pthread_mutex_unlock(&m->lock);
    if (!exists)
        return json_deep_copy(request);
    fm_error_set(err, FM_E_EXISTS, "network '%s' exists already", name);
    return NULL;
}

int fm_manager_network_remove(struct fm_manager *m, const char *name, struct fm_error *err)
{
    if (fm_streq(name, "default"))
        return fm_error_set(err, FM_E_REFUSED, "the network 'default' cannot be removed");
    return drop(m, m->networks, name, "network", err);
}

/* Differs as long as there is a network called "broken". */
json_t *fm_manager_network_verify(struct fm_manager *m, struct fm_error *err)
{
    bool broken;

    (void)err;
    pthread_mutex_lock(&m->lock);
    broken = json_object_get(m->networks, "broken") != NULL;
    pthread_mutex_unlock(&m->lock);
    return broken
               ? json_pack("{s:b, s:[s], s:[s,s]}", "ok", 0, "differences",
                           "network 'broken' is not in the kernel", "checked", "registry", "kernel")
               : json_pack("{s:b, s:[], s:[s,s]}", "ok", 1, "differences", "checked", "registry",
                           "kernel");
}

json_t *fm_manager_network_repair(struct fm_manager *m, struct fm_error *err)
{
    (void)m;
    (void)err;
    return json_pack("{s:b, s:i, s:[]}", "ok", 1, "applied", 3, "problems");
}
