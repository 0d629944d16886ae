#include "migration/state_interface.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "criu/image_fix.h"
#include "criu/selftest.h"
#include "criu/session.h"

/* A runtime that does not even reach CRIU in this time never will. */
#define START_TIMEOUT_MS 20000
/* Letting go of the tasks takes CRIU milliseconds. */
#define RESUME_TIMEOUT_MS 5000
/* The runtime's bookkeeping after CRIU's end. */
#define RUNTIME_TIMEOUT_MS 10000
#define PROBE_TIMEOUT_MS 10000
/* An unlinked file of more than this is too much for the images. */
#define GHOST_LIMIT (512u << 20)

struct fm_dump {
    char *id;
    struct fm_session *session;
    struct fm_runtime_job job;
    bool waiting; /* CRIU stands in post-dump */
    bool ended;   /* the runtime's end was waited for */
    char *work_dir;
};

struct fm_restore {
    char *id;
    struct fm_session *session;
    struct fm_runtime_job job;
    bool resumed;
    bool hooks; /* of the runtime */
    bool warm;  /* CRIU has been given its request and is held before the images */
    char *dir;
    char *images;
    char *work_dir;
};

static const struct fm_session_request request_defaults = {
    .log_level = 1,
    .skip_network_lock = true,
    .ignore_cgroups = true,
    .ghost_limit = GHOST_LIMIT,
};

/* CRIU stands still at each event that is reported. All of them are only with armed fault points.
 */
static const enum fm_session_event_type dump_events[] = {
    FM_SESSION_PRE_DUMP, FM_SESSION_NETWORK_LOCK, FM_SESSION_POST_DUMP};
static const enum fm_session_event_type restore_events[] = {
    FM_SESSION_POST_RESTORE, FM_SESSION_PRE_RESUME, FM_SESSION_POST_RESUME};

static void choose_events(struct fm_session_request *change,
                          const enum fm_session_event_type *events, size_t count)
{
    if (getenv("FLEXIMIGRATE_FAULT"))
        return;
    change->events = events;
    change->event_count = count;
}

/* Hooks of the configuration, in whatever stage. */
static bool has_hooks(const char *bundle)
{
    fm_autofree char *path = fm_strf("%s/config.json", bundle);
    json_auto_t *config = fm_json_load(path, NULL);
    const char *stage;
    json_t *hooks;
    json_object_foreach(json_object_get(config, "hooks"), stage, hooks)
    {
        if (json_array_size(hooks) > 0)
            return true;
    }
    return !config;
}

/* The mounts that are ours to move: on the way out under their own names, on the way in from the
 * migration's directory. The list and its strings are freed by clear_mounts. */
static struct fm_session_mount *make_mounts(const struct fm_tmpfs_mounts *tmpfs, const char *dir,
                                            size_t *count)
{
    *count = tmpfs ? tmpfs->count : 0;
    struct fm_session_mount *mounts = fm_xcalloc(*count + 1, sizeof(*mounts));
    for (size_t i = 0; i < *count; i++) {
        mounts[i].target = tmpfs->items[i].target;
        mounts[i].source = dir ? fm_tmpfs_path(dir, i) : fm_xstrdup(tmpfs->items[i].target);
    }
    return mounts;
}

static void clear_mounts(struct fm_session_mount *mounts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free((char *)(uintptr_t)mounts[i].source);
    free(mounts);
}

/* When the session breaks, the runtime knows best why. */
static int explain(const struct fm_runtime *runtime, struct fm_runtime_job *job,
                   struct fm_error *err)
{
    if (!err || err->code != FM_E_CLOSED)
        return -(err ? (int)err->code : FM_E_FAILED);
    struct fm_error why = {0};
    if (runtime->ops->job_wait(runtime->ctx, job, 5000, &why) < 0)
        *err = why;
    return fm_error_result(err);
}

/* Each of CRIU's stages is a fault point, `criu.<event>`, passed while CRIU waits for the answer.
 */
