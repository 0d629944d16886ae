#include "migration/witness.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "migration/readdress.h"
#include "wire/frame.h"

#define WITNESSES_MAX 3
#define ASK_MS 4000 /* of all of them */
#define CONNECT_TIMEOUT_MS 1000
#define ANSWER_TIMEOUT_MS 5000

static int find(struct fm_components *p, const json_t *body, const char *ip, uint64_t *latency_us,
                struct fm_error *err)
{
    const char *network = json_string_value(json_object_get(body, "network"));
    const char *mac = json_string_value(json_object_get(body, "mac"));
    uint64_t took_us = 0;
    if (!network || !ip || !mac)
        return fm_error_set(err, FM_E_PROTOCOL,
                            "a question for an address without network, ip or mac");
    if (!p->network.ops->reach)
        return fm_error_set(err, FM_E_REFUSED, "this host cannot look for addresses");
    int rc = p->network.ops->reach(p->network.ctx, network, ip, mac, &took_us, err);
    if (took_us > *latency_us)
        *latency_us = took_us;
    return rc;
}

json_t *fm_witness_answer(struct fm_components *p, const json_t *body, struct fm_error *err)
{
    const char *ip6 = json_string_value(json_object_get(body, "ip6"));
    uint64_t latency_us = 0;
    int rc = find(p, body, json_string_value(json_object_get(body, "ip")), &latency_us, err);
    if (rc == 0 && ip6 && *ip6)
        rc = find(p, body, ip6, &latency_us, err);
    return rc < 0 ? NULL : json_pack("{s:I}", "latency_us", (json_int_t)latency_us);
}

static json_t *question(const struct fm_migration *m)
{
    const struct fm_endpoint *ep = fm_readdress_endpoint(m);
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "op", "reach", "network", ep->network, "ip",
                     ep->ip, "ip6", ep->ip6, "mac", ep->mac);
}

/* One that does not hear the question, does not know it, or has no eyes of its own at the moment
 * (FM_E_REFUSED) is no witness. */
static bool is_verdict(const struct fm_error *err)
{
    return err->code == FM_E_UNREACHABLE || err->code == FM_E_FAILED;
}

/* 1: it finds the container, 0: it does not, negative: it says nothing of it. */
static int ask_host(struct fm_migration *m, const struct fm_host *host, struct fm_error *err)
{
    const struct fm_links *links = &m->parts->links;
    struct fm_error e = {0};
    struct fm_link *link = links->ops->open(links->ctx, host, 0, CONNECT_TIMEOUT_MS, &e);
    if (!link) {
        fm_debug(FM_NETWORK_MANAGER, "Host %s is not asked: %s.", host->name, e.text);
        return -1;
    }
    json_auto_t *body = question(m);
    json_auto_t *answer = links->ops->call(link, FM_FRAME_FABRIC, body, ANSWER_TIMEOUT_MS, &e);
    links->ops->close(link);
    if (answer) {
        fm_info(FM_NETWORK_MANAGER, "Host %s finds %s in %.1f ms.", host->name,
                m->options.container,
                (double)json_integer_value(json_object_get(answer, "latency_us")) / 1000);
        return 1;
    }
    if (!is_verdict(&e)) {
        fm_info(FM_NETWORK_MANAGER, "Host %s cannot tell whether it finds %s: %s.", host->name,
                m->options.container, e.text);
        return -1;
    }
    fm_error_set(err, FM_E_FAILED, "host '%s' does not find '%s': %s", host->name,
                 m->options.container, e.text);
    return 0;
}

/* The same of this host. */
static int ask_self(struct fm_migration *m, struct fm_error *err)
{
    struct fm_error e = {0};
    json_auto_t *body = question(m);
    json_auto_t *answer = fm_witness_answer(m->parts, body, &e);
    if (answer)
        return 1;
    if (!is_verdict(&e))
        return -1;
    fm_error_set(err, FM_E_FAILED, "host '%s' does not find '%s': %s", m->parts->host,
                 m->options.container, e.text);
    return 0;
}

/* One alone may have troubles of its own: this host has a say as well. */
static int judge(struct fm_migration *m, unsigned asked, const struct fm_error *denied,
                 struct fm_error *err)
{
    int found = asked < 2 ? ask_self(m, err) : 0;
    if (found > 0 && asked)
        fm_warn(FM_NETWORK_MANAGER, "%s.", denied->text);
    if (found > 0 || (found < 0 && !asked))
        return 0;
    if (asked && err)
        *err = *denied;
    return -FM_E_FAILED;
}

int fm_witness_ask(struct fm_migration *m, struct fm_error *err)
{
    const struct fm_store *store = &m->parts->store;
    json_auto_t *hosts = store->ops->list(store->ctx, "host", NULL);
    struct fm_error denied = {0};
    uint64_t until = fm_now_ms() + ASK_MS;
    unsigned asked = 0;
    size_t i;
    json_t *doc;
    if (!m->has_endpoint)
        return 0;
    json_array_foreach(hosts, i, doc)
    {
        struct fm_host host;
        if (asked == WITNESSES_MAX || fm_now_ms() >= until ||
            fm_host_from_json(doc, &host, NULL) < 0 || fm_streq(host.name, m->parts->host) ||
            fm_streq(host.name, m->destination.name) || fm_json_has(m->untold, host.name))
            continue; /* the untold have just not answered, and send elsewhere */
        int found = ask_host(m, &host, &denied);
        if (found > 0)
            return 0;
        asked += found == 0;
    }
    return judge(m, asked, &denied, err);
}
