/* What the hosts tell each other of their documents. */
#include "migration/networks_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "wire/frame.h"

#define OPEN_TIMEOUT_MS 1000
#define CALL_TIMEOUT_MS 5000
#define PAGE 100 /* documents in a frame: well below its limit */
#define PAGES_MAX 1000
#define PAUSE_MIN_MS 500
#define PAUSE_MAX_MS 10000

static const char *const kinds[] = {FM_KIND_NETWORK, FM_KIND_LEASE}; /* leases need their network */

/* --- members --- */

/* With the lock held. */
static struct fm_member *member(struct fm_networks *n, const char *name)
{
    struct fm_member *m = n->members;
    while (m && !fm_streq(m->name, name))
        m = m->next;
    if (m)
        return m;
    m = fm_xcalloc(1, sizeof(*m));
    snprintf(m->name, sizeof(m->name), "%s", name);
    m->next = n->members;
    return n->members = m;
}

static void expect(struct fm_member *m)
{
    m->met = false;
    m->retry_ms = m->pause_ms = 0;
}

void fm_networks_meet(struct fm_components *p, const char *host)
{
    struct fm_networks *n = p->networks;
    if (!n)
        return;
    pthread_mutex_lock(&n->lock);
    if (host)
        expect(member(n, host));
    for (struct fm_member *m = host ? NULL : n->members; m; m = m->next)
        expect(m);
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->lock);
}

void fm_networks_heard(struct fm_components *p, const char *host)
{
    struct fm_networks *n = p->networks;
    if (!n)
        return;
    pthread_mutex_lock(&n->lock);
    for (struct fm_member *m = n->members; m; m = m->next)
        if (!m->met && fm_streq(m->name, host)) {
            expect(m);
            pthread_cond_broadcast(&n->changed);
        }
    pthread_mutex_unlock(&n->lock);
}

static void note_met(struct fm_components *p, const char *host, bool met)
{
    pthread_mutex_lock(&p->networks->lock);
    struct fm_member *m = member(p->networks, host);
    m->met = met;
    uint64_t pause = m->pause_ms * 2 < PAUSE_MIN_MS ? PAUSE_MIN_MS : m->pause_ms * 2;
    m->pause_ms = met ? 0 : pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS;
    m->retry_ms = met ? 0 : fm_now_ms() + m->pause_ms;
    pthread_mutex_unlock(&p->networks->lock);
}

bool fm_replica_has_met(struct fm_components *p, const char *host)
{
    pthread_mutex_lock(&p->networks->lock);
    bool met = member(p->networks, host)->met;
    pthread_mutex_unlock(&p->networks->lock);
    return met;
}

json_t *fm_replica_hosts(struct fm_components *p)
{
    json_auto_t *all = p->store.ops->list(p->store.ctx, "host", NULL);
    json_t *others = json_array(), *doc;
    size_t i;
    json_array_foreach(all, i, doc) if (!fm_streq(fm_json_text(doc, "name"), p->host))
        json_array_append(others, doc);
    return others;
}

/* --- asking --- */

static struct fm_link *open_link(struct fm_components *p, const struct fm_host *host,
                                 struct fm_error *err)
{
    struct fm_link *link = p->links.ops->open(p->links.ctx, host, 0, OPEN_TIMEOUT_MS, err);
    if (!link)
        note_met(p, host->name, false);
    return link;
}

static json_t *call(struct fm_components *p, struct fm_link *link, const json_t *body,
                    struct fm_error *err)
{
    return p->links.ops->call(link, FM_FRAME_FABRIC, body, CALL_TIMEOUT_MS, err);
}

json_t *fm_replica_ask(struct fm_components *p, const struct fm_host *host, const json_t *body,
                       struct fm_error *err)
{
    struct fm_link *link = open_link(p, host, err);
    if (!link)
        return NULL;
    json_t *answer = call(p, link, body, err);
    p->links.ops->close(link);
    if (!answer)
        note_met(p, host->name, false);
    return answer;
}

/* --- telling --- */

static void add_problems(const char *host, const json_t *answer, json_t *problems)
{
    size_t i;
    json_t *problem;
    json_array_foreach(json_object_get(answer, "problems"), i, problem)
    {
        fm_warn(FM_NETWORK_MANAGER, "On host %s: %.500s.", host, json_string_value(problem));
        if (problems && json_is_string(problem))
            json_array_append_new(problems,
                                  json_sprintf("%s: %.500s", host, json_string_value(problem)));
    }
}

/* One frame of {"kind","document"}; empties the list. */
static int send_page(struct fm_components *p, struct fm_link *link, const char *host, json_t *page,
                     json_t *problems, struct fm_error *err)
{
    if (!json_array_size(page))
        return 0;
    json_auto_t *body = json_pack("{s:s, s:O}", "op", "learn", "documents", page);
    json_auto_t *answer = call(p, link, body, err);
    if (!answer)
        return fm_error_result(err);
    add_problems(host, answer, problems);
    return json_array_clear(page);
}

