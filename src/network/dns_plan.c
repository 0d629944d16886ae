#include "network/dns_plan.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "network/dns_exchange.h"

#define READ_ATTEMPTS 8 /* of an update that meets another one */

struct fm_dns_entry *fm_dns_plan_add(struct fm_dns_plan *plan, const char *zone, const char *name,
                                     enum fm_dns_type type)
{
    if (plan->count == FM_DNS_MAX_ENTRIES)
        return NULL;
    struct fm_dns_entry *entry = &plan->entries[plan->count++];
    *entry = (struct fm_dns_entry){.type = type};
    snprintf(entry->zone, sizeof(entry->zone), "%s", zone);
    snprintf(entry->name, sizeof(entry->name), "%s", name);
    return entry;
}

void fm_dns_plan_clear(struct fm_dns_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        fm_dns_rrset_clear(&plan->entries[i].before);
        fm_dns_rrset_clear(&plan->entries[i].after);
    }
    plan->count = 0;
}

/* ---- as JSON ---- */

static json_t *save_set(const struct fm_dns_rrset *set)
{
    json_t *data = json_array();
    for (size_t i = 0; i < set->data.count; i++)
        json_array_append_new(data, json_string(set->data.items[i]));
    return json_pack("{s:I, s:o}", "ttl", (json_int_t)set->ttl, "data", data);
}

json_t *fm_dns_plan_save(const struct fm_dns_plan *plan)
{
    json_t *records = json_array();
    for (size_t i = 0; i < plan->count; i++) {
        const struct fm_dns_entry *e = &plan->entries[i];
        json_array_append_new(records,
                              json_pack("{s:s, s:s, s:s, s:o, s:o}", "zone", e->zone, "name",
                                        e->name, "type", fm_dns_type_text(e->type), "before",
                                        save_set(&e->before), "after", save_set(&e->after)));
    }
    return json_pack("{s:o}", "records", records);
}

static int load_type(const char *text, enum fm_dns_type *type)
{
    static const enum fm_dns_type types[] = {FM_DNS_A, FM_DNS_AAAA, FM_DNS_PTR};
    for (size_t i = 0; i < FM_COUNT(types); i++) {
        if (fm_streq(text, fm_dns_type_text(types[i]))) {
            *type = types[i];
            return 0;
        }
    }
    return -1;
}

static int load_set(json_t *saved, struct fm_dns_rrset *set)
{
    json_int_t ttl = 0;
    json_t *data = NULL;
    if (json_unpack(saved, "{s:I, s:o}", "ttl", &ttl, "data", &data) < 0 || ttl < 0 ||
        ttl > UINT32_MAX || !json_is_array(data) || json_array_size(data) > FM_DNS_MAX_RECORDS)
        return -1;
    set->ttl = (uint32_t)ttl;
    for (size_t i = 0; i < json_array_size(data); i++) {
        const char *text = json_string_value(json_array_get(data, i));
        if (!text)
            return -1;
        fm_strv_add(&set->data, text);
    }
    return 0;
}

static int load_entry(json_t *saved, struct fm_dns_plan *plan)
{
    const char *zone = NULL, *name = NULL, *type_text = NULL;
    json_t *before = NULL, *after = NULL;
    enum fm_dns_type type = FM_DNS_A;
    char checked[FM_DNS_NAME_TEXT];
    struct fm_error ignored = {0};
    if (json_unpack(saved, "{s:s, s:s, s:s, s:o, s:o}", "zone", &zone, "name", &name, "type",
                    &type_text, "before", &before, "after", &after) < 0 ||
        load_type(type_text, &type) < 0 || fm_dns_name_parse("zone", zone, checked, &ignored) < 0 ||
        !fm_streq(zone, checked) || !fm_dns_name_in_zone(name, zone))
        return -1;
    struct fm_dns_entry *entry = fm_dns_plan_add(plan, zone, name, type);
    if (!entry || load_set(before, &entry->before) < 0)
        return -1;
    return load_set(after, &entry->after);
}

