#include "network/firewall.h"

#include <errno.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "network/forwarding.h"
#include "network/host_port.h"
#include "network/publication.h"

#define TABLE "inet fleximigrate"
#define ATTEMPTS 5

/* ---- the rules: always the same, what differs stands in sets and maps ---- */

static const struct chain {
    const char *name, *hook;
} chains[] = {
    {"published", ""},
    {"bridged", "type filter hook prerouting priority raw; policy accept;"},
    {"incoming", "type nat hook prerouting priority dstnat; policy accept;"},
    {"local", "type nat hook output priority -100; policy accept;"},
    {"outgoing", "type nat hook postrouting priority srcnat; policy accept;"},
    {"isolation", "type filter hook forward priority filter; policy accept;"},
};

/* The comments tell them apart when they are read back. */
static const struct rule {
    const char *chain, *text, *comment;
} rules[] = {
    {"published", "ip daddr 127.0.0.0/8 return", "not from loopback"},
    {"published", "ip6 daddr { ::1, fe80::/10 } return", "not from loopback or the link"},
    {"published", "dnat ip to tcp dport map @tcp4", "tcp to IPv4"},
    {"published", "dnat ip to udp dport map @udp4", "udp to IPv4"},
    {"published", "dnat ip6 to tcp dport map @tcp6", "tcp to IPv6"},
    {"published", "dnat ip6 to udp dport map @udp6", "udp to IPv6"},
    /* With br_netfilter the frames between host port and container pass here once more. Tracked
     * again, they would be at odds with the connection that they belong to. */
    {"bridged", "iifname . ether saddr @hosts notrack", "from this host, bridged"},
    {"bridged", "iifname . ether daddr @hosts notrack", "to this host, bridged"},
    {"incoming", "fib daddr type local jump published", "from elsewhere"},
    {"local", "fib daddr type local jump published", "from this host"},
    {"outgoing",
     "ct status dnat meta l4proto . ip daddr . th dport @targets4 snat ip to oifname map @own4",
     "answers come back here"},
    {"outgoing",
     "ct status dnat meta l4proto . ip6 daddr . th dport @targets6 snat ip6 to oifname map @own6",
     "answers come back here, IPv6"},
    {"isolation", "ct status dnat accept", "published ports"},
    {"isolation", "iifname . oifname @same accept", "within a network"},
    {"isolation", "iifname @interfaces oifname @interfaces drop", "between networks"},
};

/* ---- sets and maps ---- */

/* Begins a set; elements follow, then set_end. An empty list of elements is no syntax of nft. */
struct set {
    FILE *out;
    bool any;
};

static struct set set_begin(FILE *out, const char *kind, const char *name, const char *type)
{
    fprintf(out, "%s %s { type %s;", kind, name, type);
    return (struct set){.out = out};
}

static FILE *set_add(struct set *set)
{
    fputs(set->any ? ", " : " elements = { ", set->out);
    set->any = true;
    return set->out;
}

static void set_end(struct set *set)
{
    fputs(set->any ? " } }\n" : " }\n", set->out);
}

static const char *family_type(int family)
{
    return family == AF_INET ? "ipv4_addr" : "ipv6_addr";
}

static int family_digit(int family)
{
    return family == AF_INET ? 4 : 6;
}

/* The one of two addresses that is of this family, or NULL. */
static const struct fm_ip *of_family(const struct fm_ip *one, const struct fm_ip *other, int family)
{
    if (one->family == family)
        return one;
    return other->family == family ? other : NULL;
}

static const struct fm_ip *own_address(const struct fm_firewall_network *network, int family)
{
    return of_family(&network->address, &network->address6, family);
}

static void write_interfaces(FILE *out, const struct fm_firewall *firewall)
{
    struct set all = set_begin(out, "set", "interfaces", "ifname");
    char port[16];
    for (size_t i = 0; i < firewall->network_count; i++) {
        fm_host_port_name(firewall->networks[i].name, port);
        fprintf(set_add(&all), "\"%s\", \"%s\"", firewall->networks[i].bridge, port);
    }
    set_end(&all);
    struct set same = set_begin(out, "set", "same", "ifname . ifname");
    for (size_t i = 0; i < firewall->network_count; i++) {
        const char *bridge = firewall->networks[i].bridge;
        fm_host_port_name(firewall->networks[i].name, port);
        fprintf(set_add(&same),
                "\"%s\" . \"%s\", \"%s\" . \"%s\", \"%s\" . \"%s\", \"%s\" . \"%s\"", bridge,
                bridge, bridge, port, port, bridge, port, port);
    }
    set_end(&same);
}