static void add_to_page(json_t *page, const char *kind, json_t *doc)
{
    json_array_append_new(page, json_pack("{s:s, s:O}", "kind", kind, "document", doc));
}

static int tell_all(struct fm_components *p, struct fm_link *link, const char *host,
                    json_t *problems, struct fm_error *err)
{
    json_auto_t *page = json_array();
    int rc = 0;
    for (size_t k = 0; k < FM_COUNT(kinds) && rc == 0; k++) {
        json_auto_t *docs = p->store.ops->list(p->store.ctx, kinds[k], err);
        size_t i;
        json_t *doc;
        if (!docs)
            return fm_error_result(err);
        json_array_foreach(docs, i, doc)
        {
            add_to_page(page, kinds[k], doc);
            if (rc == 0 && json_array_size(page) == PAGE)
                rc = send_page(p, link, host, page, problems, err);
        }
    }
    return rc < 0 ? rc : send_page(p, link, host, page, problems, err);
}

/* The documents that `untold` names, networks first. */
static json_t *load_untold(struct fm_components *p, json_t *untold)
{
    json_t *docs = json_array(), *value;
    const char *entry;
    for (size_t k = 0; k < FM_COUNT(kinds); k++)
        json_object_foreach(untold, entry, value)
        {
            size_t len = strlen(kinds[k]);
            if (strncmp(entry, kinds[k], len) != 0 || entry[len] != ' ')
                continue;
            json_auto_t *doc = p->store.ops->get(p->store.ctx, kinds[k], entry + len + 1, NULL);
            if (doc)
                add_to_page(docs, kinds[k], doc);
        }
    return docs;
}

static int tell_untold(struct fm_components *p, struct fm_link *link, const char *host,
                       const json_t *docs, json_t *problems, struct fm_error *err)
{
    json_auto_t *page = json_array();
    size_t i;
    json_t *doc;
    int rc = 0;
    json_array_foreach(docs, i, doc)
    {
        json_array_append(page, doc);
        if (rc == 0 && json_array_size(page) == PAGE)
            rc = send_page(p, link, host, page, problems, err);
    }
    return rc < 0 ? rc : send_page(p, link, host, page, problems, err);
}

/* --- the exchange --- */

/* One sum over who wrote which document when. */
static json_t *digest(struct fm_components *p, struct fm_error *err)
{
    json_auto_t *lines = json_array();
    char hex[33];
    uint8_t sum[16];
    for (size_t k = 0; k < FM_COUNT(kinds); k++) {
        json_auto_t *docs = p->store.ops->list(p->store.ctx, kinds[k], err);
        size_t i;
        json_t *doc;
        if (!docs)
            return NULL;
        json_array_foreach(docs, i, doc)
        {
            fm_autofree char *key = fm_replica_key(kinds[k], doc);
            json_array_append_new(lines, json_pack("[s, s?, O?, s]", kinds[k], key,
                                                   json_object_get(doc, "updated_us"),
                                                   fm_json_text(doc, "updated_by")));
        }
    }
    fm_autofree char *all = json_dumps(lines, JSON_COMPACT);
    fm_frame_checksum(all ? all : "", all ? strlen(all) : 0, sum);
    for (size_t i = 0; i < sizeof(sum); i++)
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    return json_string(hex);
}

static int is_equal_there(struct fm_components *p, struct fm_link *link, bool *equal,
                          struct fm_error *err)
{
    json_auto_t *mine = digest(p, err);
    json_auto_t *body = mine ? json_pack("{s:s, s:O}", "op", "sync", "digest", mine) : NULL;
    json_auto_t *answer = body ? call(p, link, body, err) : NULL;
    *equal = answer && json_equal(mine, json_object_get(answer, "digest"));
    return answer ? 0 : fm_error_result(err);
}

static void learn_page(struct fm_components *p, const char *host, const json_t *docs)
{
    size_t i;
    json_t *entry;
    json_array_foreach(docs, i, entry)
    {
        struct fm_error err = {0};
        const json_t *doc = json_object_get(entry, "document");
        if (fm_replica_learn(p, fm_json_text(entry, "kind"), doc, NULL, &err) < 0)
            fm_warn(FM_NETWORK_MANAGER, "A document of host %s is not taken over: %s.", host,
                    err.text);
    }
}

static int hear_all(struct fm_components *p, struct fm_link *link, const char *host,
                    struct fm_error *err)
{
    json_auto_t *at = json_pack("{s:s, s:s}", "kind", kinds[0], "after", "");
    for (int i = 0; i < PAGES_MAX && at; i++) {
        json_object_set_new(at, "op", json_string("documents"));
        json_auto_t *answer = call(p, link, at, err);
        if (!answer)
            return fm_error_result(err);
        learn_page(p, host, json_object_get(answer, "documents"));
        json_decref(at);
        at = json_incref(json_object_get(answer, "next"));
    }
    return 0;
}