int fm_dns_plan_load(const json_t *saved, struct fm_dns_plan *plan, struct fm_error *err)
{
    const json_t *records = json_object_get(saved, "records");
    size_t count = json_array_size(records);
    int rc = json_is_array(records) ? 0 : -1;
    *plan = (struct fm_dns_plan){0};
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = load_entry(json_array_get(records, i), plan);
    if (rc == 0)
        return 0;
    fm_dns_plan_clear(plan);
    return fm_error_set(err, FM_E_INVALID,
                        "what the journal says about the DNS before the move cannot be read");
}

/* ---- one step in one zone ---- */

struct zone_step {
    const struct fm_dns_server *server;
    const char *zone;
    enum fm_dns_step step;
    uint32_t low_ttl;
    uint64_t deadline_ms;
    const struct fm_dns_entry *entries[FM_DNS_MAX_ENTRIES];
    struct fm_dns_rrset now[FM_DNS_MAX_ENTRIES]; /* as read */
    size_t count;
};

enum finding { DONE, READY, FOREIGN };
enum own { OWN_BEFORE, OWN_AFTER, OWN_LOST };

/* The record of a set that another one does not have: what the move takes away, or brings. */
static const char *lacking(const struct fm_dns_rrset *set, const struct fm_dns_rrset *other)
{
    for (size_t i = 0; i < set->data.count; i++) {
        if (!fm_dns_rrset_has(other, set->data.items[i]))
            return set->data.items[i];
    }
    return NULL;
}

static const char *gone_of(const struct fm_dns_entry *e)
{
    return lacking(&e->before, &e->after);
}

static const char *come_of(const struct fm_dns_entry *e)
{
    return lacking(&e->after, &e->before);
}

/* Where the container's own record is. Containers that share a name (round robin) may move at the
 * same time: their addresses are not looked at. The names of an address are ours altogether. */
static enum own own_state(const struct fm_dns_entry *e, const struct fm_dns_rrset *now)
{
    if (e->type == FM_DNS_PTR)
        return fm_dns_rrset_same(now, &e->before)  ? OWN_BEFORE
               : fm_dns_rrset_same(now, &e->after) ? OWN_AFTER
                                                   : OWN_LOST;
    const char *gone = gone_of(e), *come = come_of(e);
    bool has_gone = gone && fm_dns_rrset_has(now, gone);
    bool has_come = come && fm_dns_rrset_has(now, come);
    if ((!gone || has_gone) && !has_come)
        return OWN_BEFORE;
    return !has_gone && (!come || has_come) ? OWN_AFTER : OWN_LOST;
}

/* The TTL was low already when the move began: it is that of another move, which puts it right, or
 * somebody wants it so. */
static bool found_low(const struct zone_step *z, const struct fm_dns_entry *e)
{
    return e->before.data.count && e->before.ttl <= z->low_ttl;
}

static uint32_t wanted_ttl(const struct zone_step *z, const struct fm_dns_entry *e,
                           const struct fm_dns_rrset *now)
{
    uint32_t outside = e->after.ttl; /* of the move; the same before it, if there was a set */
    if (found_low(z, e) && now->data.count)
        return now->ttl;
    if (z->step == FM_DNS_FINISH || z->step == FM_DNS_UNDO)
        return outside;
    return outside < z->low_ttl ? outside : z->low_ttl;
}

/* What the step makes of a set; the caller clears *wanted. */
static void make_wanted(const struct zone_step *z, const struct fm_dns_entry *e,
                        const struct fm_dns_rrset *now, struct fm_dns_rrset *wanted)
{
    bool forth = z->step == FM_DNS_SWITCH || z->step == FM_DNS_FINISH;
    bool exchanges = z->step != FM_DNS_PREPARE;
    const char *old = forth ? gone_of(e) : come_of(e), *new = forth ? come_of(e) : gone_of(e);
    *wanted = (struct fm_dns_rrset){.ttl = wanted_ttl(z, e, now)};
    for (size_t i = 0; i < now->data.count; i++) {
        if (!exchanges || !old || strcasecmp(now->data.items[i], old) != 0)
            fm_strv_add(&wanted->data, now->data.items[i]);
    }
    if (exchanges && new && !fm_dns_rrset_has(wanted, new))
        fm_strv_add(&wanted->data, new);
}

