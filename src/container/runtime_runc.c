#include "container/runtime.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "container/cgroup.h"
#include "container/mounts.h"
#include "container/runc_cgroup.h"
#include "container/runc_job.h"
#include "container/runc_record.h"

#define COMMAND_MS 30000
#define RUN_MS 60000
#define FREEZE_MS 2000
#define CGROUP_GONE_MS 5000
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct runc {
    char *runc;
    char *root;
    char *shim;
    char *cgroup_parent;
    char *path_env;      /* PATH=… with the interposer first */
    bool cgroups_ignore; /* this runc knows --manage-cgroups-mode ignore */
};

/* ---- Command lines ---- */

static void add_command(const struct runc *r, struct fm_strv *argv, const char *log)
{
    fm_strv_add(argv, r->runc);
    fm_strv_addf(argv, "--root=%s", r->root);
    if (log)
        fm_strv_addf(argv, "--log=%s", log);
    fm_strv_add(argv, "--log-format=json");
}

static void add_env(const struct runc *r, const char *env[2])
{
    env[0] = r->path_env;
    env[1] = NULL;
}

static int say_failure(const char *verb, const char *id, int code, const char *stderr_text,
                       struct fm_error *err)
{
    fm_autofree char *why = fm_runc_log_error(stderr_text);
    enum fm_code kind =
        why && strstr(why, "container does not exist") ? FM_E_NOT_FOUND : FM_E_FAILED;

    if (!why)
        return fm_error_set(err, kind, "runc %s '%s' failed with exit code %d", verb, id, code);
    return fm_error_set(err, kind, "runc %s '%s': %s", verb, id, why);
}

/* Runs `runc VERB [FLAG] ID [LAST]` to its end; `out` may be NULL, else the caller frees it. */
static int command(const struct runc *r, const char *verb, const char *flag, const char *id,
                   const char *last, char **out, struct fm_error *err)
{
    fm_cleanup(fm_subprocess_result_clear) struct fm_subprocess_result result = {0};
    fm_cleanup(fm_strv_free) struct fm_strv argv = {0};
    const char *env[2];
    int ret;

    add_command(r, &argv, NULL);
    add_env(r, env);
    fm_strv_add(&argv, verb);
    if (flag)
        fm_strv_add(&argv, flag);
    if (id)
        fm_strv_add(&argv, id);
    if (last)
        fm_strv_add(&argv, last);
    struct fm_subprocess_options options = {
        .argv = (const char *const *)argv.items,
        .env = env,
        .stdin_fd = -1,
        .stdout_fd = -1,
        .stderr_fd = -1,
        .timeout_ms = COMMAND_MS,
    };
    ret = fm_subprocess_run(&options, &result, err);
    if (ret < 0)
        return ret;
    if (result.exit_code != 0)
        return say_failure(verb, id ? id : "", result.exit_code, result.err, err);
    if (out)
        *out = FM_MOVE(result.out);
    return 0;
}

/* ---- List and state ---- */

static json_t *public_entry(const json_t *entry)
{
    json_t *e = json_object();
    static const char *const keys[] = {"id", "pid", "status", "bundle", "created"};

    for (size_t i = 0; i < FM_COUNT(keys); i++) {
        json_t *value = json_object_get(entry, keys[i]);

        json_object_set(e, keys[i], value ? value : json_null());
    }
    return e;
}

static int runc_list(void *ctx, json_t **containers, struct fm_error *err)
{
    fm_autofree char *out = NULL;
    json_error_t where;
    int ret = command(ctx, "list", "--format=json", NULL, NULL, &out, err);
    size_t i;
    json_t *entry;

    if (ret < 0)
        return ret;
    json_auto_t *all = json_loads(out, JSON_DECODE_ANY, &where);
    if (!all)
        return fm_error_set(err, FM_E_FAILED, "runc list: its answer is not JSON: %s", where.text);
    *containers = json_array();
    json_array_foreach(all, i, entry) /* null when there are none */
        json_array_append_new(*containers, public_entry(entry));
    return 0;
}

static int runc_state(void *ctx, const char *id, struct fm_runtime_state *state,
                      struct fm_error *err)
{
    fm_autofree char *out = NULL;
    const char *status = NULL, *bundle = NULL, *rootfs = "";
    json_int_t pid = 0;
    const struct runc *r = ctx;
    struct fm_error why = {0};
    int ret = command(r, "state", NULL, id, NULL, &out, &why);