static bool fault_at(const struct fm_session_event *event)
{
    fm_autofree char *point = fm_strf("criu.%s", fm_session_event_text(event->type));
    return fm_fault(point);
}

/* Next event that is not answered in passing; the ones in between just go on. */
static int await_event(struct fm_session *session, int ended_fd, uint64_t timeout_ms,
                       enum fm_session_event_type wanted, struct fm_error *err)
{
    for (;;) {
        struct fm_session_event event;
        int rc = fm_session_next(session, ended_fd, timeout_ms, &event, err);
        if (rc < 0)
            return rc;
        if (fault_at(&event))
            return fm_error_set(err, FM_E_FAILED, "injected fault");
        if (event.type == FM_SESSION_RESULT && event.success &&
            (wanted == FM_SESSION_RESULT || wanted == FM_SESSION_POST_RESUME))
            return 0;
        if (event.type == FM_SESSION_RESULT)
            return fm_error_set(err, FM_E_CLOSED, "CRIU failed: %s", event.message);
        if (event.type == wanted)
            return 0;
        if (fm_session_answer(session, true, NULL, err) < 0)
            return -FM_E_CLOSED;
    }
}

static int make_dirs(const char *dir, char **images, char **work, struct fm_error *err)
{
    *images = fm_strf("%s/images", dir);
    *work = fm_strf("%s/work", dir);
    int rc = fm_mkdir_p(*images, 0700, err);
    return rc < 0 ? rc : fm_mkdir_p(*work, 0700, err);
}

static void dump_free(struct fm_dump *dump)
{
    fm_session_close(dump->session);
    if (dump->job.pidfd > 0)
        close(dump->job.pidfd);
    free(dump->work_dir);
    free(dump->id);
    free(dump);
}

static int dump_start(void *ctx, const char *id, const char *dir, struct fm_dump **out,
                      struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    fm_autofree char *images = NULL;
    struct fm_dump *dump = fm_xcalloc(1, sizeof(*dump));
    dump->id = fm_xstrdup(id);
    dump->job.pidfd = -1;
    struct fm_session_event event;
    int rc = make_dirs(dir, &images, &dump->work_dir, err);
    if (rc == 0 && !(dump->session = fm_session_listen(dir, err)))
        rc = -FM_E_IO;
    struct fm_runtime_checkpoint checkpoint = {
        .id = id, .image_dir = images, .work_dir = dump->work_dir};
    if (rc == 0)
        rc = runtime->ops->checkpoint(runtime->ctx, &checkpoint, &dump->job, err);
    if (rc < 0) {
        dump_free(dump);
        return rc;
    }
    rc = fm_session_next(dump->session, dump->job.pidfd, START_TIMEOUT_MS, &event, err);
    if (rc < 0) {
        rc = explain(runtime, &dump->job, err);
        runtime->ops->job_kill(runtime->ctx, &dump->job);
        dump_free(dump);
        return rc;
    }
    *out = dump;
    return 0;
}

static int answer_dump(struct fm_dump *dump, const struct fm_dump_request *request,
                       struct fm_error *err)
{
    struct fm_session_request change = request_defaults;
    struct fm_session_mount *mounts = make_mounts(request->tmpfs, NULL, &change.mount_count);
    change.mounts = mounts;
    change.filter_dir = request->filter_dir;
    change.skip_in_flight = request->skip_in_flight;
    choose_events(&change, dump_events, FM_COUNT(dump_events));
    int rc = fm_session_answer(dump->session, true, &change, err);
    clear_mounts(mounts, change.mount_count);
    return rc;
}

static int await_dump(struct fm_dump *dump, const struct fm_dump_request *request,
                      enum fm_session_event_type wanted, struct fm_error *err)
{
    return await_event(dump->session, dump->job.pidfd, request->timeout_ms, wanted, err);
}

/* What is done while CRIU waits at an event; without it, it is told to end. What is closed for the
 * hook is not the session. */
