/* Documents: which one stands, and what it changes on this host. */
#include "migration/networks_internal.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"

/* A clock that is further ahead would win for ever. */
#define CLOCK_AHEAD_US (24ull * 3600 * 1000000)

static json_int_t stamp_of(const json_t *doc)
{
    return json_integer_value(json_object_get(doc, "updated_us"));
}

static bool is_newer(const json_t *doc, const json_t *before)
{
    json_int_t a = stamp_of(doc), b = stamp_of(before);
    return !before || a > b ||
           (a == b &&
            strcmp(fm_json_text(doc, "updated_by"), fm_json_text(before, "updated_by")) > 0);
}

static bool is_removed(const json_t *doc)
{
    return json_is_true(json_object_get(doc, "removed"));
}

char *fm_replica_key(const char *kind, const json_t *doc)
{
    if (fm_streq(kind, FM_KIND_NETWORK))
        return fm_xstrdup(json_string_value(json_object_get(doc, "name")));
    if (!*fm_json_text(doc, "network") || !*fm_json_text(doc, "ip"))
        return NULL;
    return fm_strf("%s/%s", fm_json_text(doc, "network"), fm_json_text(doc, "ip"));
}

/* --- reading --- */

json_t *fm_replica_live(struct fm_components *p, const char *kind, struct fm_error *err)
{
    json_auto_t *all = p->store.ops->list(p->store.ctx, kind, err);
    size_t i;
    json_t *doc;
    if (!all)
        return NULL;
    json_t *live = json_array();
    json_array_foreach(all, i, doc) if (!is_removed(doc)) json_array_append(live, doc);
    return live;
}

json_t *fm_replica_get(struct fm_components *p, const char *kind, const char *key,
                       struct fm_error *err)
{
    json_t *doc = p->store.ops->get(p->store.ctx, kind, key, err);
    if (!is_removed(doc))
        return doc;
    json_decref(doc);
    fm_error_set(err, FM_E_NOT_FOUND, "there is no %s '%s'", kind, key);
    return NULL;
}

/* What there is, removed or not; NULL without an error when there is nothing. */
static int load(struct fm_components *p, const char *kind, const char *key, json_t **doc,
                struct fm_error *err)
{
    struct fm_error e = {0};
    *doc = p->store.ops->get(p->store.ctx, kind, key, &e);
    if (*doc || e.code == FM_E_NOT_FOUND)
        return 0;
    return fm_error_set(err, e.code ? e.code : FM_E_IO, "%s", e.text);
}

/* --- writing --- */

static int apply(struct fm_components *p, const char *kind, const json_t *before, const json_t *doc,
                 struct fm_error *err)
{
    return fm_streq(kind, FM_KIND_NETWORK) ? fm_networks_apply(p, before, doc, err)
                                           : fm_leases_apply(p, before, doc, err);
}

static void leave_untold(struct fm_components *p, const char *kind, const char *key)
{
    fm_autofree char *entry = fm_strf("%s %s", kind, key);
    json_object_set_new(p->networks->untold, entry, json_true());
    pthread_cond_broadcast(&p->networks->changed);
}

/* A write that failed leaves open whether it took place: what stands is put into effect later. */
static int put(struct fm_components *p, const char *kind, const char *key, const json_t *doc,
               struct fm_error *err)
{
    int rc = p->store.ops->put(p->store.ctx, kind, key, doc, err);
    if (rc < 0)
        fm_leases_point_again(p->networks);
    return rc;
}

static int write_over(struct fm_components *p, const char *kind, const char *key,
                      const json_t *before, json_t *doc, struct fm_error *err)
{
    json_int_t now = (json_int_t)fm_realtime_us(), last = stamp_of(before);
    struct fm_error problem = {0};
    json_object_set_new(doc, "updated_us", json_integer(now > last ? now : last + 1));
    json_object_set_new(doc, "updated_by", json_string(p->host));
    int rc = put(p, kind, key, doc, err);
    if (rc < 0)
        return rc;
    if (apply(p, kind, before, doc, &problem) < 0)
        fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER, "The %s %s: %s.", kind, key, problem.text);
    leave_untold(p, kind, key);
    return 0;
}

int fm_replica_write(struct fm_components *p, const char *kind, json_t *doc_to_steal,
                     struct fm_error *err)
{
    json_auto_t *doc = doc_to_steal;
    fm_autofree char *key = fm_replica_key(kind, doc);
    json_t *found = NULL;
    int rc = load(p, kind, key, &found, err);
    json_auto_t *before = found;
    return rc < 0 ? rc : write_over(p, kind, key, before, doc, err);
}