static bool is_same_with_ttl(const struct fm_dns_rrset *a, const struct fm_dns_rrset *b)
{
    return fm_dns_rrset_same(a, b) && (a->ttl == b->ttl || a->data.count == 0);
}

/* The TTL outside of the move, or that of one. */
static bool has_ttl_of_move(const struct zone_step *z, const struct fm_dns_entry *e,
                            const struct fm_dns_rrset *now)
{
    return !now->data.count || now->ttl == e->after.ttl || now->ttl <= z->low_ttl ||
           found_low(z, e);
}

static bool is_ours(const struct zone_step *z, const struct fm_dns_entry *e,
                    const struct fm_dns_rrset *now)
{
    enum own own = own_state(e, now);
    switch (z->step) {
    case FM_DNS_PREPARE:
        return own == OWN_BEFORE;
    case FM_DNS_SWITCH:
        return own != OWN_LOST;
    case FM_DNS_FINISH:
        return own == OWN_AFTER && has_ttl_of_move(z, e, now);
    case FM_DNS_UNDO:
        break;
    }
    return own != OWN_LOST && has_ttl_of_move(z, e, now);
}

static enum finding judge(const struct zone_step *z, const struct fm_dns_entry *e,
                          const struct fm_dns_rrset *now, const struct fm_dns_rrset *wanted)
{
    if (!is_ours(z, e, now))
        return FOREIGN;
    if (z->step == FM_DNS_SWITCH && own_state(e, now) == OWN_AFTER)
        return DONE; /* with whichever TTL */
    return is_same_with_ttl(now, wanted) ? DONE : READY;
}

static int foreign_error(const struct zone_step *z, const struct fm_dns_entry *e,
                         const struct fm_dns_rrset *now, struct fm_error *err)
{
    const struct fm_dns_rrset *expected = z->step == FM_DNS_FINISH ? &e->after : &e->before;
    fm_autofree char *found = fm_dns_rrset_text(now);
    fm_autofree char *wanted = fm_dns_rrset_text(expected);
    fm_autofree char *found_ttl =
        now->data.count ? fm_strf(" with TTL %u", now->ttl) : fm_xstrdup("");
    fm_autofree char *wanted_ttl = z->step >= FM_DNS_FINISH && expected->data.count
                                       ? fm_strf(" with TTL %u", expected->ttl)
                                       : fm_xstrdup("");
    fm_autofree char *other =
        z->step == FM_DNS_UNDO ? fm_dns_rrset_text(&e->after) : fm_xstrdup("");
    return fm_error_set(
        err, FM_E_REFUSED,
        "%s %s is now %s%s, expected was %s%s%s%s: somebody else has changed it, so it stays: %s",
        e->name, fm_dns_type_text(e->type), found, found_ttl, wanted, wanted_ttl,
        other[0] ? " or " : "", other,
        z->step == FM_DNS_UNDO || z->step == FM_DNS_FINISH
            ? "correct it by hand where that is wrong"
            : "let changes by hand wait until the migration is over, and migrate again");
}

static int read_now(struct zone_step *z, struct fm_error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < z->count; i++)
        rc = fm_dns_query(z->server, z->zone, z->entries[i]->name, z->entries[i]->type,
                          z->deadline_ms, &z->now[i], err);
    return rc;
}

static void clear_sets(struct fm_dns_rrset *sets, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fm_dns_rrset_clear(&sets[i]);
}

/* The step from where it begins, without looking. */
static int update_blindly(const struct zone_step *z, struct fm_error *err)
{
    struct fm_dns_change changes[FM_DNS_MAX_ENTRIES];
    struct fm_dns_rrset wanted[FM_DNS_MAX_ENTRIES];
    for (size_t i = 0; i < z->count; i++) {
        const struct fm_dns_entry *e = z->entries[i];
        make_wanted(z, e, &e->before, &wanted[i]);
        bool is_same = is_same_with_ttl(&wanted[i], &e->before);
        changes[i] =
            (struct fm_dns_change){e->name, e->type, &e->before, is_same ? NULL : &wanted[i]};
    }
    int rc = fm_dns_update(z->server, z->zone, changes, z->count, z->deadline_ms, err);
    clear_sets(wanted, z->count);
    return rc;
}

