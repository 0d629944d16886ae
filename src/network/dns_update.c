#include "network/dns_update.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "network/dns_exchange.h"

/* ---- sets of records ---- */

void fm_dns_rrset_clear(struct fm_dns_rrset *set)
{
    fm_strv_free(&set->data);
    set->ttl = 0;
}

bool fm_dns_rrset_has(const struct fm_dns_rrset *set, const char *data)
{
    for (size_t i = 0; i < set->data.count; i++) {
        if (strcasecmp(set->data.items[i], data) == 0)
            return true;
    }
    return false;
}

bool fm_dns_rrset_same(const struct fm_dns_rrset *a, const struct fm_dns_rrset *b)
{
    if (a->data.count != b->data.count)
        return false;
    for (size_t i = 0; i < a->data.count; i++) {
        if (!fm_dns_rrset_has(b, a->data.items[i]))
            return false;
    }
    return true;
}

char *fm_dns_rrset_text(const struct fm_dns_rrset *set)
{
    const size_t shown = 8;
    char *text = fm_xstrdup(set->data.count ? set->data.items[0] : "nothing");
    for (size_t i = 1; i < set->data.count && i <= shown; i++) {
        fm_autofree char *shorter = text;
        text = fm_strf("%s %s", shorter, i < shown ? set->data.items[i] : "…");
    }
    return text;
}

const char *fm_dns_type_text(enum fm_dns_type type)
{
    switch (type) {
    case FM_DNS_A:
        return "A";
    case FM_DNS_AAAA:
        return "AAAA";
    case FM_DNS_PTR:
        return "PTR";
    }
    return "?";
}

/* ---- queries ---- */

static ldns_rdf *make_name(const char *name, struct fm_error *err)
{
    ldns_rdf *rdf = ldns_dname_new_frm_str(name);
    if (!rdf)
        fm_error_set(err, FM_E_INVALID, "'%s' is no name", name);
    return rdf;
}

/* A verified answer of the primary server, NOERROR or NXDOMAIN. */
static int ask(const struct fm_dns_server *server, const char *zone, const char *name,
               ldns_rr_type type, uint64_t deadline_ms, ldns_pkt **reply, struct fm_error *err)
{
    ldns_rdf *owner = make_name(name, err);
    if (!owner)
        return fm_error_result(err);
    fm_autopkt ldns_pkt *request = ldns_pkt_query_new(owner, type, LDNS_RR_CLASS_IN, 0);
    fm_autopkt ldns_pkt *answer = NULL;
    int rc = fm_dns_exchange(server, request, deadline_ms, &answer, err);
    if (rc < 0)
        return fm_dns_blame(server, zone, err);
    ldns_pkt_rcode rcode = ldns_pkt_get_rcode(answer);
    if (rcode != LDNS_RCODE_NOERROR && rcode != LDNS_RCODE_NXDOMAIN) {
        fm_dns_rcode_error(server, LDNS_PACKET_QUERY, rcode, err);
        return fm_dns_blame(server, zone, err);
    }
    if (!ldns_pkt_aa(answer)) {
        fm_error_set(err, FM_E_INVALID,
                     "it has not got this zone itself: name the zone's primary server in "
                     "network.dns.server, or correct network.dns.zone and .reverse_zones");
        return fm_dns_blame(server, zone, err);
    }
    *reply = FM_MOVE(answer);
    return 0;
}

static int take_record(const ldns_rr *rr, struct fm_dns_rrset *set, struct fm_error *err)
{
    if (set->data.count >= FM_DNS_MAX_RECORDS)
        return fm_error_set(err, FM_E_PROTOCOL, "more than %d records", FM_DNS_MAX_RECORDS);
    fm_autofree char *data = ldns_rdf2str(ldns_rr_rdf(rr, 0));
    if (!data)
        return fm_error_set(err, FM_E_PROTOCOL, "a record that cannot be read");
    /* One TTL per set is the rule (RFC 2181, 5.2); the lowest counts where it is broken. */
    if (set->data.count == 0 || ldns_rr_ttl(rr) < set->ttl)
        set->ttl = ldns_rr_ttl(rr);
    if (!fm_dns_rrset_has(set, data))
        fm_strv_add(&set->data, data);
    return 0;
}

