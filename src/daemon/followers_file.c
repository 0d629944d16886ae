#include "daemon/followers_file.h"

#include "daemon/yaml_file.h"

#define MAYBE CYAML_FLAG_OPTIONAL
#define MAYBE_PTR (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)
#define MUST CYAML_FLAG_DEFAULT
#define MUST_PTR CYAML_FLAG_POINTER

#define TEXT(type, key)                                                                            \
    CYAML_FIELD_STRING_PTR(#key, MAYBE_PTR, struct type, key, 0, CYAML_UNLIMITED)
#define NEEDED_TEXT(type, key)                                                                     \
    CYAML_FIELD_STRING_PTR(#key, MUST_PTR, struct type, key, 1, CYAML_UNLIMITED)
#define NUMBER(type, key) CYAML_FIELD_UINT(#key, MAYBE, struct type, key)
#define NEEDED_NUMBER(type, key) CYAML_FIELD_UINT(#key, MUST, struct type, key)
#define FRACTION(type, key) CYAML_FIELD_FLOAT(#key, MAYBE, struct type, key)
#define LIST(type, key)                                                                            \
    CYAML_FIELD_SEQUENCE_COUNT(#key, MAYBE_PTR, struct type, key.items, key.count, &text_entry, 0, \
                               CYAML_UNLIMITED)
#define OBJECTS(type, key, entry)                                                                  \
    CYAML_FIELD_SEQUENCE_COUNT(#key, MAYBE_PTR, struct type, key, key##_count, &(entry), 0,        \
                               CYAML_UNLIMITED)
#define OBJECT_ENTRY(name, type)                                                                   \
    static const cyaml_schema_value_t name = {                                                     \
        CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct type, name##_fields),                       \
    }

static const cyaml_schema_value_t text_entry = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED),
};

/* --- dns --- */

static const cyaml_schema_field_t dns_name_fields[] = {
    NEEDED_TEXT(raw_dns_name, container),
    NEEDED_TEXT(raw_dns_name, name),
    CYAML_FIELD_END,
};
OBJECT_ENTRY(dns_name, raw_dns_name);

static const cyaml_schema_field_t dns_fields[] = {
    NEEDED_TEXT(raw_dns, server),
    NUMBER(raw_dns, port),
    NEEDED_TEXT(raw_dns, zone),
    LIST(raw_dns, reverse_zones),
    TEXT(raw_dns, key_name),
    TEXT(raw_dns, algorithm),
    TEXT(raw_dns, secret),
    TEXT(raw_dns, secret_file),
    TEXT(raw_dns, timeout),
    CYAML_FIELD_UINT_PTR("retries", MAYBE_PTR, struct raw_dns, retries),
    NUMBER(raw_dns, low_ttl),
    OBJECTS(raw_dns, names, dns_name),
    CYAML_FIELD_END,
};

/* --- sdn --- */

static const cyaml_schema_field_t switch_fields[] = {
    NEEDED_TEXT(raw_switch, name),
    NEEDED_NUMBER(raw_switch, dpid),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t switch_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_switch, switch_fields),
};

static const cyaml_schema_field_t link_fields[] = {
    NEEDED_TEXT(raw_link, a),       NEEDED_NUMBER(raw_link, port_a),
    NEEDED_TEXT(raw_link, b),       NEEDED_NUMBER(raw_link, port_b),
    FRACTION(raw_link, latency_ms), NUMBER(raw_link, capacity_bps),
    FRACTION(raw_link, loss),       CYAML_FIELD_END,
};
static const cyaml_schema_value_t link_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_link, link_fields),
};

static const cyaml_schema_field_t sdn_host_fields[] = {
    NEEDED_TEXT(raw_sdn_host, name),
    CYAML_FIELD_STRING_PTR("switch", MUST_PTR, struct raw_sdn_host, at, 1, CYAML_UNLIMITED),
    NEEDED_NUMBER(raw_sdn_host, port),
    FRACTION(raw_sdn_host, latency_ms),
    NUMBER(raw_sdn_host, capacity_bps),
    FRACTION(raw_sdn_host, loss),
    CYAML_FIELD_END,
};
OBJECT_ENTRY(sdn_host, raw_sdn_host);

static const cyaml_schema_field_t sdn_port_fields[] = {
    CYAML_FIELD_STRING_PTR("host", MUST_PTR, struct raw_sdn_host, name, 1, CYAML_UNLIMITED),
    CYAML_FIELD_STRING_PTR("switch", MUST_PTR, struct raw_sdn_host, at, 1, CYAML_UNLIMITED),
    NEEDED_NUMBER(raw_sdn_host, port),
    CYAML_FIELD_END,
};
OBJECT_ENTRY(sdn_port, raw_sdn_host);

static const cyaml_schema_field_t sdn_fields[] = {
    LIST(raw_sdn, controllers),
    LIST(raw_sdn, networks),
    TEXT(raw_sdn, ca),
    TEXT(raw_sdn, cert),
    TEXT(raw_sdn, key),
    TEXT(raw_sdn, timeout),
    TEXT(raw_sdn, order),
    OBJECTS(raw_sdn, switches, switch_entry),
    OBJECTS(raw_sdn, links, link_entry),
    OBJECTS(raw_sdn, hosts, sdn_host),
    OBJECTS(raw_sdn, ports, sdn_port),
    NUMBER(raw_sdn, table),
    NUMBER(raw_sdn, priority),
    NUMBER(raw_sdn, cookie),
    NUMBER(raw_sdn, reserve_bps),
    CYAML_FIELD_INT_PTR("queue", MAYBE_PTR, struct raw_sdn, queue),
    NUMBER(raw_sdn, meter),
    CYAML_FIELD_END,
};

/* --- load balancers --- */

static const cyaml_schema_field_t haproxy_fields[] = {
    NEEDED_TEXT(raw_haproxy, socket), NEEDED_TEXT(raw_haproxy, backend),  TEXT(raw_haproxy, server),
    TEXT(raw_haproxy, drain_wait),    NUMBER(raw_haproxy, drain_percent), CYAML_FIELD_END,
};

static const cyaml_schema_field_t load_balancer_fields[] = {
    NEEDED_TEXT(raw_load_balancer, name),
    LIST(raw_load_balancer, containers),
    TEXT(raw_load_balancer, timeout),
    CYAML_FIELD_MAPPING_PTR("haproxy", MAYBE_PTR, struct raw_load_balancer, haproxy,
                            haproxy_fields),
    LIST(raw_load_balancer, command),
    CYAML_FIELD_END,
};
OBJECT_ENTRY(load_balancer, raw_load_balancer);

/* --- all of it --- */

static const cyaml_schema_field_t root_fields[] = {
    CYAML_FIELD_MAPPING_PTR("sdn", MAYBE_PTR, struct raw_followers, sdn, sdn_fields),
    CYAML_FIELD_MAPPING_PTR("dns", MAYBE_PTR, struct raw_followers, dns, dns_fields),
    OBJECTS(raw_followers, load_balancers, load_balancer),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t root = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw_followers, root_fields),
};

int fm_followers_file_read(const char *path, struct raw_followers **raw, struct fm_error *err)
{
    return fm_yaml_file_read(path, &root, (void **)raw, err);
}

void fm_followers_file_free(struct raw_followers *raw)
{
    fm_yaml_file_free(&root, raw);
}
