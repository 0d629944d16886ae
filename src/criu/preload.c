#include "criu/preload.h"

#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "criu/page_filter.h"

static bool add(struct fm_strv *libraries, const char *name)
{
    char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (len <= 0)
        return false;
    path[len] = '\0';
    fm_autofree char *library = fm_strf("%s/%s", dirname(path), name);
    if (access(library, R_OK) < 0)
        return false;
    fm_strv_add(libraries, library);
    return true;
}

static void set_environment(const struct fm_preload *preload, const struct fm_strv *libraries)
{
    fm_autofree char *list = fm_xstrdup("");
    for (size_t i = 0; i < libraries->count; i++) {
        char *longer = fm_strf("%s%s%s", list, i > 0 ? ":" : "", libraries->items[i]);
        free(list);
        list = longer;
    }
    unsetenv("LD_PRELOAD");
    unsetenv(FM_FILTER_ENVIRONMENT);
    unsetenv(FM_HOLD_ENVIRONMENT);
    unsetenv(FM_EXTERNAL_NET_ENVIRONMENT);
    fm_autofree char *number = fm_strf("%d", preload->hold_fd);
    if (*list)
        setenv("LD_PRELOAD", list, 1);
    if (preload->filter_dir)
        setenv(FM_FILTER_ENVIRONMENT, preload->filter_dir, 1);
    if (preload->external_net)
        setenv(FM_EXTERNAL_NET_ENVIRONMENT, preload->external_net, 1);
    if (preload->hold_fd >= 0)
        setenv(FM_HOLD_ENVIRONMENT, number, 1);
}

bool fm_preload(const struct fm_preload *preload)
{
    fm_cleanup(fm_strv_free) struct fm_strv libraries = {0};
    if (preload->dump)
        add(&libraries, "libfleximigrate-dump-aid.so");
    if (preload->external_net)
        add(&libraries, "libfleximigrate-no-conntrack.so");
    if (preload->filter_dir && !add(&libraries, "libfleximigrate-pagefilter.so"))
        return false;
    if ((preload->lazy || preload->hold_fd >= 0) &&
        !add(&libraries, "libfleximigrate-restore-aid.so") && preload->hold_fd >= 0)
        return false;
    set_environment(preload, &libraries);
    return true;
}
