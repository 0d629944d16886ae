#include "network/dns_read.h"

#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "network/dns_exchange.h"

/* What there is of one of the two families. */
struct family {
    enum fm_dns_type type;
    struct fm_ip old_ip, new_ip; /* family 0: none */
    struct fm_dns_rrset now;     /* at the container's name */
    bool changes;
    bool is_ours; /* the old address is in there */
};

enum { IPV4, IPV6, FAMILIES };

/* A network with IPv6 only has it in the first place: what counts is the address. */
static int take_address(struct family families[FAMILIES], const char *text, bool is_new,
                        struct fm_error *err)
{
    struct fm_ip ip;
    if (!text[0])
        return 0;
    int rc = fm_ip_parse("address of the container", text, &ip, err);
    if (rc < 0)
        return rc;
    struct family *f = &families[ip.family == AF_INET6 ? IPV6 : IPV4];
    *(is_new ? &f->new_ip : &f->old_ip) = ip;
    return 0;
}

static int take_addresses(struct family families[FAMILIES], const struct fm_move *move,
                          struct fm_error *err)
{
    int rc = take_address(families, move->old_ip, false, err);
    if (rc == 0)
        rc = take_address(families, move->old_ip6, false, err);
    if (rc == 0)
        rc = take_address(families, move->new_ip, true, err);
    if (rc == 0)
        rc = take_address(families, move->new_ip6, true, err);
    for (int i = 0; i < FAMILIES; i++) {
        families[i].type = i == IPV6 ? FM_DNS_AAAA : FM_DNS_A;
        families[i].changes = !fm_ip_equal(&families[i].old_ip, &families[i].new_ip);
    }
    return rc;
}

static int query(const struct fm_dns_reading *r, const char *zone, const char *name,
                 enum fm_dns_type type, struct fm_dns_rrset *set, struct fm_error *err)
{
    return fm_dns_query(r->server, zone, name, type, r->deadline_ms, set, err);
}

static int read_forward(const struct fm_dns_reading *r, struct family families[FAMILIES],
                        struct fm_error *err)
{
    for (int i = 0; i < FAMILIES; i++) {
        struct family *f = &families[i];
        char text[FM_IP_TEXT];
        int rc = query(r, r->zone, r->name, f->type, &f->now, err);
        if (rc < 0)
            return rc;
        if (f->now.data.count)
            f->now.ttl = r->ttl_outside(r->ttl_ctx, r->name, f->type, f->now.ttl);
        f->is_ours = f->old_ip.family && fm_dns_rrset_has(&f->now, fm_ip_format(&f->old_ip, text));
    }
    return 0;
}

/* `before` without one record and with another; NULL: none. */
static void exchange(struct fm_dns_entry *entry, const struct fm_dns_rrset *before,
                     const char *gone, const char *come, uint32_t ttl_of_new_set)
{
    entry->before.ttl = before->ttl;
    for (size_t i = 0; i < before->data.count; i++) {
        const char *data = before->data.items[i];
        fm_strv_add(&entry->before.data, data);
        if (!gone || strcasecmp(data, gone) != 0)
            fm_strv_add(&entry->after.data, data);
    }
    if (come && !fm_dns_rrset_has(&entry->after, come))
        fm_strv_add(&entry->after.data, come);
    entry->after.ttl = before->data.count ? before->ttl : ttl_of_new_set;
}

static void plan_forward(const struct fm_dns_reading *r, const struct family *f,
                         uint32_t ttl_of_new_set, struct fm_dns_plan *plan)
{
    struct fm_dns_entry *entry = fm_dns_plan_add(plan, r->zone, r->name, f->type);
    char gone[FM_IP_TEXT], come[FM_IP_TEXT];
    if (entry)
        exchange(entry, &f->now, f->old_ip.family ? fm_ip_format(&f->old_ip, gone) : NULL,
                 f->new_ip.family ? fm_ip_format(&f->new_ip, come) : NULL, ttl_of_new_set);
}

