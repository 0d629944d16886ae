#include "migration/handover_tmpfs.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"

/* --- source --- */

int fm_handover_tmpfs_find(struct fm_migration *m, struct fm_error *err)
{
    int rc = fm_tmpfs_find(m->init_pid, m->container->config, &m->tmpfs, err);
    if (rc < 0)
        return fm_error_prefix(err, "cannot look at the mounts of '%s'", m->container->name);
    m->tmpfs_prints = fm_xcalloc(m->tmpfs.count + 1, sizeof(*m->tmpfs_prints));
    return 0;
}

void fm_handover_tmpfs_recall(struct fm_migration *m)
{
    json_auto_t *detail = NULL;
    struct fm_error err = {0};
    if (m->tmpfs.count > 0 || !fm_journal_has(m->parts->journal, m->id, FM_STEP_PREPARE, &detail))
        return;
    if (fm_tmpfs_from_json(json_object_get(detail, "tmpfs"), &m->tmpfs, &err) < 0)
        fm_warn(FM_MIGRATION_MANAGER, "Journal of %s: %s.", m->id, err.text);
}

int fm_handover_tmpfs_attach(struct fm_migration *m, struct fm_error *err)
{
    return fm_tmpfs_attach(m->init_pid, &m->tmpfs, m->dir, err);
}

/* Those of the mapped files that lie below a mount, relative to it. */
void fm_handover_mapped_below(const struct fm_strv *mapped, const char *target,
                              struct fm_strv *below)
{
    fm_autofree char *prefix = fm_strf("%s/", target + strspn(target, "/"));
    for (size_t i = 0; i < mapped->count; i++)
        if (fm_starts_with(mapped->items[i], prefix))
            fm_strv_add(below, mapped->items[i] + strlen(prefix));
}

bool fm_handover_is_unchanged(const char *path, const struct fm_strv *mapped,
                              struct fm_tree_print *print)
{
    struct fm_tree_print now;
    if (fm_tree_print_take(path, &now, NULL) < 0)
        now = (struct fm_tree_print){0};
    bool same = mapped->count == 0 && fm_tree_print_same(print, &now);
    *print = now;
    return same;
}

static int send_mount(struct fm_migration *m, size_t index,
                      const struct fm_tree_selection *selection, struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv mapped = {0};
    fm_autofree char *name = fm_strf("tmpfs:%zu", index);
    fm_autofree char *path = fm_tmpfs_path(m->dir, index);
    struct fm_tree_selection own = *selection;
    fm_handover_mapped_below(&m->mapped_files, m->tmpfs.items[index].target, &mapped);
    own.always = &mapped;
    own.name = name;
    bool unchanged = fm_handover_is_unchanged(path, &mapped, &m->tmpfs_prints[index]);
    if (unchanged)
        return 0;
    return m->parts->links.ops->send_tree(m->link, m->id, name, path, &own, &m->stats.file_bytes,
                                          err);
}

int fm_handover_tmpfs_send(struct fm_migration *m, uint64_t changed_after_us, bool last,
                           struct fm_error *err)
{
    struct fm_tree_selection selection = {
        .changed_after_us = changed_after_us, .last = last, .blocks = m->blocks};
    int rc = last ? fm_tmpfs_check(m->init_pid, &m->tmpfs, err) : 0;
    for (size_t i = 0; rc == 0 && i < m->tmpfs.count; i++) {
        rc = send_mount(m, i, &selection, err);
        if (rc < 0)
            fm_error_prefix(err, "mount %s", m->tmpfs.items[i].target);
    }
    return rc;
}

int fm_handover_remove_dir(const char *dir, struct fm_error *err)
{
    int rc = fm_tmpfs_detach(dir, err);
    return rc < 0 ? rc : fm_remove_tree(dir, err);
}

/* --- destination --- */

int fm_incoming_tmpfs_stage(struct fm_incoming *in, const json_t *list, struct fm_error *err)
{
    int rc = fm_tmpfs_from_json(list, &in->tmpfs, err);
    return rc < 0 ? rc : fm_tmpfs_make(&in->tmpfs, in->dir, err);
}

int fm_incoming_tmpfs_receive(struct fm_incoming *in, struct fm_connection *c, const char *index,
                              struct fm_error *err)
{
    int64_t i;
    if (fm_parse_int(index, 0, (int64_t)in->tmpfs.count - 1, &i, err) < 0)
        return fm_error_set(err, FM_E_PROTOCOL, "mount %s does not belong to the container", index);
    fm_autofree char *path = fm_tmpfs_path(in->dir, (size_t)i);
    return fm_tree_receive(c, path, in->max_bytes, NULL, err);
}
