/* The manager's threads: one for each migration, and those that look after all of them. */
#include "migration/manager_internal.h"

#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/text.h"
#include "migration/coordinator.h"
#include "migration/networks.h"

#define WATCH_INTERVAL_S 1

/* --- who runs --- */

/* The first of its container that is under way; NULL. */
static const struct running *find_busy(const struct fm_manager *m, const char *container)
{
    for (const struct running *r = m->running; r; r = r->next)
        if (fm_streq(r->migration->options.container, container))
            return r;
    return NULL;
}

void fm_manager_leave(struct fm_manager *m, struct running *r)
{
    pthread_mutex_lock(&m->lock);
    struct running **at = &m->running;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

/* In recovery an older migration of the same container is settled first. Newer ones stand before
 * it in the list. False: the daemon is being stopped. */
static bool await_turn(struct running *r)
{
    struct fm_manager *m = r->manager;
    pthread_mutex_lock(&m->lock);
    for (struct running *older = r->next; older && !m->closing;) {
        bool same = fm_streq(older->migration->options.container, r->migration->options.container);
        if (same)
            pthread_cond_wait(&m->changed, &m->lock);
        older = same ? r->next : older->next;
    }
    bool closing = m->closing;
    pthread_mutex_unlock(&m->lock);
    return !closing;
}

static void *run_migration(void *arg)
{
    struct running *r = arg;
    struct fm_error err = {0};
    switch (r->errand) {
    case ERRAND_RUN:
        fm_coordinator_run(r->migration, &err);
        break;
    case ERRAND_RECOVER:
        if (await_turn(r))
            fm_coordinator_recover(r->migration, &err);
        break;
    case ERRAND_RETRY:
        fm_coordinator_retry(r->migration);
        break;
    }
    fm_manager_leave(r->manager, r);
    fm_migration_free(r->migration);
    free(r);
    return NULL;
}

/* Another try of a follower is nobody's business: it is waited for. */
static bool must_wait(const struct fm_manager *m, const char *container, enum errand errand)
{
    const struct running *r = find_busy(m, container);
    return r && !m->closing && errand == ERRAND_RUN && r->errand == ERRAND_RETRY;
}

int fm_manager_enter(struct fm_manager *m, struct fm_migration *migration, enum errand errand,
                     struct running **out, struct fm_error *err)
{
    const char *container = migration->options.container;
    pthread_mutex_lock(&m->lock);
    while (must_wait(m, container, errand))
        pthread_cond_wait(&m->changed, &m->lock);
    bool closing = m->closing,
         refused = closing || (errand != ERRAND_RECOVER && find_busy(m, container));
    if (!refused) {
        struct running *r = fm_xcalloc(1, sizeof(*r));
        *r = (struct running){
            .manager = m, .migration = migration, .errand = errand, .next = m->running};
        *out = m->running = r;
    }
    pthread_mutex_unlock(&m->lock);
    if (!refused)
        return 0;
    return closing ? fm_error_set(err, FM_E_REFUSED, "the daemon is being stopped")
                   : fm_error_set(err, FM_E_EXISTS, "container '%s' is being migrated already",
                                  container);
}

int fm_manager_start(struct running *r, struct fm_error *err)
{
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, run_migration, r);
    if (rc == 0)
        return pthread_detach(thread);
    fm_manager_leave(r->manager, r);
    fm_migration_free(r->migration);
    free(r);
    return fm_error_errno(err, rc, "cannot start a thread");
}

bool fm_manager_is_busy(struct fm_manager *m, const char *name, struct fm_error *err)
{
    pthread_mutex_lock(&m->lock);
    const struct running *r = find_busy(m, name);
    bool busy = r && r->errand != ERRAND_RETRY;
    pthread_mutex_unlock(&m->lock);
    if (busy)
        fm_error_set(err, FM_E_REFUSED,
                     "container '%s' is being migrated: cancel the migration first", name);
    return busy;
}

/* --- who looks after them --- */

static void *serve_networks(void *arg)
{
    fm_networks_serve(arg);
    return NULL;
}

/* Followers that were not reached when their migration ended. */
static void retry_left(struct fm_manager *m)
{
    json_auto_t *ids = fm_journal_left(m->parts.journal, NULL, fm_realtime_us());
    size_t i;
    json_t *id;
    json_array_foreach(ids, i, id)
    {
        struct fm_migration *migration = fm_migration_load(&m->parts, json_string_value(id), NULL);
        struct running *r = NULL;
        if (!migration)
            continue;
        /* One of a container that is under way waits until that is over. */
        if (fm_incoming_is_coming(m->incoming, migration->options.container) ||
            fm_manager_enter(m, migration, ERRAND_RETRY, &r, NULL) < 0)
            fm_migration_free(migration);
        else
            fm_manager_start(r, NULL);
    }
}

/* Ends migrations whose time is up. */
static void expire(struct fm_manager *m)
{
    for (struct running *r = m->running; r; r = r->next)
        fm_migration_expire(r->migration);
}

static void *watch(void *arg)
{
    struct fm_manager *m = arg;
    pthread_mutex_lock(&m->lock);
    while (!m->closing) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += WATCH_INTERVAL_S;
        pthread_cond_timedwait(&m->changed, &m->lock, &until);
        expire(m);
        pthread_mutex_unlock(&m->lock);
        retry_left(m);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

void fm_manager_start_watching(struct fm_manager *m)
{
    m->watching = pthread_create(&m->watch, NULL, watch, m) == 0;
    m->is_networking = pthread_create(&m->networking, NULL, serve_networks, &m->parts) == 0;
}
