#include "state/image_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

bool fm_image_name_valid(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789._-";

    if (!name || name[0] == '\0' || name[0] == '.')
        return false;
    size_t n = strspn(name, allowed);
    return n <= FM_IMAGE_NAME_MAX && name[n] == '\0';
}

struct fm_image_file *fm_image_files_find(const struct fm_image_files *files, const char *name)
{
    json_t *position = files->index ? json_object_get(files->index, name) : NULL;

    return position ? files->items[json_integer_value(position)] : NULL;
}

struct fm_image_file *fm_image_files_add(struct fm_image_files *files, const char *name,
                                         struct fm_connection *c)
{
    if (files->count == files->capacity) {
        files->capacity = files->capacity ? files->capacity * 2 : 64;
        files->items = fm_xrealloc(files->items, files->capacity * sizeof(struct fm_image_file *));
    }
    if (!files->index)
        files->index = json_object();

    struct fm_image_file *file = fm_xcalloc(1, sizeof(*file));
    file->name = fm_xstrdup(name);
    fm_stream_init(&file->stream, c);
    json_object_set_new(files->index, name, json_integer((json_int_t)files->count));
    files->items[files->count++] = file;
    return file;
}

void fm_image_files_clear(struct fm_image_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        free(files->items[i]->name);
        fm_stream_clear(&files->items[i]->stream);
        free(files->items[i]);
    }
    free(files->items);
    json_decref(files->index);
    *files = (struct fm_image_files){0};
}
