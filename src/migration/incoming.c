#include "migration/incoming_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/handover_tmpfs.h"
#include "migration/lifecycle.h"
#include "migration/networks.h"
#include "migration/preflight.h"
#include "migration/readdress.h"
#include "state/tree_stream.h"

/* Left free on the disk whatever comes in, of a small one an eighth. */
#define DISK_RESERVE (256ull << 20)
#define DISK_RESERVE_PART 8
/* How long a migration queues here for its turn. */
#define SLOT_TIMEOUT_MS 110000

const char *fm_stage_text(enum fm_stage stage)
{
    static const char *const texts[] = {
#define X(name, text) text,
        FM_STAGES(X)
#undef X
    };
    return texts[stage];
}

/* --- the table --- */

struct fm_incoming_table *fm_incoming_table_new(struct fm_components *parts)
{
    struct fm_incoming_table *t = fm_xcalloc(1, sizeof(*t));
    t->parts = parts;
    pthread_mutex_init(&t->lock, NULL);
    pthread_mutex_init(&t->admission, NULL);
    return t;
}

static void incoming_free(struct fm_incoming *in)
{
    if (!in)
        return;
    fm_restore_receive_abort(in->receiver);
    if (in->restore)
        in->parts->state.ops->restore_end(in->parts->state.ctx, in->restore);
    fm_incoming_memory_leave(in);
    fm_timeline_clear(&in->freeze);
    fm_container_free(in->container);
    json_decref(in->left);
    pthread_cond_destroy(&in->changed);
    pthread_mutex_destroy(&in->lock);
    fm_tmpfs_clear(&in->tmpfs);
    free(in->dir);
    free(in);
}

static void stop_asking(struct fm_incoming *in)
{
    pthread_mutex_lock(&in->lock);
    in->closing = true;
    pthread_cond_broadcast(&in->changed);
    while (in->asking)
        pthread_cond_wait(&in->changed, &in->lock);
    pthread_mutex_unlock(&in->lock);
}

void fm_incoming_table_free(struct fm_incoming_table *t)
{
    if (!t)
        return;
    while (t->first) {
        struct fm_incoming *in = t->first;
        t->first = in->next;
        stop_asking(in);
        incoming_free(in);
    }
    pthread_mutex_destroy(&t->lock);
    free(t);
}

struct fm_incoming *fm_incoming_find(struct fm_incoming_table *t, const char *id,
                                     struct fm_error *err)
{
    pthread_mutex_lock(&t->lock);
    struct fm_incoming *in = t->first;
    while (in && !fm_streq(in->id, id))
        in = in->next;
    pthread_mutex_unlock(&t->lock);
    if (!in)
        fm_error_set(err, FM_E_NOT_FOUND, "no incoming migration '%s' on host %s", id ? id : "",
                     t->parts->host);
    return in;
}

size_t fm_incoming_active(struct fm_incoming_table *t)
{
    size_t count = 0;
    pthread_mutex_lock(&t->lock);
    for (struct fm_incoming *in = t->first; in; in = in->next)
        count += in->stage < FM_STAGE_DONE;
    pthread_mutex_unlock(&t->lock);
    return count;
}

bool fm_incoming_is_filling(struct fm_incoming_table *t, const char *name)
{
    struct fm_pager_status status = {0};
    bool filling = false;
    pthread_mutex_lock(&t->lock);
    struct fm_incoming *in = t->first;
    while (in &&
           (in->stage != FM_STAGE_RUNNING || !in->sink || !fm_streq(in->container->name, name)))
        in = in->next;
    pthread_mutex_unlock(&t->lock);
    if (!in)
        return false;
    pthread_mutex_lock(&in->lock);
    if (in->sink)
        filling = t->parts->memory.ops->sink_wait(in->sink, 0, &status, NULL) < 0 || !status.done;
    pthread_mutex_unlock(&in->lock);
    return filling;
}

void fm_incoming_layers(struct fm_incoming_table *t, struct fm_strv *layers)
{
    pthread_mutex_lock(&t->lock);
    for (struct fm_incoming *in = t->first; in; in = in->next)
        if (in->stage < FM_STAGE_DONE && in->container->layers.count)
            fm_strv_add_all(layers, (const char *const *)in->container->layers.items);
    pthread_mutex_unlock(&t->lock);
}

static void add(struct fm_incoming_table *t, struct fm_incoming *in)
{
    pthread_mutex_lock(&t->lock);
    in->next = t->first;
    t->first = in;
    pthread_mutex_unlock(&t->lock);
}

