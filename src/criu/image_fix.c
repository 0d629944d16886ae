#include "criu/image_fix.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "criu/image.pb-c.h"

#define COMMON_MAGIC 0x54564319u
#define FILES_MAGIC 0x56303138u
#define HEAD_SIZE 8
#define MAX_IMAGE (64u << 20)

/* The image as it was read, and its corrected copy. */
struct image {
    const char *path;
    const uint8_t *data;
    size_t size;
    uint8_t *fixed; /* grows entry by entry */
    size_t fixed_size;
    bool changed;
};

static uint32_t number_at(const struct image *image, size_t at)
{
    uint32_t value;
    memcpy(&value, image->data + at, sizeof(value));
    return le32toh(value);
}

static bool has_time_left(const FmImage__Timerfd *timer)
{
    return timer->vsec > 0 || timer->vnsec > 0;
}

/* Disarmed timers may keep an interval too, but no ticks: setting a timer clears them. */
static bool has_stopped(const FmImage__Timerfd *timer)
{
    return !has_time_left(timer) && timer->ticks > 0 && (timer->isec > 0 || timer->insec > 0);
}

/* The time left is relative in any case; whole seconds of now are added to it for this flag. Only a
 * clock that is set tells an absolute timer from a relative one once it runs. */
static bool is_absolute_for_nothing(const FmImage__Timerfd *timer)
{
    bool clock_is_set = timer->clockid == CLOCK_REALTIME || timer->clockid == CLOCK_REALTIME_ALARM;
    return timer->settime_flags & TFD_TIMER_ABSTIME && !(clock_is_set && has_time_left(timer));
}

static bool correct(FmImage__Timerfd *timer)
{
    bool stopped = has_stopped(timer);
    if (stopped) {
        timer->vsec = timer->isec;
        timer->vnsec = timer->insec;
    }
    bool absolute = is_absolute_for_nothing(timer);
    if (absolute)
        timer->settime_flags &= ~(uint32_t)TFD_TIMER_ABSTIME;
    return stopped || absolute;
}

static void append(struct image *image, const void *data, size_t size)
{
    memcpy(image->fixed + image->fixed_size, data, size);
    image->fixed_size += size;
}

static void append_file(struct image *image, const FmImage__File *file)
{
    size_t size = fm_image__file__get_packed_size(file);
    uint32_t head = htole32((uint32_t)size);
    append(image, &head, sizeof(head));
    image->fixed_size += fm_image__file__pack(file, image->fixed + image->fixed_size);
}

static int fix_entry(struct image *image, size_t at, size_t size, struct fm_error *err)
{
    FmImage__File *file = fm_image__file__unpack(NULL, size, image->data + at);
    if (!file)
        return fm_error_set(err, FM_E_PROTOCOL, "%s: the entry at offset %zu cannot be parsed",
                            image->path, at);
    /* A corrected entry takes at most the bytes of its two numbers more. */
    const size_t room = size + sizeof(uint32_t) + 32;
    image->fixed = fm_xrealloc(image->fixed, image->fixed_size + room);
    if (file->timerfd && correct(file->timerfd)) {
        image->changed = true;
        append_file(image, file);
    } else {
        append(image, image->data + at - sizeof(uint32_t), size + sizeof(uint32_t));
    }
    fm_image__file__free_unpacked(file, NULL);
    return 0;
}

static int fix_entries(struct image *image, struct fm_error *err)
{
    if (image->size < HEAD_SIZE || number_at(image, 0) != COMMON_MAGIC ||
        number_at(image, sizeof(uint32_t)) != FILES_MAGIC)
        return fm_error_set(err, FM_E_PROTOCOL, "%s is not an image of open files", image->path);
    image->fixed = fm_xmalloc(HEAD_SIZE);
    append(image, image->data, HEAD_SIZE);
    size_t at = HEAD_SIZE;
    while (image->size - at >= sizeof(uint32_t)) {
        size_t size = number_at(image, at);
        at += sizeof(uint32_t);
        if (size > image->size - at)
            return fm_error_set(err, FM_E_PROTOCOL, "%s: the entry at offset %zu is cut off",
                                image->path, at);
        int rc = fix_entry(image, at, size, err);
        if (rc < 0)
            return rc;
        at += size;
    }
    return at == image->size ? 0
                             : fm_error_set(err, FM_E_PROTOCOL, "%s: %zu bytes too many at the end",
                                            image->path, image->size - at);
}

/* By rename, so that a restore never sees half of it. Not synced: this is within the freeze, and
 * images do not survive a power cut anyway. */
static int replace(const struct image *image, struct fm_error *err)
{
    fm_autofree char *temporary = fm_strf("%s.new", image->path);
    fm_autoclose int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int rc = fd < 0 ? -errno : fm_write_full(fd, image->fixed, image->fixed_size);
    if (rc == 0 && rename(temporary, image->path) < 0)
        rc = -errno;
    return rc < 0 ? fm_error_errno(err, -rc, "cannot correct %s", image->path) : 0;
}

int fm_image_fix_timers(const char *dir, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/files.img", dir);
    fm_autofree char *data = NULL;
    struct image image = {.path = path};
    if (!fm_file_exists(path))
        return 0;
    int rc = fm_file_read(path, MAX_IMAGE, &data, &image.size, err);
    if (rc < 0)
        return rc;
    image.data = (const uint8_t *)data;
    rc = fix_entries(&image, err);
    if (rc == 0 && image.changed)
        rc = replace(&image, err);
    free(image.fixed);
    return rc;
}
