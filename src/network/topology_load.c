#include "network/topology_load.h"

#include <stdlib.h>

#include "base/text.h"

#define ENTRIES_MAX 65536

/* The array `key` of the document, empty when it is not there. */
static int get_list(const json_t *document, const char *key, json_t **list, size_t *count,
                    struct fm_error *err)
{
    *list = json_object_get(document, key);
    *count = json_array_size(*list);
    if (*list && !json_is_array(*list))
        return fm_error_set(err, FM_E_INVALID, "topology: '%s' is not a list", key);
    if (*count > ENTRIES_MAX)
        return fm_error_set(err, FM_E_INVALID, "topology: more than %d %s", ENTRIES_MAX, key);
    return 0;
}

static int parse_line(json_t *entry, struct fm_topology_line *line)
{
    json_int_t capacity = 0;
    int bad = json_unpack(entry, "{s?F s?I s?F}", "latency_ms", &line->latency_ms, "capacity_bps",
                          &capacity, "loss", &line->loss);
    line->capacity_bps = capacity;
    return bad;
}

static int parse_port(json_t *entry, const char *key, uint32_t *port)
{
    const json_t *value = json_object_get(entry, key);
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 1 || number > (json_int_t)FM_PORT_MAX)
        return -1;
    *port = (uint32_t)number;
    return 0;
}

static int parse_switches(const json_t *document, struct fm_topology_config *config,
                          struct fm_error *err)
{
    json_t *list;
    int rc = get_list(document, "switches", &list, &config->switch_count, err);
    if (rc < 0)
        return rc;
    struct fm_topology_switch *all = fm_xcalloc(config->switch_count + 1, sizeof(*all));
    config->switches = all;
    for (size_t i = 0; i < config->switch_count; i++) {
        json_int_t dpid;
        if (json_unpack(json_array_get(list, i), "{s:s s:I}", "name", &all[i].name, "dpid",
                        &dpid) != 0 ||
            dpid < 0)
            return fm_error_set(err, FM_E_INVALID,
                                "topology: switch %zu needs a name and a dpid (a number)", i + 1);
        all[i].dpid = (uint64_t)dpid;
    }
    return 0;
}

static int parse_links(const json_t *document, struct fm_topology_config *config,
                       struct fm_error *err)
{
    json_t *list;
    int rc = get_list(document, "links", &list, &config->link_count, err);
    if (rc < 0)
        return rc;
    struct fm_topology_link *all = fm_xcalloc(config->link_count + 1, sizeof(*all));
    config->links = all;
    for (size_t i = 0; i < config->link_count; i++) {
        json_t *entry = json_array_get(list, i);
        if (json_unpack(entry, "{s:s s:s}", "a", &all[i].a, "b", &all[i].b) != 0 ||
            parse_port(entry, "port_a", &all[i].port_a) != 0 ||
            parse_port(entry, "port_b", &all[i].port_b) != 0 ||
            parse_line(entry, &all[i].line) != 0)
            return fm_error_set(err, FM_E_INVALID,
                                "topology: link %zu needs a, port_a, b and port_b, and numbers for "
                                "latency_ms, capacity_bps and loss",
                                i + 1);
    }
    return 0;
}

static int parse_hosts(const json_t *document, struct fm_topology_config *config,
                       struct fm_error *err)
{
    json_t *list;
    int rc = get_list(document, "hosts", &list, &config->host_count, err);
    if (rc < 0)
        return rc;
    struct fm_topology_host *all = fm_xcalloc(config->host_count + 1, sizeof(*all));
    config->hosts = all;
    for (size_t i = 0; i < config->host_count; i++) {
        json_t *entry = json_array_get(list, i);
        if (json_unpack(entry, "{s:s s:s}", "name", &all[i].name, "switch", &all[i].at) != 0 ||
            parse_port(entry, "port", &all[i].port) != 0 || parse_line(entry, &all[i].line) != 0)
            return fm_error_set(err, FM_E_INVALID,
                                "topology: host %zu needs name, switch and port, and numbers for "
                                "latency_ms, capacity_bps and loss",
                                i + 1);
    }
    return 0;
}

int fm_topology_parse(const json_t *document, struct fm_topology_config *config,
                      struct fm_error *err)
{
    if (!json_is_object(document))
        return fm_error_set(err, FM_E_INVALID, "a topology is a JSON object");
    int rc = parse_switches(document, config, err);
    if (rc == 0)
        rc = parse_links(document, config, err);
    return rc == 0 ? parse_hosts(document, config, err) : rc;
}

void fm_topology_parse_clear(struct fm_topology_config *config)
{
    free((void *)config->switches);
    free((void *)config->links);
    free((void *)config->hosts);
}