static void write_own_addresses(FILE *out, const struct fm_firewall *firewall, int family)
{
    char name[16], type[48], port[16], text[FM_IP_TEXT];
    snprintf(name, sizeof(name), "own%d", family_digit(family));
    snprintf(type, sizeof(type), "ifname : %s", family_type(family));
    struct set own = set_begin(out, "map", name, type);
    for (size_t i = 0; i < firewall->network_count; i++) {
        const struct fm_ip *ip = own_address(&firewall->networks[i], family);
        fm_host_port_name(firewall->networks[i].name, port);
        if (ip)
            fprintf(set_add(&own), "\"%s\" : %s", port, fm_ip_format(ip, text));
    }
    set_end(&own);
}

/* The MAC of each host port, with the bridge that it is on. */
static void write_hosts(FILE *out, const struct fm_firewall *firewall)
{
    struct set hosts = set_begin(out, "set", "hosts", "ifname . ether_addr");
    for (size_t i = 0; i < firewall->network_count; i++) {
        const struct fm_firewall_network *network = &firewall->networks[i];
        if (!network->address.family && !network->address6.family)
            continue;
        uint8_t mac[6];
        char text[FM_MAC_TEXT];
        fm_host_port_mac(&network->address, &network->address6, mac);
        fprintf(set_add(&hosts), "\"%s\" . %s", network->bridge, fm_mac_format(mac, text));
    }
    set_end(&hosts);
}

/* The container's address of this family, if this host can lead a connection there. */
static bool find_target(const struct fm_firewall *firewall, const struct fm_publication *p,
                        int family, struct fm_ip *target)
{
    struct fm_ip ip = {0}, ip6 = {0};
    struct fm_error checked = {0}; /* fm_publication_check has parsed them */
    fm_ip_parse("address", p->ip, &ip, &checked);
    if (p->ip6[0])
        fm_ip_parse("address", p->ip6, &ip6, &checked);
    const struct fm_ip *found = of_family(&ip, &ip6, family);
    for (size_t i = 0; found && i < firewall->network_count; i++) {
        if (!fm_streq(firewall->networks[i].name, p->network) ||
            !own_address(&firewall->networks[i], family))
            continue;
        *target = *found;
        return true;
    }
    return false;
}

static void write_publications(FILE *out, const struct fm_firewall *firewall, int family,
                               const char *protocol)
{
    char name[16], type[64], text[FM_IP_TEXT];
    snprintf(name, sizeof(name), "%s%d", protocol, family_digit(family));
    snprintf(type, sizeof(type), "inet_service : %s . inet_service", family_type(family));
    struct set ports = set_begin(out, "map", name, type);
    for (size_t i = 0; i < firewall->publication_count; i++) {
        const struct fm_publication *p = &firewall->publications[i];
        struct fm_ip target;
        if (fm_streq(p->protocol, protocol) && find_target(firewall, p, family, &target))
            fprintf(set_add(&ports), "%u comment \"%s %s\" : %s . %u", p->host_port, p->container,
                    p->network, fm_ip_format(&target, text), p->port);
    }
    set_end(&ports);
}

static void write_targets(FILE *out, const struct fm_firewall *firewall, int family)
{
    char name[16], type[64], text[FM_IP_TEXT];
    snprintf(name, sizeof(name), "targets%d", family_digit(family));
    snprintf(type, sizeof(type), "inet_proto . %s . inet_service", family_type(family));
    struct set targets = set_begin(out, "set", name, type);
    for (size_t i = 0; i < firewall->publication_count; i++) {
        const struct fm_publication *p = &firewall->publications[i];
        struct fm_ip target;
        if (find_target(firewall, p, family, &target))
            fprintf(set_add(&targets), "%s . %s . %u", p->protocol, fm_ip_format(&target, text),
                    p->port);
    }
    set_end(&targets);
}

