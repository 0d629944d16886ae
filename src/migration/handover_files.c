#include "migration/handover_files.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/handover_tmpfs.h"

/* So much travels in the freeze in some milliseconds: another pass would not help. */
#define SYNC_ENOUGH (4u << 20)
#define SYNC_PASSES_MAX 5u

/* The part of the root file system that this container wrote: the overlay's upper directory, or all
 * of a plain root. */
static char *writable_dir(struct fm_migration *m)
{
    struct fm_bundle bundle;
    fm_bundle_paths(&m->parts->bundles, m->container->name, &bundle);
    const json_t *root = json_object_get(m->container->config, "root");
    const char *path = json_string_value(json_object_get(root, "path"));
    return fm_xstrdup(!m->container->layers.count && path && *path == '/' ? path : bundle.upper);
}

/* Files that are mapped shared and writable may change without a trace in their times: they travel
 * in every pass. */
static void note_mapped_files(struct fm_migration *m)
{
    struct fm_components *p = m->parts;
    struct fm_error ignored = {0}; /* a process that has just ended has no maps */
    fm_autofree pid_t *pids = NULL;
    size_t count = 0;
    p->runtime.ops->processes(p->runtime.ctx, m->container->name, &pids, &count, &ignored);
    for (size_t i = 0; i < count; i++)
        fm_tree_mapped_files(pids[i], &m->mapped_files, &ignored);
}

static int send_volume(struct fm_migration *m, size_t index,
                       const struct fm_tree_selection *selection, struct fm_error *err)
{
    const struct fm_volume *volume = &m->container->volumes[index];
    fm_cleanup(fm_strv_free) struct fm_strv mapped = {0};
    fm_autofree char *name = fm_strf("volume:%zu", index);
    struct fm_tree_selection own = *selection;
    fm_handover_mapped_below(&m->mapped_files, volume->target, &mapped);
    own.always = &mapped;
    own.name = name;
    return m->parts->links.ops->send_tree(m->link, m->id, name, volume->source, &own,
                                          &m->stats.file_bytes, err);
}

int fm_handover_send_files(struct fm_migration *m, uint64_t changed_after_us, bool last,
                           struct fm_error *err)
{
    fm_autofree char *upper = writable_dir(m);
    note_mapped_files(m);
    uint64_t before = m->stats.file_bytes;
    struct fm_tree_selection selection = {.changed_after_us = changed_after_us,
                                          .always = &m->mapped_files,
                                          .last = last,
                                          .blocks = m->blocks,
                                          .name = "upper"};
    int rc = fm_handover_tmpfs_send(m, changed_after_us, last, err);
    bool unchanged = fm_handover_is_unchanged(upper, &m->mapped_files, &m->upper_print);
    if (rc == 0 && !unchanged)
        rc = m->parts->links.ops->send_tree(m->link, m->id, "upper", upper, &selection,
                                            &m->stats.file_bytes, err);
    for (size_t i = 0; rc == 0 && i < m->container->volume_count; i++)
        if (!m->container->volumes[i].shared)
            rc = send_volume(m, i, &selection, err);
    m->stats.file_passes++;
    if (last)
        m->stats.last_file_bytes = m->stats.file_bytes - before;
    return rc;
}

/* What changed since the pass before it began. */
static int sync_pass(struct fm_migration *m, uint64_t *moved, struct fm_error *err)
{
    uint64_t since = m->upper_since_us, before = m->stats.file_bytes;
    m->upper_since_us = fm_realtime_us();
    int rc = fm_handover_send_files(m, since, false, err);
    if (rc == 0)
        rc = fm_handover_send_log(m, err);
    *moved = m->stats.file_bytes - before;
    fm_debug(FM_STATE_SYNCHRONIZER, "File pass %u: %llu KiB.", m->stats.file_passes,
             (unsigned long long)(*moved >> 10));
    fm_migration_progress(m, "files", 100, m->stats.file_bytes);
    return rc < 0 ? rc : fm_migration_check_cancelled(m, err);
}

int fm_handover_sync_files(struct fm_migration *m, struct fm_error *err)
{
    uint64_t moved = UINT64_MAX;
    for (unsigned pass = 0; pass < SYNC_PASSES_MAX; pass++) {
        uint64_t before = moved;
        int rc = sync_pass(m, &moved, err);
        if (rc < 0 || moved <= SYNC_ENOUGH || moved >= before)
            return rc;
    }
    return 0;
}

int fm_handover_send_log(struct fm_migration *m, struct fm_error *err)
{
    struct fm_bundle bundle;
    fm_bundle_paths(&m->parts->bundles, m->container->name, &bundle);
    if (!fm_file_exists(bundle.log))
        return 0;
    return m->parts->links.ops->send_file(m->link, m->id, "log", bundle.log, m->log_sent,
                                          &m->log_sent, err);
}

uint64_t fm_handover_layer_bytes(struct fm_components *p, const struct fm_container *container,
                                 const json_t *missing)
{
    uint64_t total = 0;
    for (size_t i = 0; i < container->layers.count; i++) {
        const char *digest = container->layers.items[i];
        fm_autofree char *dir =
            fm_json_has(missing, digest) ? fm_image_layer_dir(p->images, digest, NULL) : NULL;
        uint64_t bytes = 0;
        if (dir && fm_tree_size(dir, &bytes, NULL) == 0)
            total += bytes;
    }
    return total;
}

int fm_handover_send_layers(struct fm_migration *m, const json_t *missing, struct fm_error *err)
{
    size_t i;
    json_t *item;
    json_array_foreach(missing, i, item)
    {
        const char *digest = json_string_value(item);
        fm_autofree char *dir = digest ? fm_image_layer_dir(m->parts->images, digest, err) : NULL;
        if (!dir)
            return fm_error_prefix(err, "the destination asked for a layer that is not here");
        fm_autofree char *name = fm_strf("layer:%s", digest);
        int rc = m->parts->links.ops->send_tree(
            m->link, m->id, name, dir, &(struct fm_tree_selection){0}, &m->stats.layer_bytes, err);
        if (rc < 0)
            return rc;
        fm_migration_progress(m, "layers", (int)((i + 1) * 100 / json_array_size(missing)),
                              m->stats.layer_bytes);
    }
    return 0;
}