static int run_hook(struct fm_dump *dump, fm_state_hook hook, void *arg, struct fm_error *err)
{
    int rc = hook ? hook(arg, err) : 0;
    if (rc < 0) {
        fm_session_answer(dump->session, false, NULL, NULL);
        return rc == -FM_E_CLOSED ? fm_error_recode(err, FM_E_UNREACHABLE) : rc;
    }
    return fm_session_answer(dump->session, true, NULL, err) < 0 ? -FM_E_CLOSED : 0;
}

/* CRIU cannot be stopped while it dumps without harm to the tasks: when something else fails
 * meanwhile, that counts at the end. */
static int dump_go(void *ctx, struct fm_dump *dump, const struct fm_dump_request *request,
                   struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    struct fm_error meanwhile = {0};
    int rc = answer_dump(dump, request, err);
    if (rc == 0)
        rc = await_dump(dump, request, FM_SESSION_PRE_DUMP, err);
    if (rc == 0)
        rc = run_hook(dump, request->freezing, request->arg, err);
    if (rc == 0)
        rc = await_dump(dump, request, FM_SESSION_NETWORK_LOCK, err);
    if (rc == 0)
        rc = run_hook(dump, request->frozen, request->arg, err);
    int sent = rc == 0 && request->dumping ? request->dumping(request->arg, &meanwhile) : 0;
    if (rc == 0)
        rc = await_dump(dump, request, FM_SESSION_POST_DUMP, err);
    if (rc < 0)
        return explain(runtime, &dump->job, err);
    dump->waiting = true;
    if (sent < 0 && err)
        *err = meanwhile;
    return sent;
}

/* Waits for the runtime's end; a runtime that hangs is killed with its CRIU. */
static int await_runtime(const struct fm_runtime *runtime, struct fm_dump *dump,
                         struct fm_error *err)
{
    int rc = runtime->ops->job_wait(runtime->ctx, &dump->job, RUNTIME_TIMEOUT_MS, err);
    if (rc == -FM_E_TIMEOUT)
        runtime->ops->job_kill(runtime->ctx, &dump->job);
    dump->ended = true;
    return rc;
}

/* CRIU in post-dump reports its failure as soon as it has let go of the tasks; the runtime's own
 * end takes a good deal longer and is left to dump_end. Before post-dump a closed session is a
 * refusal, whatever CRIU is doing. */
static int dump_resume(void *ctx, struct fm_dump *dump, struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    struct fm_session_event event;
    struct fm_error refused = {0};
    if (!dump->waiting) {
        fm_session_close(FM_MOVE(dump->session));
        await_runtime(runtime, dump, &refused);
        return 0;
    }
    dump->waiting = false;
    int rc = fm_session_answer(dump->session, false, NULL, err);
    while (rc == 0 &&
           (rc = fm_session_next(dump->session, dump->job.pidfd, RESUME_TIMEOUT_MS, &event, err)) ==
               0 &&
           event.type != FM_SESSION_RESULT)
        rc = fm_session_answer(dump->session, false, NULL, err);
    return rc == -FM_E_CLOSED ? 0 : rc;
}

/* Without a tracer they are not held by CRIU any more. */
static bool is_traced(pid_t pid)
{
    fm_autofree char *path = fm_strf("/proc/%d/status", (int)pid);
    fm_autofree char *status = NULL;
    if (fm_file_read(path, 65536, &status, NULL, NULL) < 0 || strstr(status, "\nState:\tZ"))
        return true; /* does not run */
    return !strstr(status, "\nTracerPid:\t0\n");
}

static int dump_stands(void *ctx, struct fm_dump *dump, struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    int rc = runtime->ops->processes(runtime->ctx, dump->id, &pids, &count, err);
    for (size_t i = 0; rc == 0 && i < count; i++)
        if (!is_traced(pids[i]))
            rc = fm_error_set(err, FM_E_FAILED,
                              "CRIU let go of process %d before it was frozen: the images are "
                              "out of date",
                              (int)pids[i]);
    return rc;
}

