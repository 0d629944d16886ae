/* An image store of a test's own, and what imports into it must or must not do. */
#ifndef FM_TESTS_IMAGE_STORE_H
#define FM_TESTS_IMAGE_STORE_H

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "container/image.h"

static char *dir; /* of the running test */
static struct fm_image_store *store;
static struct fm_error err;

static inline int set_up(void **state)
{
    char template[] = "/tmp/fm-test-image.XXXXXX";
    (void)state;

    dir = fm_xstrdup(mkdtemp(template));
    fm_autofree char *path = fm_strf("%s/store", dir);
    store = fm_image_store_open(path, &err);
    return store ? 0 : -1;
}

static inline int tear_down(void **state)
{
    (void)state;
    fm_image_store_close(store);
    int ret = fm_remove_tree(dir, &err);
    free(dir);
    return ret;
}

static inline void write_text(const char *path, const char *text)
{
    assert_int_equal(fm_file_write(path, text, strlen(text), 0644, &err), 0);
}

static inline size_t entries_in(const char *sub)
{
    fm_autofree char *path = fm_strf("%s/store/%s", dir, sub);
    fm_autoclosedir DIR *d = opendir(path);
    size_t count = 0;
    const struct dirent *e;

    assert_non_null(d);
    while ((e = readdir(d)))
        count += e->d_name[0] != '.';
    return count;
}

#define assert_imported(path, name, image)                                                         \
    do {                                                                                           \
        int import_ret_ = fm_image_import(store, path, name, image, &err);                         \
        if (import_ret_ < 0)                                                                       \
            print_error("%s\n", err.text);                                                         \
        assert_int_equal(import_ret_, 0);                                                          \
    } while (0)

static inline void assert_refused(const char *path, enum fm_code code, const char *why)
{
    struct fm_image image;

    err = (struct fm_error){0};
    assert_int_equal(fm_image_import(store, path, NULL, &image, &err), -(int)code);
    if (!strstr(err.text, why))
        fail_msg("'%s' does not say '%s'", err.text, why);
    assert_null(strchr(err.text, '\n'));
    assert_int_equal(entries_in("staging"), 0);
}

static inline char *layer_path(const struct fm_image *image, size_t i, const char *name)
{
    fm_autofree char *layer = fm_image_layer_dir(store, image->layers.items[i], &err);

    assert_non_null(layer);
    return fm_strf("%s/%s", layer, name);
}

static inline void cleanup_image(struct fm_image *image)
{
    fm_image_clear(image);
}
#define auto_image fm_cleanup(cleanup_image) struct fm_image

#endif
