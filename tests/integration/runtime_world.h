/* What tests of the runc runtime stand on: an image store, bundles, containers from a busybox root.
 */
#ifndef FM_TESTS_RUNTIME_WORLD_H
#define FM_TESTS_RUNTIME_WORLD_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "container/bundle.h"
#include "container/cgroup.h"
#include "container/container.h"
#include "container/image.h"
#include "container/runtime.h"

#define DEADLINE_MS 10000

struct world {
    char *dir;
    char *parent;
    struct fm_runtime runtime;
    struct fm_image_store *store;
    struct fm_image image;
    struct fm_strv lower;
    struct fm_bundle_config bundles;
};

extern struct world w;
extern struct fm_error err;

#define assert_done(expression)                                                                    \
    do {                                                                                           \
        err = (struct fm_error){0};                                                                \
        int done_ret_ = (expression);                                                              \
        if (done_ret_ < 0)                                                                         \
            print_error("%s\n", err.text);                                                         \
        assert_int_equal(done_ret_, 0);                                                            \
    } while (0)

#define OPS w.runtime.ops
#define CTX w.runtime.ctx

struct box {
    struct fm_container *c;
    struct fm_bundle b;
    char *data;   /* volume at /data */
    char *images; /* image_dir */
    char *work;
};

#define COUNTING "i=0; while :; do i=$((i+1)); echo $i > /data/n; done"

void open_runtime(const char *interposer);
int set_up(void **state);
int tear_down(void **state);
/* A bundle for `sh -c script` with a volume at /data. */
struct box make_box(const char *name, const char *script);
int run_box(const struct box *box);
/* Removes all, and asserts that nothing is left. */
void end_box(struct box *box);
void pause_ms(long ms);
/* The whole file, "" when it is not there; the caller frees it. */
char *read_text(const char *path);
/* Waits (for seconds at most) until the file holds the text. */
bool wait_text(const char *path, const char *wanted);
/* The number in <data>/n, which COUNTING raises as fast as it can. */
long count_of(const struct box *box);
bool wait_count_above(const struct box *box, long n);
/* True when nobody writes to <data>/n for a while. */
bool stands_still(const struct box *box);
struct fm_runtime_state state_of(const char *id);
/* Waits until the container has none. */
bool no_processes(const char *id);
/* Why these tests cannot run here; NULL when they can. */
const char *missing_part(void);

#endif
