#include "state/tree_stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "state/stream.h"
#include "state/tree_place.h"
#include "state/tree_walk.h"

#define STREAMS 3u
/* Both lists are held in memory. */
#define LIST_MAX (256u << 20)

/* A path that exists at the sender. */
struct listed {
    const char *path;
    bool here;
};

struct receiver {
    struct fm_connection *connection;
    const char *dir;
    uint64_t max_bytes;
    struct fm_stream stream; /* the open one */
    unsigned streams_ended;
    bool ended;                 /* the open one is at its end */
    struct fm_error wire_error; /* the stream failed, not the tree */
    bool ended_by_peer;         /* and the sender says so itself */
    char *list_text;
    struct listed *list; /* sorted; NULL when the whole tree travels */
    size_t list_count;
    struct fm_tree_placer placer;
    uint64_t entries;
};

/* --- streams
 * ----------------------------------------------------------------------------------------- */

static void open_stream(struct receiver *r)
{
    fm_stream_init(&r->stream, r->connection);
    r->ended = false;
}

/* The next bytes of the open stream; *len 0 at its end. */
static int next_bytes(struct receiver *r, uint64_t limit, const void **data, size_t *len)
{
    *len = 0;
    if (r->ended)
        return 0;
    int rc = fm_stream_recv(&r->stream, limit, data, len, &r->wire_error);
    r->ended_by_peer |= r->stream.ended_by_peer;
    if (rc == 0 && *len == 0) {
        r->ended = true;
        r->streams_ended++;
    }
    return rc;
}

static int wire_failed(const struct receiver *r, struct fm_error *err)
{
    if (err)
        *err = r->wire_error;
    return -(int)r->wire_error.code;
}

/* Reads a whole stream of NUL-ended strings; the caller frees it. */
static char *receive_list(struct receiver *r, size_t *len, struct fm_error *err)
{
    fm_autofree char *text = NULL;
    size_t capacity = 0;
    uint64_t limit = r->max_bytes < LIST_MAX ? r->max_bytes : LIST_MAX;
    const void *data;
    size_t n;

    *len = 0;
    open_stream(r);
    for (;;) {
        int rc = next_bytes(r, limit, &data, &n);
        if (rc < 0 || n == 0) {
            fm_stream_clear(&r->stream);
            if (rc < 0) {
                wire_failed(r, err);
                return NULL;
            }
            break;
        }
        if (n + 1 > capacity - *len || !text) {
            capacity = (*len + n + 1) * 2;
            text = fm_xrealloc(text, capacity);
        }
        memcpy(text + *len, data, n);
        *len += n;
    }
    if (*len > 0 && text[*len - 1] != '\0') {
        fm_error_set(err, FM_E_PROTOCOL, "a list of paths ends within a path");
        return NULL;
    }
    return text ? FM_MOVE(text) : fm_xstrdup("");
}

/* --- the list of all paths
 * ------------------------------------------------------------------------------ */

static int compare_listed(const void *a, const void *b)
{
    return strcmp(((const struct listed *)a)->path, ((const struct listed *)b)->path);
}

static struct listed *find_listed(const struct receiver *r, const char *path)
{
    struct listed key = {.path = path};

    if (r->list_count == 0)
        return NULL;
    return bsearch(&key, r->list, r->list_count, sizeof(key), compare_listed);
}

static void mark_here(const struct receiver *r, const char *path)
{
    struct listed *l = find_listed(r, path);

    if (l)
        l->here = true;
}

static int receive_paths(struct receiver *r, struct fm_error *err)
{
    size_t len;

    r->list_text = receive_list(r, &len, err);
    if (!r->list_text)
        return err ? -(int)err->code : -FM_E_FAILED;
    for (size_t at = 0; at < len; at += strlen(r->list_text + at) + 1)
        r->list_count++;
    if (r->list_count == 0)
        return 0;
    r->list = fm_xcalloc(r->list_count, sizeof(*r->list));
    size_t i = 0;
    for (size_t at = 0; at < len; at += strlen(r->list_text + at) + 1)
        r->list[i++].path = r->list_text + at;
    qsort(r->list, r->list_count, sizeof(*r->list), compare_listed);
    return 0;
}

static int remove_item(const struct fm_tree *t, uint32_t item, struct fm_error *err)
{
    fm_autofree char *parent = fm_tree_path(t, t->items[item].parent);
    fm_autoclose int fd =
        fm_tree_open_beneath(t->root, parent, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);

    if (fd < 0)
        return fm_error_errno(err, errno, "cannot open '%s'", parent);
    return fm_tree_remove(fd, t->items[item].name, err);
}