    if (ret == -FM_E_NOT_FOUND && fm_runc_record_put_back(r->root, id))
        ret = command(r, "state", NULL, id, NULL, &out, &why);
    if (ret < 0) {
        if (err)
            *err = why;
        return ret;
    }
    json_auto_t *doc = json_loads(out, 0, NULL);
    if (json_unpack(doc, "{s:s, s:I, s:s, s?s}", "status", &status, "pid", &pid, "bundle", &bundle,
                    "rootfs", &rootfs) < 0)
        return fm_error_set(err, FM_E_FAILED, "runc state '%s': its answer is not understood", id);
    *state = (struct fm_runtime_state){.init_pid = (pid_t)pid};
    snprintf(state->status, sizeof(state->status), "%s", status);
    snprintf(state->bundle, sizeof(state->bundle), "%s", bundle);
    snprintf(state->rootfs, sizeof(state->rootfs), "%s", rootfs);
    return 0;
}

/* ---- Processes ---- */

static int cgroup_of(const struct runc *r, const char *id, struct fm_cgroup *cg,
                     struct fm_error *err)
{
    return fm_runc_cgroup_find(r->root, r->cgroup_parent, id, cg, err);
}

/* As cgroup_of, but none is no error: then the list is empty. */
static int cgroup_if_any(const struct runc *r, const char *id, struct fm_cgroup *cg,
                         struct fm_error *err)
{
    struct fm_error why = {0};
    int ret = cgroup_of(r, id, cg, &why);

    if (ret == -FM_E_NOT_FOUND)
        return 0;
    if (ret < 0 && err)
        *err = why;
    return ret;
}

static int runc_freeze(void *ctx, const char *id, bool frozen, struct fm_error *err)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    int ret;

    if (fm_fault(frozen ? "runtime.freeze" : "runtime.thaw"))
        return fm_error_set(err, FM_E_FAILED, "cannot freeze '%s': injected fault", id);
    ret = cgroup_of(ctx, id, &cg, err);
    if (ret == 0)
        ret = fm_cgroup_freeze(&cg, frozen, FREEZE_MS, err);
    return ret < 0 ? fm_error_prefix(err, "cannot %s '%s'", frozen ? "freeze" : "thaw", id) : 0;
}

static int runc_cpu_limit(void *ctx, const char *id, struct fm_cpu_limit *limit,
                          struct fm_error *err)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    int ret = cgroup_of(ctx, id, &cg, err);

    return ret < 0 ? ret : fm_cpu_limit_read(&cg, limit, err);
}

static int runc_set_cpu_limit(void *ctx, const char *id, const struct fm_cpu_limit *limit,
                              struct fm_error *err)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    int ret = cgroup_of(ctx, id, &cg, err);

    return ret < 0 ? ret : fm_cpu_limit_write(&cg, limit, err);
}

static int runc_destroy_processes(void *ctx, const char *id, struct fm_error *err)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    int ret = cgroup_if_any(ctx, id, &cg, err);

    if (ret == 0 && cg.dirs.count > 0)
        ret = fm_cgroup_kill(&cg, err);
    return ret < 0 ? fm_error_prefix(err, "cannot kill the processes of '%s'", id) : 0;
}

static int runc_remember(void *ctx, const char *id, struct fm_error *err)
{
    const struct runc *r = ctx;

    return fm_runc_record_keep(r->root, id, err);
}

/* It is asked while a container stands still. When there are some at the usual place, nothing is to
 * be looked for elsewhere. */
static int runc_processes(void *ctx, const char *id, pid_t **pids, size_t *count,
                          struct fm_error *err)
{
    const struct runc *r = ctx;
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup usual = {0};
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    int ret = fm_runc_cgroup_usual(r->cgroup_parent, id, &usual, err);

    *pids = NULL;
    *count = 0;
    if (ret == 0 && usual.dirs.count > 0)
        ret = fm_cgroup_processes(&usual, pids, count, err);
    if (ret < 0 || *count > 0)
        return ret;
    ret = cgroup_of(ctx, id, &cg, err);
    return ret < 0 ? ret : fm_cgroup_processes(&cg, pids, count, err);
}

/* ---- Life ---- */

