#include "container/mountinfo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

/* Fields before the separator that are always there, and those behind it. */
enum { ID, PARENT, DEVICE, ROOT, TARGET, MOUNT_OPTIONS, FIXED };
enum { TYPE, SOURCE, OPTIONS, TAIL };

void fm_mountinfo_unescape(char *text)
{
    char *out = text;
    while (*text) {
        unsigned code;
        if (*text == '\\' && sscanf(text + 1, "%3o", &code) == 1) {
            *out++ = (char)code;
            text += 4;
        } else {
            *out++ = *text++;
        }
    }
    *out = '\0';
}

static char *own(const char *field)
{
    char *copy = fm_xstrdup(field);
    fm_mountinfo_unescape(copy);
    return copy;
}

/* 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue */
static void parse_line(char *line, struct fm_mountinfo *info)
{
    char *fixed[FIXED] = {0}, *tail[TAIL] = {0}, *rest = NULL;
    size_t n = 0, t = 0;
    bool behind = false;
    line[strcspn(line, "\n")] = '\0';
    for (char *f = strtok_r(line, " ", &rest); f; f = strtok_r(NULL, " ", &rest)) {
        if (n == FIXED && !behind && fm_streq(f, "-"))
            behind = true;
        else if (behind && t < TAIL)
            tail[t++] = f;
        else if (n < FIXED)
            fixed[n++] = f;
    }
    if (t < TAIL)
        return;
    info->items = fm_xrealloc(info->items, (info->count + 1) * sizeof(*info->items));
    info->items[info->count++] = (struct fm_mountinfo_entry){.id = strtoull(fixed[ID], NULL, 10),
                                                             .device = own(fixed[DEVICE]),
                                                             .root = own(fixed[ROOT]),
                                                             .target = own(fixed[TARGET]),
                                                             .type = own(tail[TYPE]),
                                                             .source = own(tail[SOURCE]),
                                                             .options = own(tail[OPTIONS])};
}

int fm_mountinfo_read(pid_t pid, struct fm_mountinfo *info, struct fm_error *err)
{
    fm_autofree char *path =
        pid ? fm_strf("/proc/%d/mountinfo", (int)pid) : fm_xstrdup("/proc/self/mountinfo");
    fm_autofree char *line = NULL;
    size_t size = 0;
    *info = (struct fm_mountinfo){0};
    fm_autofclose FILE *f = fopen(path, "re");
    if (!f)
        return fm_error_errno(err, errno, "cannot read %s", path);
    while (getline(&line, &size, f) > 0)
        parse_line(line, info);
    if (!ferror(f))
        return 0;
    fm_error_errno(err, errno, "cannot read %s", path);
    fm_mountinfo_clear(info);
    return fm_error_result(err);
}

void fm_mountinfo_clear(struct fm_mountinfo *info)
{
    for (size_t i = 0; i < info->count; i++) {
        free(info->items[i].device);
        free(info->items[i].root);
        free(info->items[i].target);
        free(info->items[i].type);
        free(info->items[i].source);
        free(info->items[i].options);
    }
    free(info->items);
    *info = (struct fm_mountinfo){0};
}