/* The name of one address. *ttl: of the set that is there; of the one that is made, if none is. */
static int plan_reverse(const struct fm_dns_reading *r, const struct fm_ip *ip, bool is_new,
                        uint32_t *ttl, struct fm_dns_plan *plan, struct fm_error *err)
{
    char name[FM_DNS_NAME_TEXT];
    if (!ip->family)
        return 0;
    fm_dns_name_of_address(ip, name);
    const char *zone = fm_dns_name_zone(name, r->reverse_zones);
    if (!zone)
        return 0;
    struct fm_dns_rrset now = {0};
    int rc = query(r, zone, name, FM_DNS_PTR, &now, err);
    if (rc == 0 && fm_dns_rrset_has(&now, r->name) != is_new) {
        struct fm_dns_entry *entry = fm_dns_plan_add(plan, zone, name, FM_DNS_PTR);
        if (entry)
            exchange(entry, &now, is_new ? NULL : r->name, is_new ? r->name : NULL, *ttl);
        if (!is_new)
            *ttl = now.ttl;
    }
    fm_dns_rrset_clear(&now);
    return rc;
}

/* A family that comes in has the TTL of the other one, a PTR that of the PTR that goes. */
static int plan_family(const struct fm_dns_reading *r, const struct family *f, uint32_t ttl,
                       struct fm_dns_plan *plan, struct fm_error *err)
{
    if (f->now.data.count)
        ttl = f->now.ttl;
    plan_forward(r, f, ttl, plan);
    int rc = plan_reverse(r, &f->old_ip, false, &ttl, plan, err);
    return rc < 0 ? rc : plan_reverse(r, &f->new_ip, true, &ttl, plan, err);
}

/* The error or, for a name that nobody wrote down, the line in the log. */
static int not_ours(const struct fm_dns_reading *r, const struct fm_move *move,
                    const struct family families[FAMILIES], struct fm_error *err)
{
    fm_autofree char *a = fm_dns_rrset_text(&families[IPV4].now);
    fm_autofree char *aaaa = fm_dns_rrset_text(&families[IPV6].now);
    fm_autofree char *what =
        fm_strf("%s has A %s and AAAA %s, not the address of container '%s', %s%s%s", r->name, a,
                aaaa, move->container, move->old_ip, move->old_ip6[0] ? " or " : "", move->old_ip6);
    if (r->is_configured)
        return fm_error_set(err, FM_E_REFUSED,
                            "DNS server %s: %s: correct the record, or take the name out of "
                            "network.dns.names",
                            r->server->text, what);
    fm_info(FM_NETWORK_MANAGER, "The DNS stays as it is: %s.", what);
    return 0;
}

static int check_zones(const struct fm_dns_reading *r, const struct fm_dns_plan *plan,
                       struct fm_error *err)
{
    const char *last = r->zone; /* checked first of all */
    for (size_t i = 0; i < plan->count; i++) {
        const char *zone = plan->entries[i].zone;
        if (fm_streq(zone, last) || fm_streq(zone, r->zone))
            continue;
        int rc = fm_dns_check_zone(r->server, zone, r->deadline_ms, err);
        if (rc < 0)
            return rc;
        last = zone;
    }
    return 0;
}

static int plan_all(const struct fm_dns_reading *r, const struct fm_move *move,
                    const struct family families[FAMILIES], struct fm_dns_plan *plan,
                    struct fm_error *err)
{
    if (!families[IPV4].is_ours && !families[IPV6].is_ours)
        return not_ours(r, move, families, err);
    const struct family *leading = &families[families[IPV4].is_ours ? IPV4 : IPV6];
    int rc = 0;
    for (int i = 0; rc == 0 && i < FAMILIES; i++) {
        /* An old address which is not in the DNS is none of ours: its owner wants it so. */
        const struct family *f = &families[i];
        if (f->changes && (f->is_ours || !f->old_ip.family))
            rc = plan_family(r, f, leading->now.ttl, plan, err);
    }
    return rc < 0 ? rc : check_zones(r, plan, err);
}

int fm_dns_read(const struct fm_dns_reading *r, const struct fm_move *move,
                struct fm_dns_plan *plan, struct fm_error *err)
{
    struct family families[FAMILIES] = {0};
    int rc = take_addresses(families, move, err);
    if (rc < 0 || (!families[IPV4].changes && !families[IPV6].changes))
        return rc;
    rc = fm_dns_check_zone(r->server, r->zone, r->deadline_ms, err);
    if (rc == 0)
        rc = read_forward(r, families, err);
    if (rc == 0)
        rc = plan_all(r, move, families, plan, err);
    for (int i = 0; i < FAMILIES; i++)
        fm_dns_rrset_clear(&families[i].now);
    return rc;
}