/* Adding before deleting: it may not be there. All of it is one transaction. */
static char *write_table(const struct fm_firewall *firewall)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        abort();
    fputs("add table " TABLE "\ndelete table " TABLE "\ntable " TABLE " {\n", out);
    write_interfaces(out, firewall);
    write_hosts(out, firewall);
    const int families[] = {AF_INET, AF_INET6};
    for (size_t i = 0; i < FM_COUNT(families); i++) {
        write_own_addresses(out, firewall, families[i]);
        write_publications(out, firewall, families[i], "tcp");
        write_publications(out, firewall, families[i], "udp");
        write_targets(out, firewall, families[i]);
    }
    for (size_t c = 0; c < FM_COUNT(chains); c++) {
        fprintf(out, "chain %s { %s\n", chains[c].name, chains[c].hook);
        for (size_t r = 0; r < FM_COUNT(rules); r++)
            if (fm_streq(rules[r].chain, chains[c].name))
                fprintf(out, "%s comment \"%s\"\n", rules[r].text, rules[r].comment);
        fputs("}\n", out);
    }
    fputs("}\n", out);
    fclose(out);
    return text;
}

/* ---- libnftables ---- */

/* It ends the whole process when the kernel has no netfilter netlink: find that out first. */
static int check_kernel(struct fm_error *err)
{
    fm_autoclose int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    if (fd < 0)
        return fm_error_errno(err, errno, "this kernel has no nftables");
    return 0;
}

static void cleanup_nft(struct nft_ctx **nft)
{
    if (*nft)
        nft_ctx_free(*nft);
}

/* One attempt; *output (may be NULL) is the caller's to free. */
static int try_nft(const char *commands, unsigned flags, char **output, struct fm_error *err)
{
    fm_cleanup(cleanup_nft) struct nft_ctx *nft = nft_ctx_new(NFT_CTX_DEFAULT);
    if (!nft)
        return fm_error_set(err, FM_E_FAILED, "libnftables cannot start");
    nft_ctx_output_set_flags(nft, flags);
    if (nft_ctx_buffer_output(nft) != 0 || nft_ctx_buffer_error(nft) != 0)
        return fm_error_set(err, FM_E_FAILED, "libnftables cannot start");
    if (nft_run_cmd_from_buffer(nft, commands) == 0) {
        if (output)
            *output = fm_xstrdup(nft_ctx_get_output_buffer(nft));
        return 0;
    }
    /* Of its report the first line says what, the others draw where. */
    const char *report = nft_ctx_get_error_buffer(nft);
    fm_autofree char *line = fm_xstrndup(report, strcspn(report, "\n"));
    bool missing = strstr(line, strerror(ENOENT)) != NULL;
    return fm_error_set(err, missing ? FM_E_NOT_FOUND : FM_E_FAILED, "nftables: %s", line);
}

/* libnftables is not for several threads. Another program's change at the same time makes ours
 * fail: again. */
static int run_nft(const char *commands, unsigned flags, char **output, struct fm_error *err)
{
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    int rc = check_kernel(err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&one_at_a_time);
    struct fm_error here = {0};
    for (int i = 0; i < ATTEMPTS; i++) {
        here = (struct fm_error){0};
        rc = try_nft(commands, flags, output, &here);
        if (rc == 0 || !(strstr(here.text, strerror(ERESTART)) ||
                         strstr(here.text, strerror(EINTR)) || strstr(here.text, strerror(EBUSY))))
            break;
    }
    pthread_mutex_unlock(&one_at_a_time);
    if (rc < 0 && err)
        *err = here;
    return rc;
}

int fm_firewall_run(const char *commands, struct fm_error *err)
{
    return run_nft(commands, 0, NULL, err);
}

/* ---- applying ---- */

/* The names end up between quotes. */
static int check_network(const struct fm_firewall_network *network, struct fm_error *err)
{
    int rc = fm_check_name("network", network->name, err);
    if (rc < 0)
        return rc;
    size_t len = strlen(network->bridge);
    if (len == 0 || len >= 16 || strpbrk(network->bridge, "/: \t\r\n\"\\*%"))
        return fm_error_set(err, FM_E_INVALID, "'%s' of network '%s' is not an interface name",
                            network->bridge, network->name);
    return 0;
}

static int check(const struct fm_firewall *firewall, struct fm_error *err)
{
    int rc = fm_publication_check(firewall->publications, firewall->publication_count, err);
    for (size_t i = 0; rc == 0 && i < firewall->network_count; i++)
        rc = check_network(&firewall->networks[i], err);
    return rc;
}