static char *sibling(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');

    return fm_strf("%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, name);
}

static int start_job(const struct runc *r, const struct fm_strv *argv, const char *log,
                     const char *container_log, const char *exit_path, struct fm_runtime_job *job,
                     struct fm_error *err)
{
    const char *env[2];
    struct fm_runc_job_spec spec = {
        .shim = r->shim,
        .argv = (const char *const *)argv->items,
        .env = env,
        .log = log,
        .container_log = container_log,
        .exit_path = exit_path,
    };

    add_env(r, env);
    if (strlen(log) >= sizeof(job->log))
        return fm_error_set(err, FM_E_INVALID, "path too long: '%s'", log);
    unlink(log); /* an older attempt's words would explain this one */
    if (exit_path) {
        fm_autofree char *pid_path = fm_strf("%s.pid", exit_path);

        unlink(exit_path);
        unlink(pid_path);
    }
    return fm_runc_job_start(&spec, job, err);
}

static int runc_remove(void *ctx, const char *id, struct fm_error *err);

static int runc_run(void *ctx, const struct fm_runtime_run *run, struct fm_error *err)
{
    const struct runc *r = ctx;
    fm_autofree char *log = sibling(run->log_path, "runc-run.log");
    fm_cleanup(fm_strv_free) struct fm_strv argv = {0};
    struct fm_runtime_job job;
    int ret;

    if (fm_fault("runtime.run"))
        return fm_error_set(err, FM_E_FAILED, "cannot run '%s': injected fault", run->id);
    add_command(r, &argv, log);
    fm_strv_add(&argv, "run");
    fm_strv_add(&argv, "--detach");
    fm_strv_addf(&argv, "--bundle=%s", run->bundle);
    fm_strv_addf(&argv, "--pid-file=%s.pid", run->exit_path);
    fm_strv_add(&argv, run->id);

    ret = start_job(r, &argv, log, run->log_path, run->exit_path, &job, err);
    if (ret < 0)
        return fm_error_prefix(err, "cannot run '%s'", run->id);
    ret = fm_runc_job_wait(&job, RUN_MS, err);
    if (ret == -FM_E_TIMEOUT) {
        fm_runc_job_kill(&job);
        fm_runc_job_wait(&job, RUN_MS, NULL);
        runc_remove(ctx, run->id, NULL);
    }
    return ret < 0 ? fm_error_prefix(err, "cannot run '%s'", run->id) : 0;
}

/* The runtime's own error log goes to memory: its stderr is the caller's command's. */
static char *read_memfd(int fd)
{
    char text[16384];
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return fm_runc_log_error(text);
}

static int runc_exec(void *ctx, const char *id, const char *const *argv, const int fds[3],
                     uint64_t timeout_ms, int *exit_code, struct fm_error *err)
{
    const struct runc *r = ctx;
    fm_autoclose int log = memfd_create("runc-exec", MFD_CLOEXEC);
    fm_cleanup(fm_strv_free) struct fm_strv full = {0};
    struct fm_subprocess_result result = {0};
    fm_autofree char *log_path = fm_strf("/proc/self/fd/%d", log);
    const char *env[2];
    int ret;

    if (log < 0)
        return fm_error_errno(err, errno, "cannot make a file in memory");
    add_command(r, &full, log_path);
    add_env(r, env);
    fm_strv_add(&full, "exec");
    fm_strv_add(&full, id);
    fm_strv_add_all(&full, argv);
    struct fm_subprocess_options options = {
        .argv = (const char *const *)full.items,
        .env = env,
        .stdin_fd = fds[0],
        .stdout_fd = fds[1],
        .stderr_fd = fds[2],
        .keep_fds = &log,
        .keep_fd_count = 1,
        .timeout_ms = timeout_ms,
    };
    ret = fm_subprocess_run(&options, &result, err);
    if (ret == 0)
        *exit_code = result.exit_code;
    fm_subprocess_result_clear(&result);
    if (ret < 0 || *exit_code == 0)
        return ret;

    fm_autofree char *why = read_memfd(log);
    if (!why)
        return 0;
    return fm_error_set(err, strstr(why, "does not exist") ? FM_E_NOT_FOUND : FM_E_FAILED,
                        "cannot run '%s' in '%s': %s", argv[0], id, why);
}

static int runc_kill(void *ctx, const char *id, int signal, struct fm_error *err)
{
    fm_autofree char *number = fm_strf("%d", signal);

    return command(ctx, "kill", NULL, id, number, NULL, err);
}

static int remove_cgroup(const struct runc *r, const char *id, struct fm_error *err)
{
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    int ret = cgroup_if_any(r, id, &cg, err);

    return ret < 0 || cg.dirs.count == 0 ? ret : fm_cgroup_remove(&cg, CGROUP_GONE_MS, err);
}

/* A killed restore leaves the container's root mounted in runc's directory, and runc would then
 * delete the files in it: unmount first. What runc cannot load (killed while it wrote its state)
 * goes by hand. */
static int forget(const struct runc *r, const char *id, struct fm_error *err)
{
    fm_autofree char *dir = fm_strf("%s/%s", r->root, id);
    struct fm_error ignored = {0};
    int ret = fm_unmount_below(dir, err);

    if (ret < 0 || !fm_file_exists(dir))
        return ret;
    if (command(r, "delete", "--force", id, NULL, NULL, &ignored) == 0 && !fm_file_exists(dir))
        return 0;
    return fm_remove_tree(dir, err);
}

static int runc_remove(void *ctx, const char *id, struct fm_error *err)
{
    const struct runc *r = ctx;
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    int ret;

    if (fm_fault("runtime.remove"))
        return fm_error_set(err, FM_E_FAILED, "cannot remove '%s': injected fault", id);
    ret = cgroup_if_any(r, id, &cg, err);
    if (ret < 0)
        return fm_error_prefix(err, "cannot remove '%s'", id);
    ret = runc_destroy_processes(ctx, id, err);
    if (ret == 0)
        ret = forget(r, id, err);
    if (ret == 0)
        ret = remove_cgroup(r, id, err);
    if (ret == 0 && cg.dirs.count > 0)
        ret = fm_cgroup_remove(&cg, CGROUP_GONE_MS, err);
    if (ret < 0)
        return fm_error_prefix(err, "cannot remove '%s'", id);
    fm_runc_record_forget(r->root, id);
    fm_runc_cgroup_forget(r->root, id);
    return 0;
}

/* ---- Checkpoint and restore ---- */

static void add_criu_options(const struct runc *r, struct fm_strv *argv, const char *image_dir,
                             const char *work_dir)
{
    fm_strv_addf(argv, "--image-path=%s", image_dir);
    fm_strv_addf(argv, "--work-path=%s", work_dir);
    fm_strv_add(argv, "--tcp-established");
    fm_strv_add(argv, "--file-locks");
    fm_strv_add(argv, "--ext-unix-sk");
    if (r->cgroups_ignore)
        fm_strv_add(argv, "--manage-cgroups-mode=ignore");
}

static int runc_checkpoint(void *ctx, const struct fm_runtime_checkpoint *checkpoint,
                           struct fm_runtime_job *job, struct fm_error *err)
{
    const struct runc *r = ctx;
    fm_autofree char *log = fm_strf("%s/runc-checkpoint.log", checkpoint->work_dir);
    fm_cleanup(fm_strv_free) struct fm_strv argv = {0};
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup cg = {0};
    int ret;

    if (fm_fault("runtime.checkpoint"))
        return fm_error_set(err, FM_E_FAILED, "cannot checkpoint '%s': injected fault",
                            checkpoint->id);
    /* Now, while the runtime knows it: afterwards it is needed to kill what is left. */
    ret = cgroup_of(r, checkpoint->id, &cg, err);
    if (ret < 0)
        return fm_error_prefix(err, "cannot checkpoint '%s'", checkpoint->id);
    add_command(r, &argv, log);
    fm_strv_add(&argv, "checkpoint");
    add_criu_options(r, &argv, checkpoint->image_dir, checkpoint->work_dir);
    fm_strv_add(&argv, checkpoint->id);
    ret = start_job(r, &argv, log, NULL, NULL, job, err);
    return ret < 0 ? fm_error_prefix(err, "cannot checkpoint '%s'", checkpoint->id) : 0;
}

static int runc_restore(void *ctx, const struct fm_runtime_restore *restore,
                        struct fm_runtime_job *job, struct fm_error *err)
{
    const struct runc *r = ctx;
    fm_autofree char *log = fm_strf("%s/runc-restore.log", restore->work_dir);
    fm_cleanup(fm_strv_free) struct fm_strv argv = {0};
    int ret;

    if (fm_fault("runtime.restore"))
        return fm_error_set(err, FM_E_FAILED, "cannot restore '%s': injected fault", restore->id);
    add_command(r, &argv, log);
    fm_strv_add(&argv, "restore");
    fm_strv_add(&argv, "--detach");
    fm_strv_addf(&argv, "--bundle=%s", restore->bundle);
    fm_strv_addf(&argv, "--pid-file=%s.pid", restore->exit_path);
    add_criu_options(r, &argv, restore->image_dir, restore->work_dir);
    fm_strv_add(&argv, restore->id);
    ret = start_job(r, &argv, log, restore->log_path, restore->exit_path, job, err);
    return ret < 0 ? fm_error_prefix(err, "cannot restore '%s'", restore->id) : 0;
}

static int runc_job_wait(void *ctx, struct fm_runtime_job *job, uint64_t timeout_ms,
                         struct fm_error *err)
{
    (void)ctx;
    return fm_runc_job_wait(job, timeout_ms, err);
}

static void runc_job_kill(void *ctx, struct fm_runtime_job *job)
{
    (void)ctx;
    fm_runc_job_kill(job);
}

/* ---- Open ---- */

static const struct fm_runtime_ops runc_ops = {
    .name = "runc",
    .list = runc_list,
    .state = runc_state,
    .run = runc_run,
    .exec = runc_exec,
    .kill = runc_kill,
    .remove = runc_remove,
    .checkpoint = runc_checkpoint,
    .restore = runc_restore,
    .job_wait = runc_job_wait,
    .job_kill = runc_job_kill,
    .freeze = runc_freeze,
    .cpu_limit = runc_cpu_limit,
    .set_cpu_limit = runc_set_cpu_limit,
    .destroy_processes = runc_destroy_processes,
    .remember = runc_remember,
    .processes = runc_processes,
};

static char *path_with(const char *dir)
{
    const char *path = getenv("PATH");

    if (!path || !*path)
        path = DEFAULT_PATH;
    return dir ? fm_strf("PATH=%s:%s", dir, path) : fm_strf("PATH=%s", path);
}

static void free_runc(struct runc *r)
{
    free(r->runc);
    free(r->root);
    free(r->shim);
    free(r->cgroup_parent);
    free(r->path_env);
    free(r);
}

/* runc learned "ignore" after 1.1; without it the interposer sets it in the request to CRIU. */
static int probe(struct runc *r, struct fm_error *err)
{
    fm_autofree char *help = NULL;
    int ret = command(r, "checkpoint", "--help", NULL, NULL, &help, err);

    r->cgroups_ignore = ret == 0 && strstr(help, "ignore");
    return ret < 0 ? fm_error_prefix(err, "the runtime does not work") : 0;
}

int fm_runtime_runc_open(const struct fm_runtime_config *config, struct fm_runtime *runtime,
                         struct fm_error *err)
{
    struct runc *r = fm_xcalloc(1, sizeof(*r));
    int ret;

    r->runc = fm_xstrdup(config->runc ? config->runc : "runc");
    r->root = fm_xstrdup(config->root ? config->root : "/run/runc");
    r->shim = fm_xstrdup(config->shim ? config->shim : FM_LIBEXECDIR "/fleximigrate-shim");
    r->cgroup_parent = fm_xstrdup(config->cgroup_parent ? config->cgroup_parent : "/fleximigrate");
    r->path_env = path_with(config->interposer_dir);
    ret = fm_mkdir_p(r->root, 0711, err);
    if (ret == 0)
        ret = probe(r, err);
    if (ret == 0 && access(r->shim, X_OK) < 0)
        ret = fm_error_errno(err, errno, "cannot run the shim '%s'", r->shim);
    if (ret < 0) {
        free_runc(r);
        return ret;
    }
    *runtime = (struct fm_runtime){.ops = &runc_ops, .ctx = r};
    return 0;
}

void fm_runtime_runc_close(struct fm_runtime *runtime)
{
    struct runc *r = runtime->ctx;
    fm_cleanup(fm_cgroup_clear) struct fm_cgroup parent = {0};

    if (!r)
        return;
    /* Only when no container is left; then rmdir succeeds. */
    if (strlen(r->cgroup_parent) > 1 && fm_cgroup_find(r->cgroup_parent, &parent, NULL) == 0) {
        for (size_t i = 0; i < parent.dirs.count; i++)
            rmdir(parent.dirs.items[i]);
    }
    free_runc(r);
    *runtime = (struct fm_runtime){0};
}