static int dump_end(void *ctx, struct fm_dump *dump, bool commit, struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    struct fm_error refused = {0};
    int rc = 0;
    if (dump->waiting && commit)
        fm_session_answer(dump->session, true, NULL, NULL);
    else if (dump->waiting)
        dump_resume(ctx, dump, &refused);
    if (!dump->ended)
        rc = await_runtime(runtime, dump, commit ? err : &refused);
    dump_free(dump);
    return commit ? rc : 0;
}

static void restore_free(struct fm_restore *restore)
{
    fm_session_close(restore->session);
    if (restore->job.pidfd > 0)
        close(restore->job.pidfd);
    free(restore->dir);
    free(restore->images);
    free(restore->work_dir);
    free(restore->id);
    free(restore);
}

static int restore_start(void *ctx, const struct fm_restore_plan *plan, struct fm_restore **out,
                         struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    struct fm_restore *restore = fm_xcalloc(1, sizeof(*restore));
    restore->id = fm_xstrdup(plan->id);
    restore->dir = fm_xstrdup(plan->dir);
    restore->hooks = has_hooks(plan->bundle);
    restore->job.pidfd = -1;
    int rc = make_dirs(plan->dir, &restore->images, &restore->work_dir, err);
    if (rc == 0 && !(restore->session = fm_session_listen(plan->dir, err)))
        rc = -FM_E_IO;
    struct fm_runtime_restore request = {.id = plan->id,
                                         .bundle = plan->bundle,
                                         .image_dir = restore->images,
                                         .work_dir = restore->work_dir,
                                         .log_path = plan->log_path,
                                         .exit_path = plan->exit_path};
    if (rc == 0)
        rc = runtime->ops->restore(runtime->ctx, &request, &restore->job, err);
    if (rc < 0) {
        restore_free(restore);
        return rc;
    }
    struct fm_session_event event;
    rc = fm_session_next(restore->session, restore->job.pidfd, START_TIMEOUT_MS, &event, err);
    if (rc < 0) {
        rc = explain(runtime, &restore->job, err);
        runtime->ops->job_kill(runtime->ctx, &restore->job);
        restore_free(restore);
        return rc;
    }
    *out = restore;
    return 0;
}

static int answer_restore(struct fm_restore *restore, const struct fm_restore_request *request,
                          bool hold, struct fm_error *err)
{
    struct fm_session_request change = request_defaults;
    struct fm_session_mount *mounts =
        make_mounts(request->tmpfs, restore->dir, &change.mount_count);
    change.mounts = mounts;
    change.root = request->root;
    change.lazy_pages = request->lazy_pages;
    change.tcp_close = request->tcp_close;
    change.hold = hold;
    change.runtime_hooks = restore->hooks;
    choose_events(&change, restore_events, FM_COUNT(restore_events));
    int rc = fm_session_answer(restore->session, true, &change, err);
    clear_mounts(mounts, change.mount_count);
    return rc;
}

static int restore_warm(void *ctx, struct fm_restore *restore,
                        const struct fm_restore_request *request, struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    int rc = answer_restore(restore, request, true, err);
    if (rc == 0)
        rc = await_event(restore->session, restore->job.pidfd, START_TIMEOUT_MS, FM_SESSION_HELD,
                         err);
    restore->warm = rc == 0;
    return rc < 0 ? explain(runtime, &restore->job, err) : 0;
}

static int restore_go(void *ctx, struct fm_restore *restore,
                      const struct fm_restore_request *request, struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    int rc = fm_image_fix_timers(restore->images, err);
    if (rc == 0 && request->lazy_pages)
        rc = fm_image_fix_pages(restore->images, err);
    if (rc == 0)
        rc = restore->warm ? fm_session_answer(restore->session, true, NULL, err)
                           : answer_restore(restore, request, false, err);
    if (rc == 0)
        rc = await_event(restore->session, restore->job.pidfd, request->timeout_ms,
                         FM_SESSION_POST_RESTORE, err);
    return rc < 0 ? explain(runtime, &restore->job, err) : 0;
}