/* --- PREPARE --- */

/* What the journal and `migration list` show of an incoming migration. */
static json_t *to_json(const struct fm_incoming *in)
{
    static const char *const states[] = {"PREPARATION",  "EXECUTION", "EXECUTION", "EXECUTION",
                                         "VERIFICATION", "COMPLETED", "FAILED"};
    char at[32], updated[32];
    bool final = in->stage >= FM_STAGE_DONE;
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:s, s:s, s:s, s:s, s:o, s:o, s:b, "
        "s:O*}",
        "id", in->id, "role", FM_ROLE_DESTINATION, "container", in->container->name, "source",
        in->source.name, "destination", in->parts->host, "strategy", in->strategy, "stage",
        fm_stage_text(in->stage), "state", states[in->stage], "final", (int) final, "result",
        !final                            ? "running"
        : in->stage == FM_STAGE_DISCARDED ? "failed"
                                          : "completed",
        "return_of", in->return_of, "created", fm_format_time(in->created_us, at, sizeof(at)),
        "updated", fm_format_time(fm_realtime_us(), updated, sizeof(updated)), "record",
        fm_container_to_json(in->container), "source_host", fm_host_to_json(&in->source),
        "needs_attention", (int)(in->unclean || ((in->source_lost || in->unanswered) && !final)),
        "left", in->left);
}

int fm_incoming_enter(struct fm_incoming *in, enum fm_stage stage, struct fm_error *err)
{
    in->stage = stage;
    if (in->in_slot && stage >= FM_STAGE_RUNNING) {
        fm_slots_release(in->parts->slots_in);
        in->in_slot = false;
    }
    json_auto_t *doc = to_json(in);
    /* What could not be removed is tried again at the next start. */
    bool finished = stage >= FM_STAGE_DONE && !in->unclean;
    return fm_journal_update(in->parts->journal, in->id, doc, finished, err);
}

/* Here it is ours, whoever had started it: a root without layers lies in our bundle. */
static void take_over(struct fm_container *c, const struct fm_bundle *bundle)
{
    json_t *root = json_object_get(c->config, "root");
    c->found = false;
    if (!c->layers.count && json_is_object(root))
        json_object_set_new(root, "path", json_string(bundle->rootfs));
}

/* Anybody's document: the record that would go back has to be a good one. */
static int take_left(struct fm_incoming *in, json_t *left, struct fm_error *err)
{
    if (!json_is_object(left))
        return 0;
    fm_autocontainer struct fm_container *back = fm_readdress_back(in->container, left, err);
    if (!back)
        return fm_error_result(err);
    in->left = json_incref(left);
    return 0;
}

static struct fm_incoming *incoming_new(struct fm_components *p, const char *id,
                                        const json_t *container, const json_t *source,
                                        const char *return_of, const char *strategy,
                                        struct fm_error *err)
{
    struct fm_incoming *in = fm_xcalloc(1, sizeof(*in));
    in->parts = p;
    pthread_mutex_init(&in->lock, NULL);
    pthread_cond_init(&in->changed, NULL);
    snprintf(in->id, sizeof(in->id), "%s", id);
    snprintf(in->return_of, sizeof(in->return_of), "%s", return_of ? return_of : "");
    snprintf(in->strategy, sizeof(in->strategy), "%s", strategy ? strategy : "cold");
    in->lazy = !fm_streq(in->strategy, "cold");
    in->dir = fm_strf("%s/%s", p->migrations_dir, id);
    in->created_us = fm_realtime_us();
    in->container = fm_container_from_json(container, err);
    int rc = in->container ? fm_host_from_json(source, &in->source, err) : -1;
    if (rc == 0) {
        fm_bundle_paths(&p->bundles, in->container->name, &in->bundle);
        in->has_endpoint = in->container->ip != NULL;
        take_over(in->container, &in->bundle);
    }
    if (rc == 0 && in->has_endpoint)
        rc = fm_lifecycle_endpoint(p, in->container, &in->endpoint, err);
    if (rc == 0)
        return in;
    incoming_free(in);
    return NULL;
}

/* What an earlier one of this name has left goes first: later it could not be told apart. */
static int clear_leftovers(struct fm_incoming_table *t, const char *name, struct fm_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&t->lock);
    struct fm_incoming *in = t->first;
    pthread_mutex_unlock(&t->lock);
    for (; in && rc == 0; in = in->next) {
        pthread_mutex_lock(&in->lock);
        if (in->unclean && in->stage == FM_STAGE_DISCARDED && fm_streq(in->container->name, name))
            rc = fm_incoming_discard_again(in, err);
        pthread_mutex_unlock(&in->lock);
    }
    return rc < 0 ? fm_error_prefix(err, "an earlier migration's remains") : 0;
}

