#include "network/relay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "network/firewall.h"

#define TABLE "netdev fleximigrate"
#define REMOVE "add table " TABLE "\ndelete table " TABLE "\n"

static struct fm_relay *find(struct fm_fabric *fabric, const struct fm_net *net,
                             const uint8_t mac[6])
{
    for (size_t i = 0; i < fabric->relay_count; i++) {
        struct fm_relay *r = &fabric->relays[i];
        if (fm_streq(r->vxlan, net->vxlan) && memcmp(r->mac, mac, 6) == 0)
            return r;
    }
    return NULL;
}

static void add_rules(FILE *out, const struct fm_relay *relays, size_t count, const char *vxlan)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *m = relays[i].mac;
        if (fm_streq(relays[i].vxlan, vxlan))
            fprintf(out, "ether daddr %02x:%02x:%02x:%02x:%02x:%02x fwd to \"%s\"\n", m[0], m[1],
                    m[2], m[3], m[4], m[5], vxlan);
    }
}

static bool is_first(const struct fm_relay *relays, size_t index)
{
    for (size_t i = 0; i < index; i++)
        if (fm_streq(relays[i].vxlan, relays[index].vxlan))
            return false;
    return true;
}

/* A chain for each device. */
static int apply(const struct fm_relay *relays, size_t count, struct fm_error *err)
{
    fm_autofree char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return fm_error_set(err, FM_E_IO, "no memory for the relays");
    fprintf(out, REMOVE "%s", count ? "table " TABLE " {\n" : "");
    for (size_t i = 0; i < count; i++) {
        if (!is_first(relays, i))
            continue;
        fprintf(out,
                "chain relay%zu {\ntype filter hook ingress device \"%s\" priority 0\n"
                "policy accept\n",
                i, relays[i].vxlan);
        add_rules(out, relays, count, relays[i].vxlan);
        fprintf(out, "}\n");
    }
    fprintf(out, "%s", count ? "}\n" : "");
    fclose(out);
    return fm_firewall_run(text, err);
}

/* With the lock held. */
static int change(struct fm_fabric *fabric, const struct fm_net *net, const uint8_t mac[6], bool on,
                  struct fm_error *err)
{
    const struct fm_relay *found = find(fabric, net, mac);
    if (on == (found != NULL))
        return 0;
    size_t count = fabric->relay_count;
    struct fm_relay *list = fm_xcalloc(count + 1, sizeof(*list));
    if (count)
        memcpy(list, fabric->relays, count * sizeof(*list));
    if (on) {
        snprintf(list[count].vxlan, sizeof(list[count].vxlan), "%s", net->vxlan);
        memcpy(list[count++].mac, mac, 6);
    } else {
        list[found - fabric->relays] = list[--count];
    }
    int rc = apply(list, count, err);
    if (rc < 0) {
        free(list);
        return rc;
    }
    free(fabric->relays);
    fabric->relays = list;
    fabric->relay_count = count;
    return 0;
}

int fm_relay_set(struct fm_fabric *fabric, const struct fm_net *net, const uint8_t mac[6], bool on,
                 struct fm_error *err)
{
    if (!net->vxlan_index)
        return 0;
    pthread_mutex_lock(&fabric->relay_lock);
    int rc = change(fabric, net, mac, on, err);
    pthread_mutex_unlock(&fabric->relay_lock);
    return rc;
}

int fm_relay_refresh(struct fm_fabric *fabric, struct fm_error *err)
{
    pthread_mutex_lock(&fabric->relay_lock);
    int rc = apply(fabric->relays, fabric->relay_count, err);
    pthread_mutex_unlock(&fabric->relay_lock);
    return rc;
}

void fm_relay_drop(struct fm_fabric *fabric, const struct fm_net *net, const uint8_t mac[6])
{
    struct fm_error err = {0};
    if (fm_relay_set(fabric, net, mac, false, &err) < 0)
        fm_warn(FM_NETWORK_MANAGER, "A relay of network '%s' stays: %s.", net->spec.name, err.text);
}

void fm_relay_remove_stale(void)
{
    struct fm_error ignored = {0}; /* without nftables there is none */
    fm_firewall_run(REMOVE, &ignored);
}
