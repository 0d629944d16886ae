#include "migration/precopy.h"

#include <stdlib.h>
#include <sys/sysinfo.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/convergence.h"

#define CONNECT_TIMEOUT_MS 5000
/* As long as nothing is known of this host's freezes. */
#define FIXED_MS 30.0
/* QEMU's steps: a fifth at first, a tenth more each time. */
#define THROTTLE_FIRST 20u
#define THROTTLE_STEP 10u
#define THROTTLE_MAX 90u
/* Just before the freeze. */
#define SHORT_ROUNDS 4u
#define SHORT_ENOUGH (1u << 20)

static const struct fm_memory_ops *ops_of(const struct fm_migration *m)
{
    return m->parts->memory.ops;
}

struct fm_memory_plan fm_precopy_plan(const struct fm_migration *m)
{
    return (struct fm_memory_plan){
        .migration = m->id,
        .dir = m->dir,
        .destination = &m->destination,
        .track = m->strategy != FM_STRATEGY_POST_COPY,
        .streams = (unsigned)m->options.parallel,
        .pages = {.compression = m->options.compress,
                  .delta_cache_bytes = m->options.delta_cache_bytes,
                  .bytes_per_second = m->options.bandwidth_bytes,
                  .urgent_connection = true},
        .timeout_ms = CONNECT_TIMEOUT_MS,
    };
}

static int open_source(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    struct fm_memory_plan plan = fm_precopy_plan(m);
    struct fm_memory_source *source = NULL;
    int rc = fm_mkdir_p(m->dir, 0700, err);
    if (rc == 0)
        rc = fm_migration_step(m, FM_STEP_ROUNDS, NULL, err);
    if (rc == 0)
        rc = ops_of(m)->open(p->memory.ctx, &plan, &source, err);
    pthread_mutex_lock(&m->link_lock);
    m->memory = source;
    pthread_mutex_unlock(&m->link_lock);
    return rc;
}

void fm_precopy_unwatch(struct fm_migration *m)
{
    if (m->memory)
        ops_of(m)->unwatch(m->memory);
}

void fm_precopy_close(struct fm_migration *m)
{
    pthread_mutex_lock(&m->link_lock);
    struct fm_memory_source *source = FM_MOVE(m->memory);
    pthread_mutex_unlock(&m->link_lock);
    if (!source)
        return;
    ops_of(m)->stats(source, &m->stats.pages);
    m->stats.wire_bytes += m->stats.pages.wire_bytes;
    ops_of(m)->close(source);
}

/* --- rounds --- */

static int tick(void *arg, struct fm_error *err)
{
    struct fm_migration *m = arg;
    ops_of(m)->stats(m->memory, &m->stats.pages);
    fm_migration_memory_progress(m, "memory");
    return fm_migration_check_cancelled(m, err);
}

static int processes(struct fm_migration *m, pid_t **pids, size_t *count, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    return p->runtime.ops->processes(p->runtime.ctx, m->container->name, pids, count, err);
}

static int one_round(struct fm_migration *m, struct fm_memory_round *round, struct fm_error *err)
{
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    int rc = processes(m, &pids, &count, err);
    if (rc == 0)
        rc = ops_of(m)->round(m->memory, pids, count, tick, m, round, err);
    if (rc < 0)
        return rc;
    m->stats.rounds++;
    m->stats.memory_bytes = round->present_bytes;
    m->stats.dirty_bytes = round->dirty_bytes;
    ops_of(m)->stats(m->memory, &m->stats.pages);
    fm_debug(FM_STATE_SYNCHRONIZER, "Round %u: %llu KiB written of %llu KiB, %.1f ms on the way.",
             m->stats.rounds, (unsigned long long)(round->dirty_bytes >> 10),
             (unsigned long long)(round->present_bytes >> 10), (double)round->send_us / 1000);
    return fm_migration_check_cancelled(m, err);
}

static void publish(struct fm_migration *m, const struct fm_convergence *c)
{
    m->stats.dirty_rate = c->dirty_rate;
    m->stats.throughput = c->throughput;
    m->stats.expected_downtime_ms = c->expected_ms;
    fm_migration_memory_progress(m, "memory");
}

/* --- no convergence --- */

/* Processor time of the container while rounds went on. */
struct load {
    struct fm_cpu_limit before, used;
    uint64_t since_us;
};

