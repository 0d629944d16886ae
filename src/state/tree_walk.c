#include "state/tree_walk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"

/* The kernel stamps ctime with the time of its last tick, at most 10 ms (HZ=100) behind the clock.
 */
#define CTIME_MARGIN_US 20000u

int fm_tree_open_beneath(int root, const char *path, int flags)
{
    struct open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC),
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };

    return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

char *fm_tree_path(const struct fm_tree *t, uint32_t item)
{
    size_t len = 0;

    if (item == 0)
        return fm_xstrdup(".");
    for (uint32_t i = item; i != 0; i = t->items[i].parent)
        len += strlen(t->items[i].name) + 1;

    char *path = fm_xmalloc(len);
    char *end = path + len;
    for (uint32_t i = item; i != 0; i = t->items[i].parent) {
        size_t n = strlen(t->items[i].name);
        *--end = i == item ? '\0' : '/';
        end -= n;
        memcpy(end, t->items[i].name, n);
    }
    return path;
}

static int compare_links(const void *a, const void *b)
{
    const struct fm_tree_link *x = a;
    const struct fm_tree_link *y = b;

    if (x->dev != y->dev)
        return x->dev < y->dev ? -1 : 1;
    if (x->ino != y->ino)
        return x->ino < y->ino ? -1 : 1;
    return 0;
}

struct fm_tree_link *fm_tree_link_group(const struct fm_tree *t, const struct stat *st)
{
    struct fm_tree_link key = {.dev = st->st_dev, .ino = st->st_ino};

    if (t->link_count == 0)
        return NULL;
    struct fm_tree_link *link =
        bsearch(&key, t->links, t->link_count, sizeof(*t->links), compare_links);
    while (link && link > t->links && compare_links(link - 1, link) == 0)
        link--;
    return link;
}

static uint32_t add_item(struct fm_tree *t, const char *name, uint32_t parent)
{
    if (t->count == t->capacity) {
        t->capacity = t->capacity ? t->capacity * 2 : 256;
        t->items = fm_xrealloc(t->items, t->capacity * sizeof(*t->items));
    }
    t->items[t->count] = (struct fm_tree_item){.name = fm_xstrdup(name), .parent = parent};
    return t->count++;
}

static void add_link(struct fm_tree *t, const struct stat *st, uint32_t item)
{
    if (t->link_count == t->link_capacity) {
        t->link_capacity = t->link_capacity ? t->link_capacity * 2 : 64;
        t->links = fm_xrealloc(t->links, t->link_capacity * sizeof(*t->links));
    }
    t->links[t->link_count++] = (struct fm_tree_link){
        .dev = st->st_dev, .ino = st->st_ino, .item = item, .first = FM_TREE_NO_ITEM};
}

/* A directory whose content is replaced at the other end travels too: it gets its mtime back. */
static void select_item(struct fm_tree *t, uint32_t item)
{
    t->items[item].selected = true;
    if (t->items[item].parent != FM_TREE_NO_ITEM)
        t->items[t->items[item].parent].selected = true;
}

static bool changed(const struct stat *st, const struct fm_tree_filter *filter)
{
    uint64_t ctime_us =
        (uint64_t)st->st_ctim.tv_sec * 1000000 + (uint64_t)st->st_ctim.tv_nsec / 1000;

    if (filter->changed_after_us == 0)
        return true;
    return st->st_ctim.tv_sec >= 0 && ctime_us + CTIME_MARGIN_US >= filter->changed_after_us;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(int fd, struct fm_strv *names)
{
    struct dirent *e;

    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    fm_autoclosedir DIR *d = own < 0 ? NULL : fdopendir(own);
    if (!d) {
        if (own >= 0)
            close(own);
        return -1;
    }
    errno = 0;
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            fm_strv_add(names, e->d_name);
    }
    if (errno != 0)
        return -1;
    if (names->count > 1)
        qsort(names->items, names->count, sizeof(*names->items), compare_names);
    return 0;
}

