#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"

#define JSON_FILE_MAX (64u << 20)
#define COPY_STEP (1u << 20)

ssize_t fm_read_full(int fd, void *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = read(fd, (char *)buf + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int fm_write_full(int fd, const void *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = write(fd, (const char *)buf + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

int fm_file_read(const char *path, size_t max, char **data, size_t *len, struct fm_error *err)
{
    fm_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    fm_autofree char *buf = NULL;
    size_t size = 0, used = 0;

    if (fd < 0)
        return fm_error_errno(err, errno, "cannot read '%s'", path);
    for (;;) {
        ssize_t n;

        /* Sizes that stat reports are wrong in /proc and /sys; one byte more than max shows excess.
         */
        if (used == size) {
            size = size ? size * 2 : 4096;
            if (size > max + 1)
                size = max + 1;
            buf = fm_xrealloc(buf, size + 1);
        }
        n = fm_read_full(fd, buf + used, size - used);
        if (n < 0)
            return fm_error_errno(err, (int)-n, "cannot read '%s'", path);
        used += (size_t)n;
        if (used > max)
            return fm_error_set(err, FM_E_INVALID, "'%s' is larger than %zu bytes", path, max);
        if (used < size)
            break;
    }
    buf[used] = '\0';
    *data = FM_MOVE(buf);
    if (len)
        *len = used;
    return 0;
}

char *fm_file_line(const char *path)
{
    fm_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    char line[4096];
    ssize_t n;

    if (fd < 0)
        return NULL;
    n = fm_read_full(fd, line, sizeof(line) - 1);
    if (n < 0)
        return NULL;
    line[n] = '\0';
    line[strcspn(line, "\n")] = '\0';
    return fm_xstrdup(line);
}

int fm_file_poke(const char *path, const char *text, struct fm_error *err)
{
    fm_autoclose int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    size_t len = strlen(text);
    ssize_t n;

    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open '%s'", path);
    do {
        n = write(fd, text, len);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return fm_error_errno(err, errno, "cannot write '%s' to '%s'", text, path);
    if ((size_t)n != len)
        return fm_error_set(err, FM_E_IO, "cannot write '%s' to '%s': it took %zd of %zu bytes",
                            text, path, n, len);
    return 0;
}

static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return fm_xstrdup(".");
    return slash == path ? fm_xstrdup("/") : fm_xstrndup(path, (size_t)(slash - path));
}

static int sync_directory(const char *path, struct fm_error *err)
{
    fm_autoclose int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd) < 0)
        return fm_error_errno(err, errno, "cannot sync the directory '%s'", path);
    return 0;
}

static int fill_file(int fd, const void *data, size_t len, mode_t mode)
{
    int ret = fm_write_full(fd, data, len);

    if (ret < 0)
        return ret;
    return fchmod(fd, mode) < 0 || fsync(fd) < 0 ? -errno : 0;
}

int fm_file_write(const char *path, const void *data, size_t len, mode_t mode, struct fm_error *err)
{
    fm_autofree char *dir = parent_of(path);
    const char *slash = strrchr(path, '/');
    /* Hidden, so that whoever lists the directory passes over it. */
    fm_autofree char *temporary = fm_strf("%s/.%s.XXXXXX", dir, slash ? slash + 1 : path);
    fm_autoclose int fd = mkostemp(temporary, O_CLOEXEC);
    int ret;

    if (fd < 0)
        return fm_error_errno(err, errno, "cannot write '%s'", path);
    ret = fill_file(fd, data, len, mode);
    if (ret == 0 && rename(temporary, path) < 0)
        ret = -errno;
    if (ret < 0) {
        unlink(temporary);
        return fm_error_errno(err, -ret, "cannot write '%s'", path);
    }
    return sync_directory(dir, err);
}

bool fm_file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

json_t *fm_json_load(const char *path, struct fm_error *err)
{
    fm_autofree char *data = NULL;
    json_error_t where;
    json_t *doc;
    size_t len;

    if (fm_file_read(path, JSON_FILE_MAX, &data, &len, err) < 0)
        return NULL;
    doc = json_loadb(data, len, JSON_REJECT_DUPLICATES, &where);
    if (!doc)
        fm_error_set(err, FM_E_INVALID, "%s:%d:%d: %s", path, where.line, where.column, where.text);
    return doc;
}

int fm_json_save(const char *path, const json_t *doc, struct fm_error *err)
{
    fm_autofree char *dump = json_dumps(doc, JSON_INDENT(2) | JSON_ENCODE_ANY);
    fm_autofree char *text = NULL;

    if (!dump)
        return fm_error_set(err, FM_E_INVALID, "cannot write '%s': not a JSON document", path);
    text = fm_strf("%s\n", dump);
    return fm_file_write(path, text, strlen(text), 0600, err);
}

/* Each way returns the bytes copied in one step, 0 at the end, negative errno when it cannot. */
static ssize_t step_reflink(int in_fd, int out_fd, char *buf)
{
    ssize_t n = copy_file_range(in_fd, NULL, out_fd, NULL, COPY_STEP * 64, 0);

    (void)buf;
    return n < 0 ? -errno : n;
}

static ssize_t step_sendfile(int in_fd, int out_fd, char *buf)
{
    ssize_t n = sendfile(out_fd, in_fd, NULL, COPY_STEP * 64);

    (void)buf;
    return n < 0 ? -errno : n;
}

static ssize_t step_buffer(int in_fd, int out_fd, char *buf)
{
    ssize_t n = fm_read_full(in_fd, buf, COPY_STEP);
    int ret = n > 0 ? fm_write_full(out_fd, buf, (size_t)n) : 0;

    return ret < 0 ? ret : n;
}

int fm_copy_fd(int in_fd, int out_fd, uint64_t *copied, struct fm_error *err)
{
    ssize_t (*const steps[])(int, int, char *) = {step_reflink, step_sendfile, step_buffer};
    fm_autofree char *buf = fm_xmalloc(COPY_STEP);
    uint64_t total = 0;
    ssize_t n = 0;

    /* A way that cannot go on, or reports an early end as in /proc, hands over to the next; the
     * file offsets carry the progress. */
    for (size_t i = 0; i < FM_COUNT(steps); i++) {
        while ((n = steps[i](in_fd, out_fd, buf)) > 0 || n == -EINTR)
            total += n > 0 ? (uint64_t)n : 0;
        if (n == -ENOSPC || n == -EIO || n == -EDQUOT || n == -EFBIG)
            break;
    }
    if (copied)
        *copied = total;
    return n < 0 ? fm_error_errno(err, (int)-n, "cannot copy") : 0;
}