/* Forwarding for the families in use; and what nobody will reach is said. */
static int prepare(const struct fm_firewall *firewall, struct fm_error *err)
{
    bool used = false, used6 = false;
    for (size_t i = 0; i < firewall->publication_count; i++) {
        const struct fm_publication *p = &firewall->publications[i];
        struct fm_ip target;
        bool ipv4 = find_target(firewall, p, AF_INET, &target);
        bool ipv6 = find_target(firewall, p, AF_INET6, &target);
        if (!ipv4 && !ipv6)
            fm_warn(FM_NETWORK_MANAGER,
                    "Port %u:%u/%s of '%s' is not published here: this host has no address of its "
                    "own in network '%s'.",
                    p->host_port, p->port, p->protocol, p->container, p->network);
        used |= ipv4;
        used6 |= ipv6;
    }
    int rc = used ? fm_forwarding_enable(AF_INET, err) : 0;
    if (rc == 0 && used6)
        rc = fm_forwarding_enable(AF_INET6, err);
    return rc;
}

int fm_firewall_apply(const struct fm_firewall *firewall, struct fm_error *err)
{
    int rc = check(firewall, err);
    if (rc == 0)
        rc = prepare(firewall, err);
    if (rc < 0)
        return rc;
    fm_autofree char *table = write_table(firewall);
    rc = run_nft(table, 0, NULL, err);
    if (rc < 0) {
        fm_error_recode(err, FM_E_FAILED); /* nothing is looked for here: the kernel lacks a part */
        return fm_error_prefix(err, "cannot set up published ports");
    }
    return 0;
}

int fm_firewall_remove(struct fm_error *err)
{
    int rc = run_nft("add table " TABLE "\ndelete table " TABLE "\n", 0, NULL, err);
    return rc < 0 ? fm_error_prefix(err, "cannot remove the published ports") : 0;
}

/* ---- describing ---- */

/* Of the set or map with this name; NULL when there is none. */
static const json_t *elements_of(const json_t *listing, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(listing, i, item)
    {
        const json_t *set = json_object_get(item, "set");
        if (!set)
            set = json_object_get(item, "map");
        if (fm_streq(json_string_value(json_object_get(set, "name")), name))
            return json_object_get(set, "elem");
    }
    return NULL;
}

/* What is looked for once for each publication, by what it is looked for. */
struct index {
    json_t *published; /* "tcp 8080": the entry of the list */
    json_t *targets;   /* "tcp 10.88.0.5 80" */
    json_t *own;       /* host ports with an address: "fmh0123abcd 4" */
};

static void index_free(struct index *index)
{
    json_decref(index->published);
    json_decref(index->targets);
    json_decref(index->own);
}

static char *target_key(const char *protocol, const char *ip, json_int_t port)
{
    return fm_strf("%s %s %lld", protocol, ip, (long long)port);
}

static void add_targets(struct index *index, const json_t *elements)
{
    size_t i;
    json_t *element;
    json_array_foreach(elements, i, element)
    {
        const char *protocol = NULL, *ip = NULL;
        json_int_t port = 0;
        if (json_unpack(element, "{s:[s,s,I]}", "concat", &protocol, &ip, &port) != 0)
            continue;
        fm_autofree char *key = target_key(protocol, ip, port);
        json_object_set_new(index->targets, key, json_true());
    }
}

static void add_own(struct index *index, const json_t *elements, int family)
{
    size_t i;
    json_t *element;
    json_array_foreach(elements, i, element)
    {
        const char *interface = json_string_value(json_array_get(element, 0));
        fm_autofree char *key = fm_strf("%s %d", interface ? interface : "", family_digit(family));
        json_object_set_new(index->own, key, json_true());
    }
}

static struct index make_index(const json_t *listing)
{
    struct index index = {json_object(), json_object(), json_object()};
    add_targets(&index, elements_of(listing, "targets4"));
    add_targets(&index, elements_of(listing, "targets6"));
    add_own(&index, elements_of(listing, "own4"), AF_INET);
    add_own(&index, elements_of(listing, "own6"), AF_INET6);
    return index;
}

/* The publications in a listing, by protocol and host port: an IPv6 element joins its IPv4 one. */
struct reading {
    struct index index;
    json_t *list;
    const char *protocol;
    int family;
    bool whole; /* every element is one of ours */
};