/* Nothing that others may change meanwhile, unseen by the prerequisites, is written down again. */
static bool can_go_blindly(const struct zone_step *z)
{
    bool can = z->step == FM_DNS_PREPARE || z->step == FM_DNS_SWITCH;
    for (size_t i = 0; i < z->count; i++)
        can &= z->step == FM_DNS_PREPARE || !found_low(z, z->entries[i]);
    return can;
}

/* The step from what was read. *met: somebody else's update came between. */
static int update_what_is_left(const struct zone_step *z, bool *met, struct fm_error *err)
{
    struct fm_dns_change changes[FM_DNS_MAX_ENTRIES];
    struct fm_dns_rrset wanted[FM_DNS_MAX_ENTRIES];
    size_t count = 0, ready = 0;
    struct fm_error foreign = {0};
    int rc = 0;
    *met = false;
    for (size_t i = 0; i < z->count; i++) {
        const struct fm_dns_entry *e = z->entries[i];
        make_wanted(z, e, &z->now[i], &wanted[i]);
        enum finding finding = judge(z, e, &z->now[i], &wanted[i]);
        if (finding == FOREIGN) {
            if (!foreign.code)
                foreign_error(z, e, &z->now[i], &foreign);
            continue;
        }
        changes[count++] = (struct fm_dns_change){e->name, e->type, &z->now[i],
                                                  finding == READY ? &wanted[i] : NULL};
        ready += finding == READY;
    }
    if (ready && (!foreign.code || z->step == FM_DNS_UNDO)) {
        rc = fm_dns_update(z->server, z->zone, changes, count, z->deadline_ms, err);
        *met = rc == -FM_E_EXISTS;
    }
    clear_sets(wanted, z->count);
    if (rc < 0 || !foreign.code)
        return rc;
    if (err)
        *err = foreign;
    return fm_dns_blame(z->server, z->zone, err);
}

static int step_zone(struct zone_step *z, struct fm_error *err)
{
    if (can_go_blindly(z)) {
        int rc = update_blindly(z, err);
        if (rc != -FM_E_EXISTS)
            return rc;
    }
    for (int i = 0; i < READ_ATTEMPTS; i++) {
        bool met = false;
        int rc = read_now(z, err);
        if (rc == 0)
            rc = update_what_is_left(z, &met, err);
        if (!met)
            return rc;
    }
    fm_error_set(err, FM_E_REFUSED,
                 "it answers with the expected records but does not find them in the zone (a "
                 "wildcard, or another view for queries?): write them into the zone");
    return fm_dns_blame(z->server, z->zone, err);
}

/* ---- all zones ---- */

static bool is_first_of_zone(const struct fm_dns_plan *plan, size_t index)
{
    for (size_t i = 0; i < index; i++) {
        if (fm_streq(plan->entries[i].zone, plan->entries[index].zone))
            return false;
    }
    return true;
}

int fm_dns_plan_step(const struct fm_dns_server *server, const struct fm_dns_plan *plan,
                     enum fm_dns_step step, uint32_t low_ttl, uint64_t deadline_ms,
                     struct fm_error *err)
{
    int result = 0;
    for (size_t i = 0; i < plan->count; i++) {
        if (!is_first_of_zone(plan, i))
            continue;
        struct zone_step z = {
            .server = server,
            .zone = plan->entries[i].zone,
            .step = step,
            .low_ttl = low_ttl,
            .deadline_ms = deadline_ms,
        };
        for (size_t j = i; j < plan->count; j++) {
            if (fm_streq(plan->entries[j].zone, z.zone))
                z.entries[z.count++] = &plan->entries[j];
        }
        struct fm_error why = {0};
        int rc = step_zone(&z, &why);
        clear_sets(z.now, z.count);
        if (rc == 0)
            continue;
        if (result == 0 && err)
            *err = why;
        if (result == 0)
            result = rc;
        if (step != FM_DNS_UNDO || rc != -FM_E_REFUSED)
            break;
    }
    return result;
}