/* A container that comes back from a failed migration does not queue. */
static int take_slot(struct fm_incoming *in, const json_t *body, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_slots_wait wait = {.deadline_ms = fm_now_ms() + SLOT_TIMEOUT_MS};
    enum fm_priority priority = FM_PRIORITY_NORMAL;
    fm_priority_parse(json_string_value(json_object_get(body, "priority")), &priority);
    int rc = 0;
    if (!p->slots_in)
        return 0;
    if (*in->return_of)
        fm_slots_force(p->slots_in);
    else
        rc = fm_slots_acquire(p->slots_in, priority, &wait, err);
    in->in_slot = rc == 0;
    return rc < 0 ? fm_error_prefix(err, "host '%s' is busy with other migrations", p->host) : 0;
}

static int reserve(struct fm_incoming *in, const json_t *body, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    const json_t *needs = json_object_get(body, "needs");
    struct fm_reserve_request request = {.id = in->id, .container = in->container->name};
    request.memory = (uint64_t)json_integer_value(json_object_get(needs, "memory_bytes"));
    request.disk = (uint64_t)json_integer_value(json_object_get(needs, "disk_bytes")) +
                   (uint64_t)json_integer_value(json_object_get(needs, "layer_bytes"));
    int rc = fm_disk_free(p->migrations_dir, &request.disk_free, err);
    if (rc < 0)
        return rc;
    uint64_t part = request.disk_free / DISK_RESERVE_PART;
    in->max_bytes = request.disk_free - (part < DISK_RESERVE ? part : DISK_RESERVE);
    request.memory_available = fm_facts_memory_available();
    return p->reservations ? fm_reserve(p->reservations, &request, err) : 0;
}

int fm_incoming_provide_network(struct fm_incoming *in, bool anew, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    int rc = anew ? p->network.ops->unstage(p->network.ctx, &in->endpoint, err) : 0;
    if (rc == 0)
        rc = p->network.ops->stage(p->network.ctx, &in->endpoint, false, err);
    return rc < 0 ? rc
                  : p->network.ops->set_remote(p->network.ctx, in->endpoint.network,
                                               in->endpoint.mac, in->source.address, err);
}

static int stage_network(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    if (!in->has_endpoint)
        return 0;
    p->network.ops->peer(p->network.ctx, in->source.address, true, NULL);
    int rc = fm_journal_step(p->journal, in->id, FM_STEP_STAGE_NETWORK, NULL, err);
    if (rc == 0)
        rc = fm_incoming_provide_network(in, *in->return_of != '\0', err);
    return rc < 0 ? fm_error_prefix(err, "cannot stage the network") : 0;
}

/* Directories for what will arrive; a stale writable layer of an earlier stay is not mixed with the
 * new one. */
static int stage_directories(struct fm_incoming *in, const json_t *body, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    fm_autofree char *images = fm_strf("%s/images", in->dir);
    json_t *tmpfs = json_object_get(body, "tmpfs");
    json_auto_t *detail = json_pack("{s:O*}", "tmpfs", tmpfs);
    int rc = fm_journal_step(p->journal, in->id, FM_STEP_STAGE_BUNDLE, detail, err);
    if (rc == 0 && *in->return_of)
        rc = p->runtime.ops->remove(p->runtime.ctx, in->container->name, err);
    if (rc == 0 && *in->return_of)
        rc = fm_bundle_remove(&in->bundle, err);
    if (rc == 0)
        rc = fm_mkdir_p(images, 0700, err);
    if (rc == 0)
        rc = fm_mkdir_p(in->bundle.upper, 0755, err);
    return rc < 0 ? rc : fm_incoming_tmpfs_stage(in, tmpfs, err);
}

/* True when this container left the volume's content here when it moved away. */
static bool was_left_by(struct fm_components *p, const char *path, const char *container)
{
    json_auto_t *mark = p->store.ops->get(p->store.ctx, "volume", path, NULL);
    return fm_streq(json_string_value(json_object_get(mark, "container")), container);
}

