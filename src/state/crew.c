#include "state/crew.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/text.h"

struct member {
    struct fm_crew *crew;
    unsigned number;
    pthread_t thread;
};

struct fm_crew {
    struct member members[FM_CREW_MAX]; /* the first is whoever calls */
    unsigned size;

    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool stop;
    fm_crew_job job; /* NULL: nothing to do */
    void *ctx;
    size_t next, count;
    unsigned busy; /* members that have an index */
};

/* ---- with the lock held ---- */

static void work_off(struct fm_crew *c, unsigned number)
{
    while (c->job && c->next < c->count) {
        fm_crew_job job = c->job;
        void *ctx = c->ctx;
        size_t index = c->next++;

        c->busy++;
        pthread_mutex_unlock(&c->lock);
        job(ctx, index, number);
        pthread_mutex_lock(&c->lock);
        if (--c->busy == 0)
            pthread_cond_signal(&c->done);
    }
}

/* ---- threads ---- */

static void *help(void *arg)
{
    struct member *m = arg;
    struct fm_crew *c = m->crew;

    pthread_mutex_lock(&c->lock);
    while (!c->stop) {
        work_off(c, m->number);
        if (!c->stop)
            pthread_cond_wait(&c->work, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static unsigned processors(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

struct fm_crew *fm_crew_open(unsigned most)
{
    struct fm_crew *c = fm_xcalloc(1, sizeof(*c));
    unsigned wanted = processors();
    sigset_t all, before;

    wanted = wanted < most ? wanted : most;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_cond_init(&c->done, NULL);
    sigfillset(&all); /* signals are for the threads that know of them */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (c->size = 1; c->size < wanted && c->size < FM_CREW_MAX; c->size++) {
        struct member *m = &c->members[c->size];

        *m = (struct member){.crew = c, .number = c->size};
        if (pthread_create(&m->thread, NULL, help, m) != 0)
            break;
        pthread_setname_np(m->thread, "fm-crew");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return c;
}

void fm_crew_close(struct fm_crew *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
    while (c->size > 1)
        pthread_join(c->members[--c->size].thread, NULL);
    pthread_cond_destroy(&c->work);
    pthread_cond_destroy(&c->done);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

unsigned fm_crew_size(const struct fm_crew *c)
{
    return c->size;
}

void fm_crew_run(struct fm_crew *c, fm_crew_job job, void *ctx, size_t count)
{
    pthread_mutex_lock(&c->lock);
    c->job = job;
    c->ctx = ctx;
    c->next = 0;
    c->count = count;
    if (count > 1)
        pthread_cond_broadcast(&c->work);
    work_off(c, 0);
    while (c->busy > 0)
        pthread_cond_wait(&c->done, &c->lock);
    c->job = NULL;
    pthread_mutex_unlock(&c->lock);
}