static bool has_ended(const struct fm_runtime_job *job)
{
    struct pollfd status = {.fd = job->pidfd, .events = POLLIN};
    return poll(&status, 1, 0) > 0;
}

/* The tasks are complete and stand in their last system call: without CRIU, too, they run from
 * here. What is left is to learn when. */
static int let_run(const struct fm_runtime *runtime, struct fm_restore *restore,
                   struct fm_error *err)
{
    int rc = fm_session_answer(restore->session, true, NULL, err);
    if (rc == 0)
        rc = await_event(restore->session, -1, START_TIMEOUT_MS, FM_SESSION_POST_RESUME, err);
    if (rc == 0)
        fm_session_answer(restore->session, true, NULL, NULL);
    return rc == 0 || fm_runtime_has_processes(runtime, restore->id) ? 0 : rc;
}

static int restore_resume(void *ctx, struct fm_restore *restore, fm_state_hook resuming, void *arg,
                          struct fm_error *err)
{
    const struct fm_runtime *runtime = ctx;
    struct fm_error why = {0};
    /* The container will need its shim; the runtime is not needed any more. */
    int rc = has_ended(&restore->job)
                 ? fm_error_set(err, FM_E_CLOSED, "the runtime or the container's shim ended")
                 : fm_session_answer(restore->session, true, NULL, err);
    if (rc == 0)
        rc = await_event(restore->session, -1, START_TIMEOUT_MS, FM_SESSION_PRE_RESUME, err);
    if (rc < 0)
        return explain(runtime, &restore->job, err);
    if (runtime->ops->remember && runtime->ops->remember(runtime->ctx, restore->id, &why) < 0)
        fm_warn(FM_CONTAINER_MANAGER, "Restoring %s: %s.", restore->id, why.text);
    if ((rc = resuming(arg, err)) < 0) {
        /* Before CRIU is told: it would let them run. */
        runtime->ops->destroy_processes(runtime->ctx, restore->id, NULL);
        return rc;
    }
    rc = let_run(runtime, restore, err);
    if (rc < 0)
        return explain(runtime, &restore->job, err);
    /* The rest (the runtime's bookkeeping) is waited for in restore_end. */
    restore->resumed = true;
    return 0;
}

static void restore_end(void *ctx, struct fm_restore *restore)
{
    const struct fm_runtime *runtime = ctx;
    if (!restore)
        return;
    if (!restore->resumed) {
        fm_session_close(FM_MOVE(restore->session));
        runtime->ops->job_kill(runtime->ctx, &restore->job);
        runtime->ops->destroy_processes(runtime->ctx, restore->id, NULL);
    } else {
        runtime->ops->job_wait(runtime->ctx, &restore->job, 10000, NULL);
    }
    restore_free(restore);
}

static const struct fm_state_ops real_ops = {
    .dump_start = dump_start,
    .dump_go = dump_go,
    .dump_stands = dump_stands,
    .dump_resume = dump_resume,
    .dump_end = dump_end,
    .restore_start = restore_start,
    .restore_warm = restore_warm,
    .restore_go = restore_go,
    .restore_resume = restore_resume,
    .restore_end = restore_end,
};

int fm_skeleton_probe(const char *interposer_dir, struct fm_error *err)
{
    char dir[] = "/tmp/fleximigrate-probe.XXXXXX";
    fm_autofree char *interposer = fm_strf("%s/fleximigrate-criu", interposer_dir);
    if (!mkdtemp(dir))
        return fm_error_errno(err, errno, "cannot make a directory in /tmp");
    struct fm_subprocess_options options = {
        .argv = (const char *const[]){interposer, FM_SELFTEST_COMMAND, dir, NULL},
        .stdin_fd = -1,
        .timeout_ms = PROBE_TIMEOUT_MS,
    };
    int rc = fm_subprocess_check(&options, NULL, err);
    fm_remove_tree(dir, NULL);
    return rc;
}

void fm_state_interface_open(const struct fm_runtime *runtime, struct fm_state_interface *state)
{
    state->ops = &real_ops;
    state->ctx = (void *)(uintptr_t)runtime;
}