int fm_replica_remove(struct fm_components *p, const char *kind, const char *key,
                      struct fm_error *err)
{
    json_t *found = NULL;
    int rc = load(p, kind, key, &found, err);
    json_auto_t *before = found;
    if (rc < 0 || !before || is_removed(before))
        return rc;
    json_auto_t *doc = json_copy(before);
    json_object_set_new(doc, "removed", json_true());
    return write_over(p, kind, key, before, doc, err);
}

/* --- learning --- */

static int check_stamp(const json_t *doc, struct fm_error *err)
{
    json_int_t stamp = stamp_of(doc);
    int rc = fm_check_name("host", fm_json_text(doc, "updated_by"), err);
    if (rc == 0 && (stamp <= 0 || (uint64_t)stamp > fm_realtime_us() + CLOCK_AHEAD_US))
        rc = fm_error_set(err, FM_E_INVALID,
                          "the clock of host '%s' is far ahead: set the clocks of the hosts",
                          fm_json_text(doc, "updated_by"));
    return rc;
}

static json_t *clean_network(const json_t *doc, struct fm_error *err)
{
    struct fm_network_spec spec;
    if (fm_network_spec_from_json(doc, &spec, err) < 0)
        return NULL;
    if (!fm_streq(spec.name, FM_NETWORK_DEFAULT))
        return fm_network_spec_to_json(&spec);
    fm_error_set(err, FM_E_INVALID, "the default network is not told between hosts");
    return NULL;
}

static json_t *clean_lease(const json_t *doc, struct fm_error *err)
{
    struct fm_lease lease;
    json_t *clean = fm_lease_from_json(doc, &lease, err) == 0 ? fm_lease_to_json(&lease) : NULL;
    fm_lease_clear(&lease);
    return clean;
}

/* What of a foreign document is understood, new reference. */
static json_t *clean(const char *kind, const json_t *doc, struct fm_error *err)
{
    json_t *out = NULL;
    if (check_stamp(doc, err) < 0)
        return NULL;
    if (fm_streq(kind, FM_KIND_NETWORK))
        out = clean_network(doc, err);
    else if (fm_streq(kind, FM_KIND_LEASE))
        out = clean_lease(doc, err);
    else
        fm_error_set(err, FM_E_PROTOCOL, "documents of kind '%.32s' are not known", kind);
    if (!out)
        return NULL;
    json_object_set(out, "updated_us", json_object_get(doc, "updated_us"));
    json_object_set(out, "updated_by", json_object_get(doc, "updated_by"));
    json_object_set_new(out, "removed", json_boolean(is_removed(doc)));
    return out;
}

static bool has_containers(struct fm_components *p, const char *network)
{
    json_auto_t *leases = fm_leases_list(p, network, NULL);
    size_t i;
    json_t *lease;
    json_array_foreach(leases, i,
                       lease) if (fm_streq(fm_json_text(lease, "host"), p->host) &&
                                  !strchr(fm_json_text(lease, "owner"), ':')) return true;
    return false;
}

/* A network that somebody removed while this host was away, where containers of this host are in
 * it: it stays. */
static bool is_needed(struct fm_components *p, const char *kind, const json_t *before,
                      const json_t *doc)
{
    return fm_streq(kind, FM_KIND_NETWORK) && is_removed(doc) && before && !is_removed(before) &&
           has_containers(p, fm_json_text(doc, "name"));
}

static int take(struct fm_components *p, const char *kind, const char *key, const json_t *doc,
                struct fm_error *problem, struct fm_error *err)
{
    json_t *found = NULL;
    int rc = load(p, kind, key, &found, err);
    json_auto_t *before = found;
    if (rc < 0 || !is_newer(doc, before))
        return rc;
    if (is_needed(p, kind, before, doc)) {
        fm_warn(FM_NETWORK_MANAGER,
                "Network %s was removed on host %s and has containers here: it stays.", key,
                fm_json_text(doc, "updated_by"));
        json_auto_t *again = json_copy(before);
        return write_over(p, kind, key, doc, again, err);
    }
    rc = put(p, kind, key, doc, err);
    if (rc == 0 && apply(p, kind, before, doc, problem) < 0)
        fm_log(FM_LOG_ERROR, FM_NETWORK_MANAGER, "The %s %s: %s.", kind, key, problem->text);
    return rc;
}

int fm_replica_learn(struct fm_components *p, const char *kind, const json_t *foreign,
                     struct fm_error *problem, struct fm_error *err)
{
    struct fm_error ignored = {0};
    json_auto_t *doc = clean(kind, foreign, err);
    if (!doc)
        return fm_error_result(err);
    fm_autofree char *key = fm_replica_key(kind, doc);
    pthread_mutex_lock(&p->networks->lock);
    int rc = take(p, kind, key, doc, problem ? problem : &ignored, err);
    pthread_mutex_unlock(&p->networks->lock);
    return rc;
}