static void begin_load(struct fm_migration *m, struct load *load)
{
    const struct fm_components *p = m->parts;
    struct fm_error none = {0}; /* said when it is to be cut */
    load->since_us = fm_now_us();
    if (m->options.auto_converge)
        p->runtime.ops->cpu_limit(p->runtime.ctx, m->container->name, &load->before, &none);
}

/* Of what it uses: a part of what the host has would not hurt one that uses little of it. */
static int throttle(struct fm_migration *m, struct load *load, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    unsigned percent =
        m->stats.throttle_percent ? m->stats.throttle_percent + THROTTLE_STEP : THROTTLE_FIRST;
    int rc = 0;
    if (!m->stats.throttle_percent) {
        rc = p->runtime.ops->cpu_limit(p->runtime.ctx, m->container->name, &m->cpu_limit, err);
        if (rc == 0)
            rc = fm_migration_step(m, FM_STEP_THROTTLE,
                                   json_pack("{s:I, s:I}", "quota_us",
                                             (json_int_t)m->cpu_limit.quota_us, "period_us",
                                             (json_int_t)m->cpu_limit.period_us),
                                   err);
        load->used = fm_cpu_limit_used(&load->before, &m->cpu_limit, fm_now_us() - load->since_us);
    }
    struct fm_cpu_limit cut = fm_cpu_limit_cut(&load->used, percent, (unsigned)get_nprocs());
    if (rc == 0)
        rc = p->runtime.ops->set_cpu_limit(p->runtime.ctx, m->container->name, &cut, err);
    if (rc < 0)
        return fm_error_prefix(err, "cannot throttle the container");
    m->stats.throttle_percent = percent;
    fm_info(FM_DECISION_ENGINE,
            "%s writes faster than its pages travel: %u %% less processor time.",
            m->container->name, percent);
    return 0;
}

int fm_precopy_unthrottle(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    json_auto_t *was = NULL;
    if (!m->container || !fm_journal_has(p->journal, m->id, FM_STEP_THROTTLE, &was))
        return 0;
    struct fm_cpu_limit limit = {
        .quota_us = json_integer_value(json_object_get(was, "quota_us")),
        .period_us = json_integer_value(json_object_get(was, "period_us")),
    };
    int rc = p->runtime.ops->set_cpu_limit(p->runtime.ctx, m->container->name, &limit, err);
    return rc < 0 ? rc : fm_journal_undone(p->journal, m->id, FM_STEP_THROTTLE, err);
}

static enum fm_on_no_convergence way_out(const struct fm_migration *m)
{
    if (m->strategy == FM_STRATEGY_HYBRID)
        return FM_ON_NO_CONVERGENCE_HYBRID;
    if (m->options.on_no_convergence != FM_ON_NO_CONVERGENCE_DEFAULT)
        return m->options.on_no_convergence;
    return m->options.strategy == FM_STRATEGY_AUTO ? FM_ON_NO_CONVERGENCE_HYBRID
                                                   : FM_ON_NO_CONVERGENCE_FREEZE;
}

static int give_in(struct fm_migration *m, const struct fm_convergence *c, struct fm_error *err)
{
    char rate[32], speed[32];
    fm_format_size((uint64_t)c->dirty_rate, rate, sizeof(rate));
    fm_format_size((uint64_t)c->throughput, speed, sizeof(speed));
    switch (way_out(m)) {
    case FM_ON_NO_CONVERGENCE_FAIL:
        return fm_error_set(err, FM_E_REFUSED,
                            "'%s' writes %s/s, its pages travel at %s/s: a freeze would take %.0f "
                            "ms; allow more (--max-downtime), or use --auto-converge or --strategy "
                            "hybrid",
                            m->container->name, rate, speed, c->expected_ms);
    case FM_ON_NO_CONVERGENCE_HYBRID:
        fm_info(FM_DECISION_ENGINE, "%s writes %s/s, its pages travel at %s/s: strategy hybrid.",
                m->container->name, rate, speed);
        m->strategy = FM_STRATEGY_HYBRID;
        m->leave_pages = true;
        return 0;
    default:
        fm_warn(FM_DECISION_ENGINE,
                "%s writes %s/s, its pages travel at %s/s: a freeze of %.0f ms.",
                m->container->name, rate, speed, c->expected_ms);
        return 0;
    }
}

/* --- the handover's steps --- */

static double fixed_ms(const struct fm_migration *m)
{
    double known = m->parts->freeze_fixed_ms;
    return known > 0 ? known : FIXED_MS;
}

