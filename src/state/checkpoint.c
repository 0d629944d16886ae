#include "state/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "state/image_file.h"

struct fm_checkpoint_sender {
    struct fm_connection *connection;
    char *dir;
    int dir_fd;
    int watch_fd; /* inotify */
    int stop_fd;  /* eventfd: wakes the thread */
    atomic_bool stop;
    pthread_t thread;
    struct fm_image_files files;
    uint8_t *buffer;      /* FM_STREAM_CHUNK */
    json_t *bundle;       /* small files that wait for company; NULL: none */
    uint8_t *bundle_data; /* FM_STREAM_CHUNK */
    size_t bundle_used;
    uint64_t early_bytes;
    struct fm_error error; /* of the thread */
};

static bool is_page_file(const char *name)
{
    return fm_starts_with(name, "pages-") && fm_ends_with(name, ".img");
}

static int stop_begin(struct fm_checkpoint_sender *s)
{
    uint64_t one = 1;

    atomic_store(&s->stop, true);
    return write(s->stop_fd, &one, sizeof(one)) == sizeof(one) ? 0 : -1;
}

/* --- one file
 * -------------------------------------------------------------------------------------- */

static int announce(struct fm_checkpoint_sender *s, struct fm_image_file *file,
                    struct fm_error *err)
{
    json_auto_t *image =
        json_pack("{s:s,s:I}", "name", file->name, "offset", (json_int_t)file->stream.bytes);

    file->announced = true;
    return fm_connection_send_json(s->connection, FM_FRAME_IMAGE, image, err);
}

/* Sends what lies between what has travelled and `end`; `early` gives way when it is told to stop.
 */
