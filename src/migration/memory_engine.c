#include "migration/memory_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/state_interface.h"

/* Page stores may fill the memory that was reserved for them; the reservations are the limit, of
 * both mounts together. */
#define PAGES_MOUNT "mode=0700,size=95%"
/* Fresh memory arrives twice as fast in huge pages; a kernel without them refuses the option. */
#define PAGES_MOUNT_HUGE PAGES_MOUNT ",huge=within_size"
/* A page alone in a huge one has to wait until the rest of that is cleared. */
#define PAGES_MOUNT_SMALL PAGES_MOUNT ",huge=never"

static json_t *facts(void *ctx)
{
    const struct fm_memory_engine *e = ctx;
    return json_pack("{s:s, s:s, s:b, s:s, s:b, s:s}", "tracker", fm_tracker_text(e->tracker),
                     "tracker_reason", e->tracker_reason, "pager", (int)!*e->pager_reason,
                     "pager_reason", e->pager_reason, "skeleton", (int)!*e->skeleton_reason,
                     "skeleton_reason", e->skeleton_reason);
}

/* /run may be small, or on a disk. */
static int mount_pages(const char *dir, const char *options, struct fm_error *err)
{
    int rc = fm_mkdir_p(dir, 0700, err);
    if (rc < 0 || fm_is_mount_point(dir))
        return rc;
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount("fleximigrate-pages", dir, "tmpfs", flags, options) < 0 &&
        mount("fleximigrate-pages", dir, "tmpfs", flags, PAGES_MOUNT) < 0)
        return fm_error_errno(err, errno, "cannot mount a tmpfs for page stores at %s", dir);
    return 0;
}

static int mount_pages_dir(const char *dir, struct fm_error *err)
{
    fm_autofree char *scattered = fm_strf("%s/" FM_PAGES_SCATTERED, dir);
    struct fm_error e = {0};
    int rc = mount_pages(dir, PAGES_MOUNT_HUGE, err);
    if (rc == 0 && mount_pages(scattered, PAGES_MOUNT_SMALL, &e) < 0)
        fm_warn(FM_STATE_SYNCHRONIZER, "Post-copy is slow here: %s.", e.text);
    return rc;
}

static void note(char *reason, size_t size, int rc, const struct fm_error *why, const char *what)
{
    if (rc >= 0)
        return;
    snprintf(reason, size, "%s", why->text);
    fm_warn(FM_STATE_SYNCHRONIZER, "%s does not work here, strategy cold remains: %s.", what,
            why->text);
}

/* Each part that does not work has a reason, which host facts and reports show. */
static void probe(struct fm_memory_engine *e)
{
    struct fm_error pager = {0}, skeleton = {0};
    e->tracker = fm_tracker_best(e->tracker_reason, sizeof(e->tracker_reason));
    if (e->tracker == FM_TRACKER_NONE)
        fm_warn(FM_STATE_SYNCHRONIZER, "Written pages cannot be tracked here, no pre-copy: %s.",
                e->tracker_reason);
    int rc = fm_pager_probe(&pager);
    if (rc == 0)
        rc = mount_pages_dir(e->config.pages_dir, &pager);
    note(e->pager_reason, sizeof(e->pager_reason), rc, &pager, "The pager");
    note(e->skeleton_reason, sizeof(e->skeleton_reason),
         fm_skeleton_probe(e->config.interposer_dir, &skeleton), &skeleton, "A skeleton dump");
}

int fm_memory_open(const struct fm_memory_config *config, struct fm_memory *memory,
                   struct fm_error *err)
{
    (void)err;
    struct fm_memory_engine *e = fm_xcalloc(1, sizeof(*e));
    e->config = *config;
    e->ops.facts = facts;
    fm_memory_source_fill(&e->ops);
    fm_memory_sink_fill(&e->ops);
    probe(e);
    memory->ops = &e->ops;
    memory->ctx = e;
    return 0;
}

void fm_memory_close(struct fm_memory *memory)
{
    free(memory->ctx);
    *memory = (struct fm_memory){0};
}
