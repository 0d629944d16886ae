/* libFuzzer: checkpoint images from a hostile source: IMAGE frames, their data, and a manifest.
 *
 * Input: records of one byte of kind, 2 bytes of length, and the payload. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "state/image_file.h"
#include "state/restore.h"
#include "fake_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_BYTES 65536u

int fm_connection_recv(struct fm_connection *c, struct fm_frame *frame, struct fm_error *err)
{
    static const enum fm_frame_type kinds[] = {FM_FRAME_IMAGE, FM_FRAME_DATA, FM_FRAME_DATA_END,
                                               FM_FRAME_FROZEN, FM_FRAME_ERROR};

    if (fake_wire_take(c, 1) == 0)
        return fm_error_set(err, FM_E_CLOSED, "the input is at its end");
    unsigned kind = c->payload[0];
    size_t len = fake_wire_number(c);
    frame->type = kinds[kind % FM_COUNT(kinds)];
    if (frame->type == FM_FRAME_DATA) {
        fake_wire_data(c, len, frame);
    } else if (frame->type == FM_FRAME_DATA_END && len == 0) {
        fake_wire_end(c, frame);
    } else {
        frame->length = (uint32_t)fake_wire_take(c, len);
        frame->payload = c->payload;
        if (frame->type == FM_FRAME_IMAGE)
            fake_wire_restart(c);
    }
    return 0;
}

/* Every file has a valid name, is a regular file, and all together keep to the limit. */
static void check_files(const char *dir)
{
    uint64_t bytes = 0;
    struct dirent *e;
    struct stat st;

    fm_autoclosedir DIR *d = opendir(dir);
    while (d && (e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (!fm_image_name_valid(e->d_name) || fstatat(dirfd(d), e->d_name, &st, 0) < 0 ||
            !S_ISREG(st.st_mode))
            abort();
        bytes += (uint64_t)st.st_size;
        unlinkat(dirfd(d), e->d_name, 0);
    }
    if (!d || bytes > MAX_BYTES)
        abort();
}

static void receive(struct fm_connection *c, const char *dir, struct fm_error *err)
{
    struct fm_frame frame;

    struct fm_restore_receiver *r = fm_restore_receive_begin(dir, MAX_BYTES, err);
    for (;;) {
        if (fm_connection_recv(c, &frame, err) < 0)
            break;
        if (frame.type == FM_FRAME_IMAGE) {
            if (fm_restore_receive_image(r, c, &frame, err) < 0)
                break;
        } else if (frame.type == FM_FRAME_FROZEN) {
            uint64_t bytes = 0;
            json_auto_t *frozen = fm_frame_json(&frame, err);
            int rc = fm_restore_receive_finish(r, json_object_get(frozen, "manifest"), &bytes, err);
            if (rc == 0 && bytes > MAX_BYTES)
                abort();
            return;
        } else {
            break;
        }
    }
    fm_restore_receive_abort(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char dir[] = "/tmp/fm-fuzz-image-XXXXXX";
    static bool made;
    struct fm_error err = {0};
    struct fm_connection c;

    if (!made && !mkdtemp(dir))
        abort();
    made = true;
    fake_wire_open(&c, data, size);
    receive(&c, dir, &err);
    fake_wire_close(&c);
    check_files(dir);
    return 0;
}