static int converge(struct fm_migration *m, struct fm_error *err)
{
    struct fm_convergence c = {.max_downtime_ms = (double)m->options.max_downtime_ms,
                               .fixed_ms = fixed_ms(m),
                               .max_rounds = (unsigned)m->options.max_rounds};
    struct load load = {0};
    begin_load(m, &load);
    for (;;) {
        struct fm_memory_round round = {0};
        int rc = one_round(m, &round, err);
        if (rc < 0)
            return rc;
        enum fm_verdict verdict = fm_convergence_judge(&c, &round);
        publish(m, &c);
        if (verdict == FM_VERDICT_FREEZE)
            return 0;
        if (verdict == FM_VERDICT_SHORTEST)
            return way_out(m) == FM_ON_NO_CONVERGENCE_FAIL ? give_in(m, &c, err) : 0;
        if (verdict == FM_VERDICT_AGAIN)
            continue;
        if (!m->options.auto_converge || m->stats.throttle_percent >= THROTTLE_MAX ||
            c.rounds >= c.max_rounds)
            return give_in(m, &c, err);
        if ((rc = throttle(m, &load, err)) < 0)
            return rc;
        fm_convergence_retry(&c);
    }
}

int fm_precopy_rounds(struct fm_migration *m, struct fm_error *err)
{
    uint64_t since = fm_now_us();
    if (m->strategy == FM_STRATEGY_COLD)
        return 0;
    int rc = open_source(m, err);
    m->leave_pages = m->strategy == FM_STRATEGY_POST_COPY || m->strategy == FM_STRATEGY_HYBRID;
    if (rc == 0 && m->strategy != FM_STRATEGY_POST_COPY)
        rc = converge(m, err);
    m->stats.rounds_ms = (double)(fm_now_us() - since) / 1000.0;
    return rc;
}

/* What was written while runtime and CRIU got ready, then what was written while that travelled,
 * as long as each is much shorter than the one before: the freeze has to move the rest. */
static int short_rounds(struct fm_migration *m, struct fm_error *err)
{
    uint64_t before = UINT64_MAX;
    for (unsigned i = 0; i < SHORT_ROUNDS; i++) {
        struct fm_memory_round round = {0};
        int rc = one_round(m, &round, err);
        if (rc < 0 || round.dirty_bytes < SHORT_ENOUGH || round.dirty_bytes > before / 2)
            return rc;
        before = round.dirty_bytes;
    }
    return 0;
}

int fm_precopy_last_round(struct fm_migration *m, struct fm_error *err)
{
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    if (!m->memory)
        return 0;
    int rc = processes(m, &pids, &count, err);
    if (rc == 0) /* first: it walks all pages, and meanwhile some are written */
        rc = ops_of(m)->prepare_freeze(m->memory, pids, count, err);
    return rc < 0 || m->strategy == FM_STRATEGY_POST_COPY ? rc : short_rounds(m, err);
}

int fm_precopy_freeze(struct fm_migration *m, struct fm_error *err)
{
    struct fm_memory_round round = {0};
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    if (!m->memory)
        return 0;
    int rc = processes(m, &pids, &count, err);
    if (rc == 0)
        rc = ops_of(m)->freeze(m->memory, pids, count, m->leave_pages, &round, err);
    m->stats.scan_ms = (double)round.scan_us / 1000.0;
    m->stats.memory_bytes = round.present_bytes;
    m->stats.dirty_bytes = round.dirty_bytes;
    m->stats.last_bytes = m->leave_pages ? 0 : round.dirty_bytes;
    m->stats.missing_bytes = m->leave_pages ? round.dirty_bytes : 0;
    return rc;
}

int fm_precopy_finish(struct fm_migration *m, struct fm_error *err)
{
    struct fm_components *p = m->parts;
    const char *index = NULL;
    uint64_t size = 0, since = fm_now_us();
    if (!m->memory)
        return 0;
    int rc = ops_of(m)->finish(m->memory, m->options.execution_timeout_ms, &index, err);
    m->stats.pages_ms = (double)(fm_now_us() - since) / 1000.0;
    if (rc == 0)
        rc = p->links.ops->send_file(m->link, m->id, "memory", index, 0, &size, err);
    return rc;
}

int fm_precopy_serve(struct fm_migration *m, struct fm_error *err)
{
    return m->memory && m->leave_pages ? ops_of(m)->serve(m->memory, err) : 0;
}
