#include "criu/image_fix.h"

#include <dirent.h>
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
#define PAGEMAP_MAGIC 0x56084025u
#define PAGE_IS_LAZY 2u
#define PAGE_IS_PRESENT 4u
#define HEAD_SIZE 8
#define MAX_IMAGE (64u << 20)
#define ENTRY_ROOM (sizeof(uint32_t) + 32)

struct image;

/* A kind of image, and how one of its entries is appended to the corrected copy. */
struct kind {
    uint32_t magic;
    const char *text;
    int (*fix)(struct image *image, size_t at, size_t size, struct fm_error *err);
};

/* The image as it was read, and its corrected copy. */
struct image {
    const char *path;
    const struct kind *kind;
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

static void append_message(struct image *image, const ProtobufCMessage *message)
{
    uint32_t head = htole32((uint32_t)protobuf_c_message_get_packed_size(message));
    append(image, &head, sizeof(head));
    image->fixed_size += protobuf_c_message_pack(message, image->fixed + image->fixed_size);
    image->changed = true;
}

static void append_as_it_is(struct image *image, size_t at, size_t size)
{
    append(image, image->data + at - sizeof(uint32_t), size + sizeof(uint32_t));
}

static int unparsed(const struct image *image, size_t at, struct fm_error *err)
{
    return fm_error_set(err, FM_E_PROTOCOL, "%s: the entry at offset %zu cannot be parsed",
                        image->path, at);
}

static int fix_file(struct image *image, size_t at, size_t size, struct fm_error *err)
{
    FmImage__File *file = fm_image__file__unpack(NULL, size, image->data + at);
    if (!file)
        return unparsed(image, at, err);
    if (file->timerfd && correct(file->timerfd))
        append_message(image, &file->base);
    else
        append_as_it_is(image, at, size);
    fm_image__file__free_unpacked(file, NULL);
    return 0;
}

/* The image's head has no flags. */
static int fix_pages(struct image *image, size_t at, size_t size, struct fm_error *err)
{
    FmImage__Pages *pages = fm_image__pages__unpack(NULL, size, image->data + at);
    if (!pages)
        return unparsed(image, at, err);
    const uint32_t both = PAGE_IS_LAZY | PAGE_IS_PRESENT;
    if (pages->has_flags && (pages->flags & both) == both) {
        pages->flags &= ~PAGE_IS_LAZY;
        append_message(image, &pages->base);
    } else {
        append_as_it_is(image, at, size);
    }
    fm_image__pages__free_unpacked(pages, NULL);
    return 0;
}

static const struct kind files_kind = {FILES_MAGIC, "open files", fix_file};
static const struct kind pagemap_kind = {PAGEMAP_MAGIC, "pages", fix_pages};

static int fix_entries(struct image *image, struct fm_error *err)
{
    if (image->size < HEAD_SIZE || number_at(image, 0) != COMMON_MAGIC ||
        number_at(image, sizeof(uint32_t)) != image->kind->magic)
        return fm_error_set(err, FM_E_PROTOCOL, "%s is not an image of %s", image->path,
                            image->kind->text);
    image->fixed = fm_xmalloc(HEAD_SIZE);
    append(image, image->data, HEAD_SIZE);
    size_t at = HEAD_SIZE;
    while (image->size - at >= sizeof(uint32_t)) {
        size_t size = number_at(image, at);
        at += sizeof(uint32_t);
        if (size > image->size - at)
            return fm_error_set(err, FM_E_PROTOCOL, "%s: the entry at offset %zu is cut off",
                                image->path, at);
        /* A corrected entry takes at most the bytes of two numbers more. */
        image->fixed = fm_xrealloc(image->fixed, image->fixed_size + size + ENTRY_ROOM);
        int rc = image->kind->fix(image, at, size, err);
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

static int fix_image(const char *path, const struct kind *kind, struct fm_error *err)
{
    fm_autofree char *data = NULL;
    struct image image = {.path = path, .kind = kind};
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

int fm_image_fix_timers(const char *dir, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/files.img", dir);
    return fm_file_exists(path) ? fix_image(path, &files_kind, err) : 0;
}

/* pagemap-7.img is that of process 7, pagemap-shmem-7.img of shared memory. */
static bool is_of_process(const char *name)
{
    unsigned int pid;
    int end = 0;
    return sscanf(name, "pagemap-%u.img%n", &pid, &end) == 1 && end && name[end] == '\0';
}

int fm_image_fix_pages(const char *dir, struct fm_error *err)
{
    fm_autoclosedir DIR *images = opendir(dir);
    if (!images)
        return fm_error_errno(err, errno, "cannot open %s", dir);
    int rc = 0;
    for (const struct dirent *entry; rc == 0 && (entry = readdir(images));) {
        fm_autofree char *path = fm_strf("%s/%s", dir, entry->d_name);
        if (is_of_process(entry->d_name))
            rc = fix_image(path, &pagemap_kind, err);
    }
    return rc;
}
