#include "container/runc_record.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "base/text.h"

static char *record_path(const char *root, const char *id)
{
    return fm_strf("%s/%s/state.json", root, id);
}

/* A file there is no container to runc. */
static char *kept_path(const char *root, const char *id)
{
    return fm_strf("%s/.%s.fleximigrate-state", root, id);
}

/* runc replaces its record by a new file: a second name keeps the old one as it was. */
int fm_runc_record_keep(const char *root, const char *id, struct fm_error *err)
{
    fm_autofree char *record = record_path(root, id);
    fm_autofree char *kept = kept_path(root, id);

    unlink(kept);
    if (link(record, kept) < 0)
        return fm_error_errno(err, errno, "cannot keep %s", record);
    return 0;
}

static bool is_running(const char *kept)
{
    json_auto_t *doc = fm_json_load(kept, NULL);
    json_int_t pid = json_integer_value(json_object_get(doc, "init_process_pid"));
    json_int_t start = json_integer_value(json_object_get(doc, "init_process_start"));

    return pid > 1 && fm_process_is((pid_t)pid, (uint64_t)start);
}

bool fm_runc_record_put_back(const char *root, const char *id)
{
    fm_autofree char *dir = fm_strf("%s/%s", root, id);
    fm_autofree char *record = record_path(root, id);
    fm_autofree char *kept = kept_path(root, id);

    if (!fm_file_exists(kept) || fm_file_exists(record) || !is_running(kept))
        return false;
    if (mkdir(dir, 0711) < 0 && errno != EEXIST)
        return false;
    return link(kept, record) == 0;
}

void fm_runc_record_forget(const char *root, const char *id)
{
    fm_autofree char *kept = kept_path(root, id);

    unlink(kept);
}