static int compare_data(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int fm_dns_query(const struct fm_dns_server *server, const char *zone, const char *name,
                 enum fm_dns_type type, uint64_t deadline_ms, struct fm_dns_rrset *set,
                 struct fm_error *err)
{
    fm_autopkt ldns_pkt *reply = NULL;
    int rc = ask(server, zone, name, (ldns_rr_type)type, deadline_ms, &reply, err);
    if (rc < 0)
        return rc;
    fm_dns_rrset_clear(set);
    const ldns_rr_list *answer = ldns_pkt_answer(reply);
    const ldns_rdf *owner = ldns_rr_owner(ldns_rr_list_rr(ldns_pkt_question(reply), 0));
    for (size_t i = 0; rc == 0 && i < ldns_rr_list_rr_count(answer); i++) {
        const ldns_rr *rr = ldns_rr_list_rr(answer, i);
        if (ldns_rr_get_class(rr) != LDNS_RR_CLASS_IN || ldns_rr_rd_count(rr) != 1 ||
            ldns_dname_compare(ldns_rr_owner(rr), owner) != 0)
            continue;
        if (ldns_rr_get_type(rr) == LDNS_RR_TYPE_CNAME)
            rc = fm_error_set(err, FM_E_EXISTS, "%s is an alias (CNAME)", name);
        else if (ldns_rr_get_type(rr) == (ldns_rr_type)type)
            rc = take_record(rr, set, err);
    }
    if (rc == 0) {
        /* Servers answer in any order; errors and the journal do not. */
        if (set->data.count)
            qsort(set->data.items, set->data.count, sizeof(*set->data.items), compare_data);
        return 0;
    }
    fm_dns_rrset_clear(set);
    return fm_dns_blame(server, zone, err);
}

int fm_dns_check_zone(const struct fm_dns_server *server, const char *zone, uint64_t deadline_ms,
                      struct fm_error *err)
{
    fm_autopkt ldns_pkt *reply = NULL;
    int rc = ask(server, zone, zone, LDNS_RR_TYPE_SOA, deadline_ms, &reply, err);
    if (rc < 0)
        return rc;
    const ldns_rr *rr = ldns_rr_list_rr(ldns_pkt_answer(reply), 0);
    if (rr && ldns_rr_get_type(rr) == LDNS_RR_TYPE_SOA)
        return 0;
    fm_error_set(err, FM_E_INVALID,
                 "it has the name but no zone that begins there: correct network.dns.zone and "
                 ".reverse_zones");
    return fm_dns_blame(server, zone, err);
}

/* ---- updates ---- */

/* A record for a section of an update; NULL `data`: without data, it stands for the whole set. */
static int push(ldns_pkt *pkt, ldns_pkt_section section, const struct fm_dns_change *change,
                ldns_rr_class class, uint32_t ttl, const char *data, struct fm_error *err)
{
    ldns_rdf *owner = make_name(change->name, err);
    if (!owner)
        return fm_error_result(err);
    ldns_rr *rr = ldns_rr_new();
    ldns_rr_set_owner(rr, owner);
    ldns_rr_set_type(rr, (ldns_rr_type)change->type);
    ldns_rr_set_class(rr, class);
    ldns_rr_set_ttl(rr, ttl);
    ldns_rdf *rdf = NULL;
    if (data) {
        rdf = ldns_rdf_new_frm_str(change->type == FM_DNS_A      ? LDNS_RDF_TYPE_A
                                   : change->type == FM_DNS_AAAA ? LDNS_RDF_TYPE_AAAA
                                                                 : LDNS_RDF_TYPE_DNAME,
                                   data);
        if (!rdf) {
            ldns_rr_free(rr);
            return fm_error_set(err, FM_E_INVALID, "'%s' cannot be data of a record %s", data,
                                fm_dns_type_text(change->type));
        }
        ldns_rr_push_rdf(rr, rdf);
    }
    ldns_pkt_push_rr(pkt, section, rr);
    return 0;
}

/* The set is exactly this one (RFC 2136, 2.4.2), or is not (2.4.3). */
static int push_prerequisite(ldns_pkt *pkt, const struct fm_dns_change *change,
                             struct fm_error *err)
{
    const struct fm_strv *data = &change->expected->data;
    if (data->count == 0)
        return push(pkt, LDNS_SECTION_ANSWER, change, LDNS_RR_CLASS_NONE, 0, NULL, err);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < data->count; i++)
        rc = push(pkt, LDNS_SECTION_ANSWER, change, LDNS_RR_CLASS_IN, 0, data->items[i], err);
    return rc;
}

/* Takes the whole set away and adds the new one: servers differ in what an added record with
 * another TTL does to the rest. Safe, because the prerequisite says what is taken away. */
static int push_change(ldns_pkt *pkt, const struct fm_dns_change *change, struct fm_error *err)
{
    const struct fm_strv *data = &change->wanted->data;
    int rc = 0;
    if (change->expected->data.count)
        rc = push(pkt, LDNS_SECTION_AUTHORITY, change, LDNS_RR_CLASS_ANY, 0, NULL, err);
    for (size_t i = 0; rc == 0 && i < data->count; i++)
        rc = push(pkt, LDNS_SECTION_AUTHORITY, change, LDNS_RR_CLASS_IN, change->wanted->ttl,
                  data->items[i], err);
    return rc;
}

static int make_update(const char *zone, const struct fm_dns_change *changes, size_t count,
                       ldns_pkt **made, struct fm_error *err)
{
    ldns_rdf *name = make_name(zone, err);
    if (!name)
        return fm_error_result(err);
    fm_autopkt ldns_pkt *pkt = ldns_pkt_query_new(name, LDNS_RR_TYPE_SOA, LDNS_RR_CLASS_IN, 0);
    ldns_pkt_set_opcode(pkt, LDNS_PACKET_UPDATE);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = push_prerequisite(pkt, &changes[i], err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (changes[i].wanted)
            rc = push_change(pkt, &changes[i], err);
    }
    if (rc == 0)
        *made = FM_MOVE(pkt);
    return rc;
}

int fm_dns_update(const struct fm_dns_server *server, const char *zone,
                  const struct fm_dns_change *changes, size_t count, uint64_t deadline_ms,
                  struct fm_error *err)
{
    fm_autopkt ldns_pkt *request = NULL, *reply = NULL;
    int rc = make_update(zone, changes, count, &request, err);
    if (rc == 0)
        rc = fm_dns_exchange(server, request, deadline_ms, &reply, err);
    if (rc == 0) {
        ldns_pkt_rcode rcode = ldns_pkt_get_rcode(reply);
        if (rcode == LDNS_RCODE_NOERROR)
            return 0;
        if (rcode == LDNS_RCODE_NXRRSET || rcode == LDNS_RCODE_YXRRSET ||
            rcode == LDNS_RCODE_NXDOMAIN || rcode == LDNS_RCODE_YXDOMAIN)
            fm_error_set(err, FM_E_EXISTS, "a prerequisite does not hold (%s)",
                         rcode == LDNS_RCODE_YXRRSET ? "YXRRSET" : "NXRRSET");
        else
            fm_dns_rcode_error(server, LDNS_PACKET_UPDATE, rcode, err);
    }
    return fm_dns_blame(server, zone, err);
}