static int send_content(struct fm_checkpoint_sender *s, struct fm_image_file *file, int fd,
                        uint64_t end, bool early, struct fm_error *err)
{
    while (file->stream.bytes < end && !(early && atomic_load(&s->stop))) {
        uint64_t left = end - file->stream.bytes;
        size_t want = left < FM_STREAM_CHUNK ? (size_t)left : FM_STREAM_CHUNK;
        ssize_t n = pread(fd, s->buffer, want, (off_t)file->stream.bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fm_error_errno(err, errno, "cannot read %s/%s", s->dir, file->name);
        if (n == 0)
            return fm_error_set(err, FM_E_FAILED, "%s/%s shrank while it was sent", s->dir,
                                file->name);
        int r = fm_stream_send(&file->stream, s->buffer, (size_t)n, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int send_segment(struct fm_checkpoint_sender *s, struct fm_image_file *file, int fd,
                        uint64_t end, bool early, struct fm_error *err)
{
    int r = announce(s, file, err);

    if (r == 0)
        r = send_content(s, file, fd, end, early, err);
    return r < 0 ? r : fm_stream_send_end(&file->stream, err);
}

static int open_image(struct fm_checkpoint_sender *s, const char *name, uint64_t *size,
                      struct fm_error *err)
{
    struct stat st;

    fm_autoclose int fd = openat(s->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return fm_error_errno(err, errno, "cannot open %s/%s", s->dir, name);
    *size = (uint64_t)st.st_size;
    return FM_MOVE_FD(fd);
}

static struct fm_image_file *find_or_add(struct fm_checkpoint_sender *s, const char *name,
                                         struct fm_error *err)
{
    struct fm_image_file *file = fm_image_files_find(&s->files, name);

    if (file)
        return file;
    if (!fm_image_name_valid(name)) {
        fm_error_set(err, FM_E_FAILED, "unexpected file name in checkpoint %s", s->dir);
        return NULL;
    }
    if (s->files.count >= FM_IMAGE_FILES_MAX) {
        fm_error_set(err, FM_E_FAILED, "checkpoint %s has more than %u files", s->dir,
                     FM_IMAGE_FILES_MAX);
        return NULL;
    }
    return fm_image_files_add(&s->files, name, s->connection);
}

/* --- while the dump goes on
 * ------------------------------------------------------------------------ */

/* Whole chunks only: what is left over goes with the next, or at the end. */
static int send_grown(struct fm_checkpoint_sender *s, struct fm_image_file *file,
                      struct fm_error *err)
{
    uint64_t size;

    fm_autoclose int fd = open_image(s, file->name, &size, err);
    if (fd < 0)
        return -(int)FM_E_FAILED;
    if (size < file->stream.bytes + FM_STREAM_CHUNK)
        return 0;
    return send_segment(s, file, fd, size - size % FM_STREAM_CHUNK, true, err);
}

static int send_all_grown(struct fm_checkpoint_sender *s, struct fm_error *err)
{
    int r = 0;

    for (size_t i = 0; i < s->files.count && r == 0; i++)
        r = send_grown(s, s->files.items[i], err);
    return r;
}

static int add_page_files(struct fm_checkpoint_sender *s, struct fm_error *err)
{
    struct dirent *e;

    fm_autoclosedir DIR *d = opendir(s->dir);
    if (!d)
        return fm_error_errno(err, errno, "cannot read %s", s->dir);
    while ((e = readdir(d))) {
        if (is_page_file(e->d_name) && !find_or_add(s, e->d_name, err))
            return -(int)FM_E_FAILED;
    }
    return 0;
}

static int read_events(struct fm_checkpoint_sender *s, struct fm_error *err)
{
    char buffer[16384] __attribute__((aligned(__alignof__(struct inotify_event))));

    ssize_t n = read(s->watch_fd, buffer, sizeof(buffer));
    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : fm_error_errno(err, errno, "inotify");
    for (char *p = buffer; p < buffer + n;) {
        const struct inotify_event *e = (const struct inotify_event *)p;
        p += sizeof(*e) + e->len;
        if (e->mask & IN_Q_OVERFLOW)
            return add_page_files(s, err);
        if (e->len > 0 && is_page_file(e->name) && !find_or_add(s, e->name, err))
            return -(int)FM_E_FAILED;
    }
    return 0;
}

static void *send_early(void *arg)
{
    struct fm_checkpoint_sender *s = arg;
    struct pollfd fds[] = {{.fd = s->watch_fd, .events = POLLIN},
                           {.fd = s->stop_fd, .events = POLLIN}};

    int r = add_page_files(s, &s->error);
    while (r == 0 && !atomic_load(&s->stop)) {
        r = send_all_grown(s, &s->error);
        if (r < 0 || (poll(fds, FM_COUNT(fds), -1) < 0 && errno != EINTR))
            break;
        r = read_events(s, &s->error);
    }
    if (r < 0 && s->error.code == FM_E_OK)
        fm_error_set(&s->error, FM_E_FAILED, "cannot send checkpoint %s", s->dir);
    return NULL;
}

/* --- the interface
 * ----------------------------------------------------------------------------------- */

static void *close_watch(void *arg)
{
    close((int)(intptr_t)arg);
    return NULL;
}

/* The end of an inotify instance waits for a grace period of the kernel, 10 to 20 ms, and the
 * container stands still: aside. */
static void close_watch_aside(int fd)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, close_watch, (void *)(intptr_t)fd) != 0)
        close(fd);
    else
        pthread_detach(thread);
}

static void sender_free(struct fm_checkpoint_sender *s)
{
    fm_image_files_clear(&s->files);
    if (s->dir_fd >= 0)
        close(s->dir_fd);
    if (s->watch_fd >= 0)
        close_watch_aside(s->watch_fd);
    if (s->stop_fd >= 0)
        close(s->stop_fd);
    free(s->dir);
    free(s->buffer);
    json_decref(s->bundle);
    free(s->bundle_data);
    free(s);
}

static int sender_start(struct fm_checkpoint_sender *s, struct fm_error *err)
{
    s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        return fm_error_errno(err, errno, "cannot open checkpoint %s", s->dir);
    s->stop_fd = eventfd(0, EFD_CLOEXEC);
    s->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (s->stop_fd < 0 || s->watch_fd < 0 ||
        inotify_add_watch(s->watch_fd, s->dir, IN_CREATE | IN_MOVED_TO | IN_MODIFY) < 0)
        return fm_error_errno(
            err, errno, "cannot watch checkpoint %s (fs.inotify.max_user_instances?)", s->dir);
    s->buffer = fm_xmalloc(FM_STREAM_CHUNK);
    int e = pthread_create(&s->thread, NULL, send_early, s);
    return e != 0 ? fm_error_errno(err, e, "cannot start a thread") : 0;
}

struct fm_checkpoint_sender *fm_checkpoint_send_begin(struct fm_connection *c, const char *dir,
                                                      struct fm_error *err)
{
    struct fm_checkpoint_sender *s = fm_xcalloc(1, sizeof(*s));

    s->connection = c;
    s->dir = fm_xstrdup(dir);
    s->dir_fd = s->watch_fd = s->stop_fd = -1;
    if (sender_start(s, err) < 0) {
        sender_free(s);
        return NULL;
    }
    return s;
}

static int stop_thread(struct fm_checkpoint_sender *s, struct fm_error *err)
{
    if (stop_begin(s) < 0)
        return fm_error_errno(err, errno, "cannot wake the sender of %s", s->dir);
    pthread_join(s->thread, NULL);
    for (size_t i = 0; i < s->files.count; i++)
        s->early_bytes += s->files.items[i]->stream.bytes;
    if (s->error.code == FM_E_OK)
        return 0;
    if (err)
        *err = s->error;
    return -(int)s->error.code;
}

/* --- small files
 * ------------------------------------------------------------------------------------- */

static int send_bundle(struct fm_checkpoint_sender *s, struct fm_error *err)
{
    struct fm_stream stream;

    if (!s->bundle)
        return 0;
    json_auto_t *image = json_pack("{s:o}", "bundle", FM_MOVE(s->bundle));
    fm_stream_init(&stream, s->connection);
    int r = fm_connection_send_json(s->connection, FM_FRAME_IMAGE, image, err);
    if (r == 0)
        r = fm_stream_send(&stream, s->bundle_data, s->bundle_used, err);
    if (r == 0)
        r = fm_stream_send_end(&stream, err);
    fm_stream_clear(&stream);
    s->bundle_used = 0;
    return r;
}

static int add_to_bundle(struct fm_checkpoint_sender *s, struct fm_image_file *file, int fd,
                         size_t size, struct fm_error *err)
{
    if (size > FM_STREAM_CHUNK - s->bundle_used) {
        int r = send_bundle(s, err);
        if (r < 0)
            return r;
    }
    if (!s->bundle)
        s->bundle = json_array();
    if (!s->bundle_data)
        s->bundle_data = fm_xmalloc(FM_STREAM_CHUNK);

    uint8_t *data = s->bundle_data + s->bundle_used;
    ssize_t n = fm_read_full(fd, data, size);
    if (n < 0)
        return fm_error_errno(err, errno, "cannot read %s/%s", s->dir, file->name);
    if ((size_t)n < size)
        return fm_error_set(err, FM_E_FAILED, "%s/%s shrank while it was sent", s->dir, file->name);
    fm_stream_account(&file->stream, data, size);
    file->announced = true;
    s->bundle_used += size;
    json_array_append_new(s->bundle,
                          json_pack("{s:s,s:I}", "name", file->name, "bytes", (json_int_t)size));
    return 0;
}

/* --- what is left when the dump is complete
 * --------------------------------------------------------- */

static int send_rest_of(struct fm_checkpoint_sender *s, const char *name, struct fm_error *err)
{
    uint64_t size;

    struct fm_image_file *file = find_or_add(s, name, err);
    if (!file)
        return -(int)FM_E_FAILED;
    fm_autoclose int fd = open_image(s, name, &size, err);
    if (fd < 0)
        return -(int)FM_E_FAILED;
    if (size < file->stream.bytes)
        return fm_error_set(err, FM_E_FAILED, "%s/%s shrank while it was sent", s->dir, name);
    if (size == file->stream.bytes && file->announced)
        return 0;
    if (!file->announced && size <= FM_IMAGE_BUNDLED_MAX)
        return add_to_bundle(s, file, fd, (size_t)size, err);
    return send_segment(s, file, fd, size, false, err);
}

static int not_hidden(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static bool is_regular(const struct fm_checkpoint_sender *s, const struct dirent *e)
{
    struct stat st;

    if (e->d_type != DT_UNKNOWN)
        return e->d_type == DT_REG;
    return fstatat(s->dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

/* Page files first: they are the large ones, and the other end may already be writing them out. */
static int send_rest(struct fm_checkpoint_sender *s, struct fm_error *err)
{
    struct dirent **names = NULL;
    int r = 0;

    int count = scandir(s->dir, &names, not_hidden, alphasort);
    if (count < 0)
        return fm_error_errno(err, errno, "cannot read %s", s->dir);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < count && r == 0; i++) {
            if (is_page_file(names[i]->d_name) == (pass == 0) && is_regular(s, names[i]))
                r = send_rest_of(s, names[i]->d_name, err);
        }
    }
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
    return r < 0 ? r : send_bundle(s, err);
}

static json_t *make_manifest(const struct fm_checkpoint_sender *s,
                             struct fm_checkpoint_stats *stats)
{
    char hex[FM_STREAM_DIGEST_SIZE];

    json_t *manifest = json_array();
    *stats = (struct fm_checkpoint_stats){.early_bytes = s->early_bytes};
    for (size_t i = 0; i < s->files.count; i++) {
        const struct fm_image_file *file = s->files.items[i];
        fm_stream_digest(&file->stream, hex);
        json_array_append_new(manifest, json_pack("{s:s,s:I,s:s}", "name", file->name, "bytes",
                                                  (json_int_t)file->stream.bytes, "digest", hex));
        stats->bytes += file->stream.bytes;
        stats->files++;
    }
    return manifest;
}

json_t *fm_checkpoint_send_finish(struct fm_checkpoint_sender *s, struct fm_checkpoint_stats *stats,
                                  struct fm_error *err)
{
    struct fm_checkpoint_stats own;
    json_t *manifest = NULL;

    int r = stop_thread(s, err);
    if (r == 0)
        r = send_rest(s, err);
    if (r == 0)
        manifest = make_manifest(s, stats ? stats : &own);
    sender_free(s);
    return manifest;
}

void fm_checkpoint_send_abort(struct fm_checkpoint_sender *s)
{
    if (!s)
        return;
    stop_thread(s, NULL);
    sender_free(s);
}
