#include "network/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "network/link.h"

#define LOOPBACK_INDEX 1 /* in every namespace */

struct job {
    const char *path;
    fm_netns_fn run;
    void *ctx;
    int rc;
    struct fm_error err;
};

/* A namespace belongs to a thread: a job that changes it gets a thread which then ends. */
static int on_own_thread(void *(*body)(void *), struct job *job, struct fm_error *err)
{
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, body, job);
    if (rc != 0)
        return fm_error_errno(err, rc, "cannot start a thread");
    pthread_join(thread, NULL);
    if (job->rc < 0 && err)
        *err = job->err;
    return job->rc;
}

static int bring_loopback_up(struct fm_error *err)
{
    struct fm_nl nl;
    int rc = fm_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    struct fm_nl_batch batch = {0};
    fm_link_put_up(&batch, LOOPBACK_INDEX);
    rc = fm_nl_run(&nl, &batch, err);
    fm_nl_close(&nl);
    return rc;
}

/* Addresses are unique by configuration and must be usable at once; nobody advertises routes here.
 * The directory is looked up once: that takes longer with every namespace there is. */
static void quiet_ipv6(void)
{
    static const char *const zeroes[] = {"accept_dad", "accept_ra", "router_solicitations"};
    fm_autoclose int defaults =
        open("/proc/sys/net/ipv6/conf/default", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; defaults >= 0 && i < FM_COUNT(zeroes); i++) {
        fm_autoclose int file = openat(defaults, zeroes[i], O_WRONLY | O_CLOEXEC);
        while (file >= 0 && write(file, "0", 1) < 0 && errno == EINTR)
            ;
    }
}

static int pin_new_namespace(const char *path, struct fm_error *err)
{
    if (unshare(CLONE_NEWNET) < 0)
        return fm_error_errno(err, errno, "cannot make a network namespace");
    int rc = bring_loopback_up(err);
    if (rc < 0)
        return rc;
    quiet_ipv6();
    if (mount("/proc/thread-self/ns/net", path, NULL, MS_BIND, NULL) < 0)
        return fm_error_errno(err, errno, "cannot mount the network namespace at %s", path);
    return 0;
}

static void *create_body(void *arg)
{
    struct job *job = arg;
    job->rc = pin_new_namespace(job->path, &job->err);
    return NULL;
}

static int make_parent(const char *path, struct fm_error *err)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return 0;
    fm_autofree char *parent = fm_xstrndup(path, (size_t)(slash - path));
    return fm_mkdir_p(parent, 0755, err);
}

bool fm_netns_exists(const char *path)
{
    struct statfs fs;
    return statfs(path, &fs) == 0 && fs.f_type == NSFS_MAGIC;
}

int fm_netns_create(const char *path, struct fm_error *err)
{
    if (fm_netns_exists(path))
        return 0;
    int rc = make_parent(path, err);
    if (rc < 0)
        return rc;
    fm_autoclose int file = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0444);
    if (file < 0)
        return fm_error_errno(err, errno, "cannot make %s", path);
    struct job job = {.path = path};
    rc = on_own_thread(create_body, &job, err);
    if (rc < 0)
        unlink(path);
    return rc;
}

int fm_netns_remove(const char *path, struct fm_error *err)
{
    while (fm_netns_exists(path)) /* a crash may have left it mounted twice */
        if (umount2(path, MNT_DETACH) < 0)
            return fm_error_errno(err, errno, "cannot unmount %s", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return fm_error_errno(err, errno, "cannot remove %s", path);
    return 0;
}

int fm_netns_identity(const char *path, struct stat *identity, struct fm_error *err)
{
    if (stat(path, identity) < 0)
        return fm_error_errno(err, errno, "cannot look at the network namespace %s", path);
    return 0;
}

static int enter_and_run(struct job *job)
{
    fm_autoclose int netns = open(job->path, O_RDONLY | O_CLOEXEC);
    if (netns < 0)
        return fm_error_errno(&job->err, errno, "cannot open the network namespace %s", job->path);
    if (setns(netns, CLONE_NEWNET) < 0)
        return fm_error_errno(&job->err, errno, "cannot enter the network namespace %s", job->path);
    return job->run(job->ctx, &job->err);
}

static void *run_body(void *arg)
{
    struct job *job = arg;
    job->rc = enter_and_run(job);
    return NULL;
}

int fm_netns_run(const char *path, fm_netns_fn run, void *ctx, struct fm_error *err)
{
    struct job job = {.path = path, .run = run, .ctx = ctx};
    return on_own_thread(run_body, &job, err);
}