/* What the map leads to a container also finds back: it leaves under this host's own address. */
static bool finds_back(const struct reading *r, const char *network, const char *ip,
                       json_int_t port)
{
    char interface[16];
    fm_host_port_name(network, interface);
    fm_autofree char *own = fm_strf("%s %d", interface, family_digit(r->family));
    fm_autofree char *target = target_key(r->protocol, ip, port);
    return json_object_get(r->index.own, own) && json_object_get(r->index.targets, target);
}

/* [{"elem":{"val":8080,"comment":"web default"}},{"concat":["10.88.0.5",80]}] */
static bool take_element(struct reading *r, json_t *element)
{
    json_int_t host_port = 0, port = 0;
    const char *comment = NULL, *ip = NULL;
    if (json_unpack(element, "[{s:{s:I,s:s}},{s:[s,I]}]", "elem", "val", &host_port, "comment",
                    &comment, "concat", &ip, &port) != 0)
        return false;
    char container[64], network[32];
    if (sscanf(comment, "%63s %31s", container, network) != 2)
        return false;
    r->whole &= finds_back(r, network, ip, port);
    fm_autofree char *key = fm_strf("%s %lld", r->protocol, (long long)host_port);
    json_t *known = json_object_get(r->index.published, key);
    if (known) {
        json_object_set_new(known, "ip6", json_string(ip));
        return fm_streq(json_string_value(json_object_get(known, "container")), container) &&
               json_integer_value(json_object_get(known, "port")) == port;
    }
    bool ipv6 = r->family == AF_INET6;
    json_t *entry = json_pack("{s:s,s:s,s:s,s:I,s:I,s:s,s:s}", "container", container, "network",
                              network, "protocol", r->protocol, "host_port", host_port, "port",
                              port, "ip", ipv6 ? "" : ip, "ip6", ipv6 ? ip : "");
    json_array_append_new(r->list, entry);
    return json_object_set(r->index.published, key, entry) == 0;
}

static void take_publications(struct reading *r, const json_t *listing)
{
    const char *const protocols[] = {"tcp", "udp"};
    for (size_t p = 0; p < 4; p++) {
        r->protocol = protocols[p / 2];
        r->family = p % 2 ? AF_INET6 : AF_INET;
        char name[16];
        snprintf(name, sizeof(name), "%s%d", r->protocol, family_digit(r->family));
        size_t i;
        json_t *element;
        json_array_foreach(elements_of(listing, name), i, element)
        {
            r->whole &= take_element(r, element);
        }
    }
}

/* The rules are there in their order, and no others. */
static bool rules_are_whole(const json_t *listing)
{
    size_t i, seen = 0;
    json_t *item;
    json_array_foreach(listing, i, item)
    {
        const json_t *rule = json_object_get(item, "rule");
        if (!rule)
            continue;
        if (seen == FM_COUNT(rules) ||
            !fm_streq(json_string_value(json_object_get(rule, "chain")), rules[seen].chain) ||
            !fm_streq(json_string_value(json_object_get(rule, "comment")), rules[seen].comment))
            return false;
        seen++;
    }
    return seen == FM_COUNT(rules);
}

/* Each network has two interfaces, between which there are four ways. */
static bool isolation_is_whole(const json_t *listing)
{
    return json_array_size(elements_of(listing, "same")) ==
           2 * json_array_size(elements_of(listing, "interfaces"));
}

int fm_firewall_describe(json_t **publications, bool *whole, struct fm_error *err)
{
    *publications = NULL;
    *whole = false;
    fm_autofree char *output = NULL;
    struct fm_error here = {0};
    int rc = run_nft("list table " TABLE "\n", NFT_CTX_OUTPUT_JSON, &output, &here);
    if (rc == -FM_E_NOT_FOUND) {
        *publications = json_array();
        return 0;
    }
    if (rc < 0) {
        if (err)
            *err = here;
        return fm_error_prefix(err, "cannot read the published ports");
    }
    json_error_t where;
    json_t *document = json_loads(output, 0, &where);
    if (!document)
        return fm_error_set(err, FM_E_FAILED, "cannot read the published ports: %s", where.text);
    const json_t *listing = json_object_get(document, "nftables");
    struct reading reading = {.index = make_index(listing), .list = json_array(), .whole = true};
    take_publications(&reading, listing);
    index_free(&reading.index);
    *whole = reading.whole && rules_are_whole(listing) && isolation_is_whole(listing);
    *publications = reading.list;
    json_decref(document);
    return 0;
}
