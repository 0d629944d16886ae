#include "container/runc_cgroup.h"

#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/file.h"

#define STATE_MAX (4u << 20)

/* What runc recorded while it knows the container: cgroup_paths, hierarchy → directory. */
static json_t *known_cgroup(const char *root, const char *id)
{
    fm_autofree char *path = fm_strf("%s/%s/state.json", root, id);
    fm_autofree char *text = NULL;

    if (fm_file_read(path, STATE_MAX, &text, NULL, NULL) < 0)
        return NULL;
    json_auto_t *doc = json_loads(text, 0, NULL);
    return json_incref(json_object_get(doc, "cgroup_paths"));
}

static bool has_dir(const struct fm_cgroup *cg, const char *dir)
{
    for (size_t i = 0; i < cg->dirs.count; i++) {
        if (fm_streq(cg->dirs.items[i], dir))
            return true;
    }
    return false;
}

/* True when one was not known yet. */
static bool add_known_dirs(const json_t *paths, struct fm_cgroup *cg)
{
    bool added = false;
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)paths, key, value)
    {
        const char *dir = json_string_value(value);

        /* Never a whole hierarchy. */
        if (!dir || dir[0] != '/' || strstr(dir, "/..") || has_dir(cg, dir) ||
            !fm_file_exists(dir) || fm_is_mount_point(dir))
            continue;
        fm_strv_add(&cg->dirs, dir);
        added = true;
    }
    return added;
}

/* A found container's cgroup stands elsewhere, and runc forgets it when a checkpoint ends: kept
 * beside runc's own state (a file there is no container to it), and gone with it when the machine
 * restarts. */
static char *note_path(const char *root, const char *id)
{
    return fm_strf("%s/.%s.fleximigrate-cgroup", root, id);
}

int fm_runc_cgroup_usual(const char *cgroup_parent, const char *id, struct fm_cgroup *cg,
                         struct fm_error *err)
{
    fm_autofree char *usual = fm_strf("%s/%s", cgroup_parent, id);
    int ret = fm_check_name("container", id, err);

    return ret < 0 ? ret : fm_cgroup_find(usual, cg, err);
}

int fm_runc_cgroup_find(const char *root, const char *cgroup_parent, const char *id,
                        struct fm_cgroup *cg, struct fm_error *err)
{
    fm_autofree char *note = note_path(root, id);
    int ret = fm_runc_cgroup_usual(cgroup_parent, id, cg, err);

    if (ret < 0)
        return ret;
    json_auto_t *paths = known_cgroup(root, id);
    json_auto_t *noted = paths ? NULL : fm_json_load(note, NULL);
    if (add_known_dirs(paths, cg) && !fm_file_exists(note))
        ret = fm_json_save(note, paths, err);
    add_known_dirs(noted, cg);
    if (ret < 0)
        return ret;
    if (cg->dirs.count == 0)
        return fm_error_set(err, FM_E_NOT_FOUND, "container '%s' has no cgroup", id);
    return 0;
}

void fm_runc_cgroup_forget(const char *root, const char *id)
{
    fm_autofree char *note = note_path(root, id);

    unlink(note);
}
