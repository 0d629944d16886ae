/* A directory of a test program's own: pass make_scratch and remove_scratch to the test group. */
#ifndef FM_TESTS_SCRATCH_H
#define FM_TESTS_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

static char scratch[] = "/tmp/fm-test.XXXXXX";

static inline int make_scratch(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : -1;
}

static inline int remove_scratch(void **state)
{
    (void)state;
    return fm_remove_tree(scratch, NULL);
}

/* A path in the scratch directory; valid until the fourth call after. */
static inline const char *at(const char *name)
{
    static char paths[4][256];
    static unsigned int next;
    char *path = paths[next++ % 4];

    snprintf(path, 256, "%s/%s", scratch, name);
    return path;
}

#endif