static int exchange(struct fm_components *p, struct fm_link *link, const char *host,
                    json_t *problems, struct fm_error *err)
{
    bool equal = false;
    int rc = is_equal_there(p, link, &equal, err);
    if (rc == 0 && !equal)
        rc = tell_all(p, link, host, problems, err);
    if (rc == 0 && !equal)
        rc = hear_all(p, link, host, err);
    return rc;
}

/* --- a pass --- */

enum need { NOTHING, UNTOLD, ALL };

static enum need need_of(struct fm_components *p, const char *host, const json_t *untold)
{
    pthread_mutex_lock(&p->networks->lock);
    const struct fm_member *m = member(p->networks, host);
    bool met = m->met, due = fm_now_ms() >= m->retry_ms;
    pthread_mutex_unlock(&p->networks->lock);
    if (!met)
        return due ? ALL : NOTHING;
    return json_array_size(untold) ? UNTOLD : NOTHING;
}

static void visit(struct fm_components *p, const struct fm_host *host, const json_t *untold,
                  json_t *problems)
{
    enum need need = need_of(p, host->name, untold);
    struct fm_error err = {0};
    struct fm_link *link = need ? open_link(p, host, &err) : NULL;
    if (!link)
        return;
    int rc = need == ALL ? exchange(p, link, host->name, problems, &err)
                         : tell_untold(p, link, host->name, untold, problems, &err);
    p->links.ops->close(link);
    note_met(p, host->name, rc == 0);
    if (rc < 0)
        fm_debug(FM_NETWORK_MANAGER, "Networks of host %s: %s.", host->name, err.text);
}

void fm_replica_pass(struct fm_components *p, json_t *problems)
{
    struct fm_networks *n = p->networks;
    pthread_mutex_lock(&n->passing);
    pthread_mutex_lock(&n->lock);
    json_auto_t *entries = n->untold;
    n->untold = json_object();
    pthread_mutex_unlock(&n->lock);
    json_auto_t *untold = load_untold(p, entries);
    json_auto_t *hosts = fm_replica_hosts(p);
    size_t i;
    json_t *doc;
    json_array_foreach(hosts, i, doc)
    {
        struct fm_host host;
        if (fm_host_from_json(doc, &host, NULL) == 0)
            visit(p, &host, untold, problems);
    }
    pthread_mutex_unlock(&n->passing);
}

void fm_replica_catch_up(struct fm_components *p)
{
    fm_networks_meet(p, NULL);
    fm_replica_pass(p, NULL);
}

/* --- answering --- */

static json_t *answer_learn(struct fm_components *p, const json_t *body, struct fm_error *err)
{
    const json_t *docs = json_object_get(body, "documents");
    json_auto_t *problems = json_array();
    size_t i;
    json_t *entry;
    if (!json_is_array(docs) || json_array_size(docs) > PAGE) {
        fm_error_set(err, FM_E_PROTOCOL, "FABRIC learn without at most %d documents", PAGE);
        return NULL;
    }
    json_array_foreach(docs, i, entry)
    {
        struct fm_error problem = {0}, e = {0};
        if (fm_replica_learn(p, fm_json_text(entry, "kind"), json_object_get(entry, "document"),
                             &problem, &e) < 0)
            problem = e;
        if (problem.code)
            json_array_append_new(problems, json_string(problem.text));
    }
    return json_pack("{s:O}", "problems", problems);
}

/* One page from a key on, and where the next one begins. */
static json_t *answer_documents(struct fm_components *p, const json_t *body, struct fm_error *err)
{
    json_auto_t *page = json_array();
    const char *after = fm_json_text(body, "after");
    size_t k = fm_streq(fm_json_text(body, "kind"), kinds[1]) ? 1 : 0, i;
    for (; k < FM_COUNT(kinds); k++, after = "") {
        json_auto_t *docs = p->store.ops->list(p->store.ctx, kinds[k], err);
        json_t *doc;
        if (!docs)
            return NULL;
        json_array_foreach(docs, i, doc)
        {
            fm_autofree char *key = fm_replica_key(kinds[k], doc);
            if (!key || strcmp(key, after) <= 0)
                continue;
            add_to_page(page, kinds[k], doc);
            if (json_array_size(page) == PAGE)
                return json_pack("{s:O, s:{s:s, s:s}}", "documents", page, "next", "kind", kinds[k],
                                 "after", key);
        }
    }
    return json_pack("{s:O}", "documents", page);
}

json_t *fm_replica_answer(struct fm_components *p, const char *op, const json_t *body,
                          struct fm_error *err)
{
    if (fm_streq(op, "learn"))
        return answer_learn(p, body, err);
    if (fm_streq(op, "documents"))
        return answer_documents(p, body, err);
    json_auto_t *mine = digest(p, err);
    return mine ? json_pack("{s:O}", "digest", mine) : NULL;
}
