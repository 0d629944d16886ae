/* Functions of the programs that come to the fakes: the linker's --wrap sends every call of `name`
 * to __wrap_name; __real_name is the original. */
#ifndef FM_TESTS_WRAPPED_H
#define FM_TESTS_WRAPPED_H

#include <poll.h>
#include <pthread.h>

#include "migration/leftover.h"
#include "migration/log_pipe.h"
#include "migration/preflight.h"
#include "state/restore.h"
#include "state/tree_stream.h"

#define WRAPPED(ret, name, ...)                                                                    \
    ret __wrap_##name(__VA_ARGS__);                                                                \
    ret __real_##name(__VA_ARGS__)

WRAPPED(int, fm_journal_create, struct fm_journal *j, const char *id, const char *role,
        const json_t *doc, struct fm_error *err);
WRAPPED(int, fm_journal_update, struct fm_journal *j, const char *id, const json_t *doc, bool final,
        struct fm_error *err);
WRAPPED(int, fm_journal_transition, struct fm_journal *j, const char *id,
        const struct fm_transition *t, struct fm_error *err);
WRAPPED(int, fm_journal_step, struct fm_journal *j, const char *id, enum fm_step step,
        const json_t *detail, struct fm_error *err);

WRAPPED(int, fm_mkdir_p, const char *path, mode_t mode, struct fm_error *err);
WRAPPED(int, fm_remove_tree, const char *path, struct fm_error *err);
WRAPPED(int, fm_bundle_create, const struct fm_bundle_config *config,
        struct fm_container *container, const struct fm_strv *lower, const char *netns,
        struct fm_error *err);
WRAPPED(int, fm_bundle_mount, const struct fm_bundle *bundle, const struct fm_strv *lower,
        struct fm_error *err);
WRAPPED(int, fm_bundle_unmount, const struct fm_bundle *bundle, struct fm_error *err);
WRAPPED(int, fm_bundle_remove, const struct fm_bundle *bundle, struct fm_error *err);

WRAPPED(int, fm_image_import, struct fm_image_store *s, const char *path, const char *name,
        struct fm_image *image, struct fm_error *err);
WRAPPED(bool, fm_image_has_layer, struct fm_image_store *s, const char *digest);
WRAPPED(char *, fm_image_layer_dir, struct fm_image_store *s, const char *digest,
        struct fm_error *err);
WRAPPED(int, fm_image_layer_stage, struct fm_image_store *s, const char *digest, char **dir,
        struct fm_error *err);
WRAPPED(int, fm_image_layer_commit, struct fm_image_store *s, const char *digest, const char *dir,
        struct fm_error *err);
WRAPPED(int, fm_image_store_prune, struct fm_image_store *s, const struct fm_strv *used,
        struct fm_error *err);

WRAPPED(int, fm_tree_receive, struct fm_connection *c, const char *dir, uint64_t max_bytes,
        struct fm_tree_stats *stats, struct fm_error *err);
WRAPPED(struct fm_restore_receiver *, fm_restore_receive_begin, const char *dir, uint64_t max_bytes,
        struct fm_error *err);
WRAPPED(int, fm_restore_receive_finish, struct fm_restore_receiver *r, const json_t *manifest,
        uint64_t *bytes, struct fm_error *err);
WRAPPED(void, fm_restore_receive_abort, struct fm_restore_receiver *r);

WRAPPED(uint64_t, fm_facts_memory_available, void);
WRAPPED(json_t *, fm_facts_container, const struct fm_container *container, const pid_t *pids,
        size_t count, struct fm_error *err);
WRAPPED(int, fm_leftover_end, const char *dir, uint64_t grace_ms, struct fm_error *err);
WRAPPED(uint64_t, fm_now_ms, void);
WRAPPED(int, poll, struct pollfd *fds, nfds_t count, int timeout);
WRAPPED(int, pthread_create, pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
        void *arg);
WRAPPED(int, pthread_detach, pthread_t thread);

#endif