/* Volumes land at the same path as on the source; somebody else's content is never overwritten. */
static int stage_volumes(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    for (size_t i = 0; i < in->container->volume_count; i++) {
        const struct fm_volume *v = &in->container->volumes[i];
        bool left = was_left_by(p, v->source, in->container->name);
        if (v->shared)
            continue;
        if (!left && fm_file_exists(v->source) && rmdir(v->source) < 0 && errno != ENOENT)
            return fm_error_set(err, FM_E_REFUSED,
                                "volume %s exists on host '%s' and is not empty: empty it, or "
                                "declare it shared",
                                v->source, p->host);
        json_auto_t *detail = json_pack("{s:s}", "path", v->source);
        int rc = fm_journal_step(p->journal, in->id, FM_STEP_STAGE_VOLUME, detail, err);
        if (rc == 0 && left)
            rc = fm_remove_tree(v->source, err);
        if (rc == 0)
            rc = fm_mkdir_p(v->source, 0755, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Under the lock: an ABORT on another connection waits, and finds all that was made. */
static int stage(struct fm_incoming *in, const json_t *body, struct fm_error *err)
{
    if (in->stage != FM_STAGE_PREPARING) { /* it came first */
        if (in->in_slot)
            fm_slots_release(in->parts->slots_in);
        in->in_slot = false;
        return fm_error_set(err, FM_E_CANCELLED, "the source has aborted already");
    }
    int rc = reserve(in, body, err);
    if (rc == 0)
        rc = stage_network(in, err);
    if (rc == 0)
        rc = stage_directories(in, body, err);
    if (rc == 0)
        rc = stage_volumes(in, err);
    if (rc == 0)
        rc = fm_incoming_memory_stage(in, err);
    return rc;
}

/* Checks and enters it in one go: of two that come at once for a name or an address, one gets it.
 */
static int admit(struct fm_incoming_table *t, struct fm_incoming *in, const char *peer,
                 struct fm_error *err)
{
    struct fm_components *p = t->parts;
    /* Whose return it claims to be decides what may be replaced here: only what is true counts. */
    if (!fm_incoming_is_return(p, in->return_of, in->container->name, peer))
        in->return_of[0] = '\0';
    json_auto_t *doc = to_json(in);
    pthread_mutex_lock(&t->admission);
    int rc = clear_leftovers(t, in->container->name, err);
    if (rc == 0)
        rc = fm_incoming_admissible(t, in, peer, err);
    if (rc == 0)
        rc = fm_journal_create(p->journal, in->id, FM_ROLE_DESTINATION, doc, err);
    if (rc == 0)
        add(t, in);
    pthread_mutex_unlock(&t->admission);
    return rc;
}

json_t *fm_incoming_prepare(struct fm_incoming_table *t, const char *peer, const json_t *body,
                            struct fm_incoming **out, struct fm_error *err)
{
    struct fm_components *p = t->parts;
    const char *id = json_string_value(json_object_get(body, "migration"));
    if (!id || strlen(id) != 12 || strspn(id, "0123456789abcdef") != 12 ||
        fm_incoming_find(t, id, NULL)) {
        fm_error_set(err, FM_E_PROTOCOL, "PREPARE with a bad or known migration id");
        return NULL;
    }
    if (fm_networks_adopt(p, json_object_get(body, "network"), true, err) < 0)
        return NULL;
    struct fm_incoming *in =
        incoming_new(p, id, json_object_get(body, "container"), json_object_get(body, "source"),
                     json_string_value(json_object_get(body, "return_of")),
                     json_string_value(json_object_get(body, "strategy")), err);
    if (!in || take_left(in, json_object_get(body, "left"), err) < 0 ||
        admit(t, in, peer, err) < 0) {
        incoming_free(in);
        return NULL;
    }
    *out = in;
    int rc = fm_journal_step(p->journal, id, FM_STEP_RESERVE, NULL, err);
    if (rc == 0)
        rc = take_slot(in, body, err);
    pthread_mutex_lock(&in->lock);
    if (rc == 0)
        rc = stage(in, body, err);
    if (rc < 0)
        fm_incoming_abort(in, err->text, NULL);
    pthread_mutex_unlock(&in->lock);
    if (rc < 0)
        return NULL;
    fm_info(FM_CONTAINER_MANAGER, "Place for %s from %s is prepared.", in->container->name,
            in->source.name);
    return json_pack("{s:o, s:b}", "missing_layers",
                     fm_incoming_missing_layers(in->parts, in->container), "patches", 1);
}

/* --- ARM --- */

/* The configuration on this host: its own cgroup, namespace and root paths. */
static int make_bundle(struct fm_incoming *in, struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv lower = {0};
    int rc = fm_lifecycle_layer_dirs(in->parts, in->container, &lower, err);
    return rc < 0 ? rc
                  : fm_bundle_create(&in->parts->bundles, in->container, &lower,
                                     in->has_endpoint ? in->endpoint.netns : NULL, err);
}

int fm_incoming_start_restore(struct fm_incoming *in, struct fm_error *err)
{
    struct fm_components *p = in->parts;
    struct fm_restore_plan plan = {.id = in->container->name,
                                   .dir = in->dir,
                                   .bundle = in->bundle.bundle,
                                   .log_path = in->bundle.log,
                                   .exit_path = in->bundle.exit};
    int rc = fm_journal_step(p->journal, in->id, FM_STEP_RESTORE, NULL, err);
    return rc < 0 ? rc : p->state.ops->restore_start(p->state.ctx, &plan, &in->restore, err);
}

/* CRIU starts up while the container still runs on its old host. Files come once more: the overlay
 * at its root is going to be a new one. */
static int warm_restore(struct fm_incoming *in, struct fm_error *err)
{
    const struct fm_state_interface *state = &in->parts->state;
    struct fm_restore_request request = {.root =
                                             in->container->layers.count ? in->bundle.rootfs : NULL,
                                         .lazy_pages = in->lazy,
                                         .tcp_close = in->left != NULL,
                                         .tmpfs = &in->tmpfs};
    if (!state->ops->restore_warm)
        return 0;
    return state->ops->restore_warm(state->ctx, in->restore, &request, err);
}

int fm_incoming_arm(struct fm_incoming *in, const json_t *body, struct fm_error *err)
{
    if (in->stage != FM_STAGE_PREPARING || in->restore)
        return fm_error_set(err, FM_E_PROTOCOL, "ARM in stage %s", fm_stage_text(in->stage));
    const json_t *descriptors = json_object_get(body, "descriptors");
    fm_autofree char *images = fm_strf("%s/images", in->dir);
    fm_autofree char *path = fm_strf("%s/descriptors.json", images);
    int rc = make_bundle(in, err);
    if (rc == 0 && json_is_array(descriptors))
        rc = fm_json_save(path, descriptors, err);
    if (rc == 0)
        rc = fm_incoming_memory_pager(in, err);
    if (rc == 0)
        rc = fm_incoming_start_restore(in, err);
    if (rc == 0)
        rc = warm_restore(in, err);
    if (rc == 0 && !(in->receiver = fm_restore_receive_begin(images, in->max_bytes, err)))
        rc = fm_error_result(err);
    return rc < 0 ? rc : fm_incoming_enter(in, FM_STAGE_ARMED, err);
}

/* --- from the journal --- */

struct fm_incoming *fm_incoming_load(struct fm_incoming_table *t, const char *id,
                                     struct fm_error *err)
{
    json_auto_t *doc = fm_journal_load(t->parts->journal, id, err);
    if (!doc)
        return NULL;
    struct fm_incoming *in = incoming_new(t->parts, id, json_object_get(doc, "record"),
                                          json_object_get(doc, "source_host"),
                                          json_string_value(json_object_get(doc, "return_of")),
                                          json_string_value(json_object_get(doc, "strategy")), err);
    if (in && take_left(in, json_object_get(doc, "left"), err) < 0) {
        incoming_free(in);
        return NULL;
    }
    const char *stage = json_string_value(json_object_get(doc, "stage"));
    for (int i = 0; in && i <= FM_STAGE_DISCARDED; i++)
        if (fm_streq(stage, fm_stage_text((enum fm_stage)i)))
            in->stage = (enum fm_stage)i;
    json_auto_t *staged = NULL;
    if (in && fm_journal_has(t->parts->journal, id, FM_STEP_STAGE_BUNDLE, &staged))
        fm_tmpfs_from_json(json_object_get(staged, "tmpfs"), &in->tmpfs, NULL);
    if (in)
        add(t, in);
    return in;
}

struct fm_incoming *fm_incoming_recall(struct fm_incoming_table *t, const char *id,
                                       struct fm_error *err)
{
    struct fm_incoming *in = fm_incoming_find(t, id, err);
    json_auto_t *doc = in || !id ? NULL : fm_journal_load(t->parts->journal, id, NULL);
    if (!fm_streq(json_string_value(json_object_get(doc, "role")), FM_ROLE_DESTINATION))
        return in;
    if (err)
        *err = (struct fm_error){0};
    return fm_incoming_load(t, id, err);
}
