/* What an incoming migration receives: layers, the writable layer, volumes, the log, checkpoint
 * images. */
#include "migration/incoming_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "migration/handover_tmpfs.h"
#include "state/tree_stream.h"

static bool is_wanted_layer(const struct fm_incoming *in, const char *digest)
{
    for (size_t i = 0; i < in->container->layers.count; i++)
        if (fm_streq(in->container->layers.items[i], digest))
            return true;
    return false;
}

static int receive_layer(struct fm_incoming *in, struct fm_connection *c, const char *digest,
                         struct fm_error *err)
{
    struct fm_components *p = in->parts;
    fm_autofree char *dir = NULL;
    if (!is_wanted_layer(in, digest))
        return fm_error_set(err, FM_E_PROTOCOL, "layer %s does not belong to the container",
                            digest);
    json_auto_t *detail = json_pack("{s:s}", "digest", digest);
    int rc = fm_journal_step(p->journal, in->id, FM_STEP_STAGE_LAYER, detail, err);
    if (rc == 0)
        rc = fm_image_layer_stage(p->images, digest, &dir, err);
    if (rc == 0)
        rc = fm_tree_receive(c, dir, in->max_bytes, NULL, err);
    return rc < 0 ? rc : fm_image_layer_commit(p->images, digest, dir, err);
}

static int receive_volume(struct fm_incoming *in, struct fm_connection *c, const char *index,
                          struct fm_error *err)
{
    int64_t i;
    if (fm_parse_int(index, 0, (int64_t)in->container->volume_count - 1, &i, err) < 0)
        return fm_error_set(err, FM_E_PROTOCOL, "volume %s does not belong to the container",
                            index);
    if (in->container->volumes[i].shared)
        return fm_error_set(err, FM_E_PROTOCOL, "volume %s is shared and is not copied", index);
    return fm_tree_receive(c, in->container->volumes[i].source, in->max_bytes, NULL, err);
}

/* The writable layer; a container without layers has all of its root file system in there. */
static int receive_upper(struct fm_incoming *in, struct fm_connection *c, struct fm_error *err)
{
    const char *dir = in->container->layers.count ? in->bundle.upper : in->bundle.rootfs;
    int rc = fm_mkdir_p(dir, 0755, err);
    in->root_changed = in->stage == FM_STAGE_ARMED && in->container->layers.count;
    return rc < 0 ? rc : fm_tree_receive(c, dir, in->max_bytes, NULL, err);
}

int fm_incoming_tree(struct fm_incoming *in, struct fm_connection *c, const char *name,
                     struct fm_error *err)
{
    if (in->stage > FM_STAGE_ARMED)
        return fm_error_set(err, FM_E_PROTOCOL, "files after READY");
    if (fm_starts_with(name, "layer:") && in->stage == FM_STAGE_PREPARING)
        return receive_layer(in, c, name + strlen("layer:"), err);
    if (fm_starts_with(name, "volume:"))
        return receive_volume(in, c, name + strlen("volume:"), err);
    if (fm_starts_with(name, "tmpfs:"))
        return fm_incoming_tmpfs_receive(in, c, name + strlen("tmpfs:"), err);
    if (fm_streq(name, "upper"))
        return receive_upper(in, c, err);
    return fm_error_set(err, FM_E_PROTOCOL, "unknown tree '%.64s'", name);
}

/* A file that grows: what comes is appended; *bytes is how much of it is here. */
static int receive_file(struct fm_incoming *in, struct fm_connection *c, const char *path,
                        uint64_t offset, uint64_t *bytes, struct fm_error *err)
{
    if (offset != *bytes)
        return fm_error_set(err, FM_E_PROTOCOL, "%s goes on at a wrong offset", path);
    fm_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0 || (offset == 0 && ftruncate(fd, 0) < 0))
        return fm_error_errno(err, errno, "cannot write %s", path);
    for (;;) {
        struct fm_frame frame;
        int rc = fm_connection_recv(c, &frame, err);
        if (rc < 0 || frame.type == FM_FRAME_DATA_END)
            return rc;
        if (frame.type != FM_FRAME_DATA || *bytes + frame.length > in->max_bytes)
            return fm_error_set(err, FM_E_PROTOCOL, "the stream of %s is broken", path);
        if (fm_write_full(fd, frame.payload, frame.length) < 0)
            return fm_error_errno(err, errno, "cannot write %s", path);
        *bytes += frame.length;
    }
}

static int receive_memory_index(struct fm_incoming *in, struct fm_connection *c,
                                struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/memory", in->dir);
    uint64_t bytes = 0;
    return receive_file(in, c, path, 0, &bytes, err);
}

int fm_incoming_image(struct fm_incoming *in, struct fm_connection *c, const struct fm_frame *frame,
                      struct fm_error *err)
{
    json_auto_t *body = fm_frame_json(frame, err);
    if (!body)
        return fm_error_result(err);
    const char *name = json_string_value(json_object_get(body, "name"));
    uint64_t offset = (uint64_t)json_integer_value(json_object_get(body, "offset"));
    if (in->stage > FM_STAGE_ARMED)
        return fm_error_set(err, FM_E_PROTOCOL, "images after READY");
    if (fm_streq(name, "log"))
        return receive_file(in, c, in->bundle.log, offset, &in->log_bytes, err);
    if (fm_streq(name, "memory") && in->lazy)
        return receive_memory_index(in, c, err);
    if (in->stage != FM_STAGE_ARMED || !in->receiver)
        return fm_error_set(err, FM_E_PROTOCOL, "images before ARM, or after FROZEN");
    return fm_restore_receive_image(in->receiver, c, frame, err);
}
