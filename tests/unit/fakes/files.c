/* Files: directories are real, in a scratch directory; what would lie in them is not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "fakes/world.h"
#include "fakes/wrapped.h"

int __wrap_fm_mkdir_p(const char *path, mode_t mode, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "mkdir"))
        return world_fail(&p, err);
    return world_leave(&p, __real_fm_mkdir_p(path, mode, err), err);
}

int __wrap_fm_remove_tree(const char *path, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "remove_tree"))
        return world_fail(&p, err);
    images_forget(world_host(), path);
    return world_leave(&p, __real_fm_remove_tree(path, err), err);
}

/* ---- bundles ---- */

int __wrap_fm_bundle_create(const struct fm_bundle_config *config, struct fm_container *container,
                            const struct fm_strv *lower, const char *netns, struct fm_error *err)
{
    struct fm_bundle b;
    struct passage p;

    (void)netns;
    (void)lower;
    if (!world_enter(&p, "bundle.create"))
        return world_fail(&p, err);
    fm_bundle_paths(config, container->name, &b);
    int rc = __real_fm_mkdir_p(b.rootfs, 0755, err);
    if (rc == 0)
        rc = __real_fm_mkdir_p(b.upper, 0755, err);
    if (rc == 0)
        world_host()->bundle_mounted = true;
    return world_leave(&p, rc, err);
}

int __wrap_fm_bundle_mount(const struct fm_bundle *bundle, const struct fm_strv *lower,
                           struct fm_error *err)
{
    struct passage p;

    (void)lower;
    if (!world_enter(&p, "bundle.mount"))
        return world_fail(&p, err);
    if (!fm_file_exists(bundle->rootfs))
        return world_leave(&p, fm_error_set(err, FM_E_NOT_FOUND, "no %s", bundle->rootfs), err);
    world_host()->bundle_mounted = true;
    return world_leave(&p, 0, err);
}

int __wrap_fm_bundle_unmount(const struct fm_bundle *bundle, struct fm_error *err)
{
    struct passage p;

    (void)bundle;
    if (!world_enter(&p, "bundle.unmount"))
        return world_fail(&p, err);
    world_host()->bundle_mounted = false;
    return world_leave(&p, 0, err);
}

int __wrap_fm_bundle_remove(const struct fm_bundle *bundle, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "bundle.remove"))
        return world_fail(&p, err);
    world_host()->bundle_mounted = false;
    return world_leave(&p, __real_fm_remove_tree(bundle->dir, err), err);
}

/* ---- layers ---- */

int __wrap_fm_image_import(struct fm_image_store *s, const char *path, const char *name,
                           struct fm_image *image, struct fm_error *err)
{
    struct passage p;

    (void)s;
    (void)name;
    if (!world_enter(&p, "image.import"))
        return world_fail(&p, err);
    int rc = world_leave(&p, 0, err);
    if (rc < 0)
        return rc;
    world_host()->has_layer = true;
    *image = (struct fm_image){.name = fm_xstrdup(path), .config = json_object()};
    fm_strv_add(&image->layers, WORLD_LAYER);
    return 0;
}

bool __wrap_fm_image_has_layer(struct fm_image_store *s, const char *digest)
{
    (void)s;
    (void)digest;
    return world_host()->has_layer;
}

char *__wrap_fm_image_layer_dir(struct fm_image_store *s, const char *digest, struct fm_error *err)
{
    (void)s;
    if (world_host()->has_layer)
        return fm_strf("%s/images/layers/1234", world_host()->state_dir);
    fm_error_set(err, FM_E_NOT_FOUND, "no layer %s", digest);
    return NULL;
}

int __wrap_fm_image_layer_stage(struct fm_image_store *s, const char *digest, char **dir,
                                struct fm_error *err)
{
    struct passage p;

    (void)s;
    (void)digest;
    if (!world_enter(&p, "layer.stage"))
        return world_fail(&p, err);
    int rc = world_leave(&p, 0, err);
    if (rc == 0)
        *dir = fm_strf("%s/images/staged", world_host()->state_dir);
    return rc;
}

int __wrap_fm_image_layer_commit(struct fm_image_store *s, const char *digest, const char *dir,
                                 struct fm_error *err)
{
    struct passage p;