/* What a directory's own entries need to know of it. */
struct visit {
    struct fm_tree *tree;
    const struct fm_tree_filter *filter;
    uint32_t self;
    bool self_changed;
};

/* A subdirectory: its turn comes when its parent's other entries are done and its parent is closed.
 */
struct pending {
    char *name;
    bool mounted;
    bool changed;
};

struct pending_list {
    struct pending *items;
    size_t count;
};

static void add_pending(struct pending_list *list, const struct pending *p)
{
    if ((list->count & (list->count - 1)) == 0)
        list->items =
            fm_xrealloc(list->items, (list->count ? list->count * 2 : 1) * sizeof(*list->items));
    list->items[list->count++] = *p;
}

static void clear_pending(struct pending_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i].name);
    free(list->items);
}

/* One call for each name, since the last walk lies in the freeze. */
static int look(int dir, const char *name, struct stat *st, bool *mounted)
{
    struct statx x;

    if (statx(dir, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &x) < 0)
        return -1;
    *mounted = (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
    *st = (struct stat){.st_dev = makedev(x.stx_dev_major, x.stx_dev_minor),
                        .st_ino = x.stx_ino,
                        .st_mode = x.stx_mode,
                        .st_nlink = x.stx_nlink,
                        .st_ctim = {x.stx_ctime.tv_sec, x.stx_ctime.tv_nsec}};
    return 0;
}

/* Looks at one name of an open directory. What is gone by now is no error: it was deleted in time.
 */
static int visit_name(const struct visit *v, int dir, const char *name,
                      struct pending_list *directories, struct fm_error *err)
{
    struct stat st;
    bool mounted;

    if (look(dir, name, &st, &mounted) < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return 0;
        return fm_error_errno(err, errno, "cannot look at '%s'", name);
    }

    bool is_changed = changed(&st, v->filter);
    if (S_ISDIR(st.st_mode)) {
        add_pending(directories, &(struct pending){fm_xstrdup(name), mounted, is_changed});
        return 0;
    }
    uint32_t item = add_item(v->tree, name, v->self);
    v->tree->items[item].mount_point = mounted;
    v->tree->items[item].socket = S_ISSOCK(st.st_mode);
    if (S_ISSOCK(st.st_mode))
        return 0;
    if (is_changed || v->tree->items[v->self].moved)
        select_item(v->tree, item);
    if (st.st_nlink > 1 && !mounted)
        add_link(v->tree, &st, item);
    return 0;
}

static int visit_names(struct visit *v, struct pending_list *directories, struct fm_error *err)
{
    struct fm_strv names = {0};
    struct stat st;
    int r = 0;

    fm_autofree char *path = fm_tree_path(v->tree, v->self);
    fm_autoclose int fd =
        fm_tree_open_beneath(v->tree->root, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (fd < 0 && v->self != 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
        return 0;
    if (fd < 0 || fstat(fd, &st) < 0 || read_names(fd, &names) < 0) {
        r = fm_error_errno(err, errno, "cannot read directory '%s'", path);
        fm_strv_free(&names);
        return r;
    }

    v->self_changed = changed(&st, v->filter);
    for (size_t i = 0; i < names.count && r == 0; i++)
        r = visit_name(v, fd, names.items[i], directories, err);
    fm_strv_free(&names);
    return r < 0 ? fm_error_prefix(err, "in '%s'", path) : 0;
}

/* A rename changes the ctime of a directory and of the one that it is moved to, but not of anything
 * below it: then its whole content has to travel. Directories are opened by path and one at a time,
 * so that depth costs no descriptors. */
static int walk_directory(struct fm_tree *t, uint32_t self, const struct fm_tree_filter *filter,
                          struct fm_error *err)
{
    struct visit v = {.tree = t, .filter = filter, .self = self};
    struct pending_list directories = {0};

    int r = visit_names(&v, &directories, err);
    for (size_t i = 0; i < directories.count && r == 0; i++) {
        const struct pending *p = &directories.items[i];
        uint32_t item = add_item(t, p->name, self);
        t->items[item].directory = true;
        t->items[item].mount_point = p->mounted;
        t->items[item].moved = t->items[self].moved || (p->changed && v.self_changed);
        if (p->changed || t->items[item].moved)
            select_item(t, item);
        if (!p->mounted)
            r = walk_directory(t, item, filter, err);
    }
    clear_pending(&directories);
    return r;
}

/* All names of a file travel, or none: else the receiver would make two files of it. */
static void select_link_groups(struct fm_tree *t)
{
    if (t->link_count > 1)
        qsort(t->links, t->link_count, sizeof(*t->links), compare_links);
    for (size_t start = 0, end; start < t->link_count; start = end) {
        bool any = false;
        for (end = start; end < t->link_count; end++) {
            if (compare_links(&t->links[start], &t->links[end]) != 0)
                break;
            any = any || t->items[t->links[end].item].selected;
        }
        for (size_t i = start; any && i < end; i++)
            select_item(t, t->links[i].item);
    }
}

static void select_always(struct fm_tree *t, const struct fm_strv *always)
{
    if (!always || always->count == 0)
        return;
    for (uint32_t i = 1; i < t->count; i++) {
        fm_autofree char *path = fm_tree_path(t, i);
        for (size_t k = 0; k < always->count; k++) {
            if (strcmp(path, always->items[k]) == 0)
                select_item(t, i);
        }
    }
}

int fm_tree_walk(struct fm_tree *t, const char *dir, const struct fm_tree_filter *filter,
                 struct fm_error *err)
{
    *t = (struct fm_tree){.root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC)};
    if (t->root < 0)
        return fm_error_errno(err, errno, "cannot open '%s'", dir);

    uint32_t root = add_item(t, ".", FM_TREE_NO_ITEM);
    t->items[root].directory = true;
    t->items[root].selected = true;
    int r = walk_directory(t, root, filter, err);
    if (r < 0)
        return fm_error_prefix(err, "cannot list '%s'", dir);
    select_always(t, filter->always);
    select_link_groups(t);
    return 0;
}

void fm_tree_clear(struct fm_tree *t)
{
    for (uint32_t i = 0; i < t->count; i++)
        free(t->items[i].name);
    free(t->items);
    free(t->links);
    if (t->root >= 0)
        close(t->root);
    *t = (struct fm_tree){.root = -1};
}

/* Children come after their parents, so that backwards everything is empty when its turn comes. */
int fm_tree_remove(int dir, const char *name, struct fm_error *err)
{
    struct fm_tree t;
    struct fm_error why = {0};

    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR)
        return fm_error_errno(err, errno, "cannot remove '%s'", name);

    fm_autofree char *path = fm_strf("/proc/self/fd/%d/%s", dir, name);
    int r = fm_tree_walk(&t, path, &(struct fm_tree_filter){0}, &why);
    for (uint32_t i = t.count; i-- > 1 && r == 0;) {
        fm_autofree char *parent = fm_tree_path(&t, t.items[i].parent);
        fm_autoclose int fd = fm_tree_open_beneath(t.root, parent, O_PATH | O_DIRECTORY);
        if (fd < 0 || unlinkat(fd, t.items[i].name, t.items[i].directory ? AT_REMOVEDIR : 0) < 0)
            r = fm_error_errno(&why, errno, "'%s'", t.items[i].name);
    }
    fm_tree_clear(&t);
    if (r == 0 && unlinkat(dir, name, AT_REMOVEDIR) < 0)
        r = fm_error_errno(&why, errno, "'%s'", name);
    return r < 0 ? fm_error_set(err, why.code, "cannot remove '%s': %s", name, why.text) : 0;
}