/* Removes what is not in the list, and notes what is there already. */
static int remove_gone(struct receiver *r, struct fm_error *err)
{
    struct fm_tree t;

    int rc = fm_tree_walk(&t, r->dir, &(struct fm_tree_filter){0}, err);
    for (uint32_t i = 0; i < t.count && rc == 0; i++) {
        /* Here "selected" says that it stays. */
        if (i > 0 && !t.items[t.items[i].parent].selected) {
            t.items[i].selected = false;
            continue;
        }
        fm_autofree char *path = fm_tree_path(&t, i);
        struct listed *l = find_listed(r, path);
        if (l)
            l->here = true;
        t.items[i].selected = l || i == 0;
        if (!t.items[i].selected)
            rc = remove_item(&t, i, err);
    }
    fm_tree_clear(&t);
    return rc;
}

static int receive_vanished(struct receiver *r, struct fm_error *err)
{
    size_t len;

    fm_autofree char *text = receive_list(r, &len, err);
    if (!text)
        return err ? -(int)err->code : -FM_E_FAILED;
    for (size_t at = 0; at < len; at += strlen(text + at) + 1)
        mark_here(r, text + at);
    for (size_t i = 0; i < r->list_count; i++) {
        if (!r->list[i].here)
            return fm_error_set(err, FM_E_PROTOCOL,
                                "the tree is incomplete: '%s' was announced and did not come",
                                r->list[i].path);
    }
    return 0;
}

/* --- the archive
 * ---------------------------------------------------------------------------------------- */

static la_ssize_t read_archive(struct archive *a, void *ctx, const void **data)
{
    struct receiver *r = ctx;
    size_t len;

    if (next_bytes(r, r->max_bytes, data, &len) < 0) {
        archive_set_error(a, EIO, "%s", r->wire_error.text);
        return -1;
    }
    return (la_ssize_t)len;
}

static int archive_failed(const struct receiver *r, struct archive *a, struct fm_error *err)
{
    if (r->wire_error.code != FM_E_OK)
        return wire_failed(r, err);
    const char *why = archive_error_string(a);
    return fm_error_set(err, FM_E_PROTOCOL, "damaged archive: %s", why ? why : "unknown reason");
}

static int place_entries(struct receiver *r, struct archive *a, struct fm_error *err)
{
    struct archive_entry *entry;
    const char *path;
    int got;

    while ((got = archive_read_next_header(a, &entry)) == ARCHIVE_OK) {
        int rc = fm_tree_place(&r->placer, a, entry, &path, err);
        if (rc < 0)
            return r->wire_error.code == FM_E_OK ? rc : wire_failed(r, err);
        mark_here(r, path);
        r->entries++;
    }
    if (got != ARCHIVE_EOF)
        return archive_failed(r, a, err);
    return fm_tree_placer_finish(&r->placer, err);
}

/* After the archive's own end only padding may follow, up to the end that the sender signs. */
static int read_rest(struct receiver *r, struct fm_error *err)
{
    const void *data;
    size_t len;

    while (!r->ended) {
        if (next_bytes(r, r->max_bytes, &data, &len) < 0)
            return wire_failed(r, err);
    }
    return 0;
}

static int receive_archive(struct receiver *r, struct fm_tree_stats *stats, struct fm_error *err)
{
    struct archive *a = archive_read_new();
    if (!a)
        abort();
    open_stream(r);
    int rc;
    /* No filters: nothing that arrives is decompressed. */
    if (archive_read_support_format_tar(a) != ARCHIVE_OK ||
        archive_read_open(a, r, NULL, read_archive, NULL) != ARCHIVE_OK)
        rc = archive_failed(r, a, err);
    else
        rc = place_entries(r, a, err);
    archive_read_free(a);
    if (rc == 0)
        rc = read_rest(r, err);
    if (rc == 0 && stats)
        *stats = (struct fm_tree_stats){.entries = r->entries, .bytes = r->stream.bytes};
    fm_stream_clear(&r->stream);
    return rc;
}

int fm_tree_receive(struct fm_connection *c, const char *dir, uint64_t max_bytes,
                    struct fm_tree_stats *stats, struct fm_error *err)
{
    struct receiver r = {.connection = c, .dir = dir, .max_bytes = max_bytes};
    struct fm_error why = {0};

    int rc = fm_tree_placer_open(&r.placer, dir, &why);
    if (rc == 0)
        rc = receive_paths(&r, &why);
    if (rc == 0 && r.list)
        rc = remove_gone(&r, &why);
    if (rc == 0)
        rc = receive_archive(&r, stats, &why);
    if (rc == 0)
        rc = receive_vanished(&r, &why);

    if (rc < 0 && !r.ended_by_peer &&
        (r.wire_error.code == FM_E_OK || r.wire_error.code == FM_E_NO_SPACE))
        fm_stream_drain(c, STREAMS - r.streams_ended);
    fm_tree_placer_clear(&r.placer);
    free(r.list);
    free(r.list_text);
    if (rc == 0)
        return 0;
    return fm_error_set(err, why.code, "cannot receive into '%s': %s", dir, why.text);
}