    (void)s;
    (void)digest;
    (void)dir;
    if (!world_enter(&p, "layer.commit"))
        return world_fail(&p, err);
    world_host()->has_layer = true;
    return world_leave(&p, 0, err);
}

int __wrap_fm_image_store_prune(struct fm_image_store *s, const struct fm_strv *used,
                                struct fm_error *err)
{
    struct passage p;

    (void)s;
    if (!world_enter(&p, "layer.prune"))
        return world_fail(&p, err);
    if (!used->count)
        world_host()->has_layer = false;
    return world_leave(&p, 0, err);
}

/* ---- what arrives ---- */

struct fm_restore_receiver {
    char dir[256];
};

int __wrap_fm_tree_receive(struct fm_connection *c, const char *dir, uint64_t max_bytes,
                           struct fm_tree_stats *stats, struct fm_error *err)
{
    struct passage p;

    (void)c;
    (void)dir;
    (void)max_bytes;
    (void)stats;
    if (!world_enter(&p, "tree.receive"))
        return world_fail(&p, err);
    return world_leave(&p, 0, err);
}

struct fm_restore_receiver *__wrap_fm_restore_receive_begin(const char *dir, uint64_t max_bytes,
                                                            struct fm_error *err)
{
    struct passage p;

    (void)max_bytes;
    if (!world_enter(&p, "images.begin")) {
        world_fail(&p, err);
        return NULL;
    }
    if (world_leave(&p, 0, err) < 0)
        return NULL;
    struct fm_restore_receiver *r = fm_xcalloc(1, sizeof(*r));
    snprintf(r->dir, sizeof(r->dir), "%s", dir);
    return r;
}

int __wrap_fm_restore_receive_finish(struct fm_restore_receiver *r, const json_t *manifest,
                                     uint64_t *bytes, struct fm_error *err)
{
    fm_autofree struct fm_restore_receiver *mine = r;
    struct images *im = images_at(world_host(), mine->dir, false);
    struct passage p;

    *bytes = 0;
    if (!world_enter(&p, "images.verify"))
        return world_fail(&p, err);
    if (!im || !json_is_array(manifest))
        return world_leave(&p, fm_error_set(err, FM_E_CHECKSUM, "images do not match"), err);
    im->complete = true;
    return world_leave(&p, 0, err);
}

void __wrap_fm_restore_receive_abort(struct fm_restore_receiver *r)
{
    free(r);
}

/* ---- the machine ---- */

uint64_t __wrap_fm_facts_memory_available(void)
{
    return world.memory_available ? world.memory_available : UINT64_C(1) << 40;
}

json_t *fake_facts(void *ctx, struct fm_error *err)
{
    struct passage p;

    (void)ctx;
    if (!world_enter(&p, "facts") || world_leave(&p, 0, err) < 0) {
        world_fail(&p, err);
        return NULL;
    }
    json_t *facts =
        json_pack("{s:s, s:s, s:{s:s, s:s}, s:{s:s, s:s}, s:s, s:b, s:I, s:I}", "arch", "x86_64",
                  "kernel", "6.1.0", "criu", "version", "4.1", "check", "ok", "runtime", "name",
                  "runc", "version", "1.1.5", "cgroup", "v2", "time_ns", 1, "memory_available",
                  (json_int_t)fm_facts_memory_available(), "disk_free", (json_int_t)1 << 40);
    if (world.strategy)
        json_object_set_new(facts, "state_engine", fake_memory_ops.facts(NULL));
    return facts;
}

json_t *__wrap_fm_facts_container(const struct fm_container *container, const pid_t *pids,
                                  size_t count, struct fm_error *err)
{
    struct passage p;

    (void)container;
    (void)pids;
    (void)count;
    if (!world_enter(&p, "facts.container") || world_leave(&p, 0, err) < 0) {
        world_fail(&p, err);
        return NULL;
    }
    return json_pack("{s:i, s:i}", "memory_bytes", 4096, "disk_bytes", 4096);
}

int __wrap_fm_leftover_end(const char *dir, uint64_t grace_ms, struct fm_error *err)
{
    struct passage p;

    (void)grace_ms;
    if (!world_enter(&p, "leftover.end"))
        return world_fail(&p, err);
    jobs_end(world_host(), dir);
    return world_leave(&p, 0, err);
}
