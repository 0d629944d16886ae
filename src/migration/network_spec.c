#include "migration/network_spec.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/text.h"
#include "network/address.h"

#define MTU_MIN 576
#define MTU_MIN_V6 1280 /* RFC 8200 */
#define MTU_MAX 65535
#define HOST_BITS_MIN 2 /* less has no room for containers */

static const char *const modes[] = {"overlay", "bridge", "macvlan"};

const char *fm_network_mode_text(enum fm_network_mode mode)
{
    return modes[mode];
}

/* --- reading --- */

/* Copies a string; "" when there is none. */
static int take_text(const json_t *doc, const char *key, char *out, size_t size,
                     struct fm_error *err)
{
    const json_t *value = json_object_get(doc, key);
    const char *text = json_string_value(value);

    *out = '\0';
    if (!value || json_is_null(value))
        return 0;
    if (!text || strlen(text) != json_string_length(value) || strlen(text) >= size)
        return fm_error_set(err, FM_E_INVALID,
                            "'%s' of a network is not a text of at most %zu "
                            "characters",
                            key, size - 1);
    snprintf(out, size, "%s", text);
    return 0;
}

static int take_number(const json_t *doc, const char *key, json_int_t min, json_int_t max,
                       json_int_t *out, struct fm_error *err)
{
    const json_t *value = json_object_get(doc, key);

    *out = 0;
    if (!value || json_is_null(value) || (json_is_integer(value) && !json_integer_value(value)))
        return 0;
    *out = json_integer_value(value);
    if (!json_is_integer(value) || *out < min || *out > max)
        return fm_error_set(err, FM_E_INVALID,
                            "'%s' of a network is not a number within %lld..%lld", key,
                            (long long)min, (long long)max);
    return 0;
}

static int take_mode(const json_t *doc, enum fm_network_mode *mode, struct fm_error *err)
{
    char text[16];
    int rc = take_text(doc, "mode", text, sizeof(text), err);

    *mode = FM_NETWORK_OVERLAY;
    if (rc < 0 || !*text)
        return rc;
    for (int i = 0; i <= FM_NETWORK_MACVLAN; i++) {
        if (!fm_streq(text, modes[i]))
            continue;
        *mode = (enum fm_network_mode)i;
        return 0;
    }
    return fm_error_set(err, FM_E_INVALID, "mode '%s' is not overlay, bridge or macvlan", text);
}

/* --- checking --- */

/* The subnet in its shortest form; it must be the first address of its range. */
static int check_subnet(const char *what, char text[64], struct fm_ip *subnet, struct fm_error *err)
{
    int rc = fm_ip_parse(what, text, subnet, err);
    if (rc < 0)
        return rc;
    struct fm_ip first = *subnet;
    int bits = (int)fm_ip_size(subnet) * 8;
    for (int bit = subnet->prefix; bit < bits; bit++)
        first.bytes[bit / 8] &= (uint8_t) ~(0x80u >> (bit % 8));
    char right[FM_IP_TEXT];
    fm_ip_format_prefix(&first, right);
    if (!subnet->with_prefix || subnet->prefix == 0)
        return fm_error_set(err, FM_E_INVALID,
                            "%s '%s' has no prefix length: write it as in "
                            "10.89.0.0/24",
                            what, text);
    if (!fm_ip_equal(subnet, &first))
        return fm_error_set(err, FM_E_INVALID, "%s '%s' is an address inside of %s: write %s", what,
                            text, right, right);
    if (bits - subnet->prefix < HOST_BITS_MIN)
        return fm_error_set(err, FM_E_INVALID,
                            "%s '%s' is too small for containers: make it /%d or "
                            "larger",
                            what, text, bits - HOST_BITS_MIN);
    memcpy(text, right, FM_IP_TEXT);
    return 0;
}

static int check_gateway(const char *what, char text[64], const struct fm_ip *subnet,
                         struct fm_error *err)
{
    struct fm_ip gateway;
    char range[FM_IP_TEXT];
    if (!*text)
        return 0;
    int rc = fm_ip_parse(what, text, &gateway, err);
    if (rc < 0)
        return rc;
    fm_ip_format_prefix(subnet, range);
    if (!fm_ip_in_subnet(&gateway, subnet))
        return fm_error_set(err, FM_E_INVALID,
                            "%s %s is outside of the subnet %s: choose one inside", what, text,
                            range);
    if (fm_ip_is_reserved(&gateway, subnet))
        return fm_error_set(err, FM_E_INVALID, "%s %s is reserved in the subnet %s: choose another",
                            what, text, range);
    fm_ip_format(&gateway, text);
    return 0;
}

static int check_addresses(struct fm_network_spec *s, struct fm_error *err)
{
    struct fm_ip subnet, subnet6;
    if (!*s->subnet)
        return fm_error_set(err, FM_E_INVALID, "network '%s' needs a subnet", s->name);
    int rc = check_subnet("subnet", s->subnet, &subnet, err);
    if (rc == 0)
        rc = check_gateway("gateway", s->gateway, &subnet, err);
    if (rc < 0 || !*s->subnet6)
        return rc < 0 || !*s->gateway6
                   ? rc
                   : fm_error_set(err, FM_E_INVALID, "gateway6 %s has no subnet6 to be in",
                                  s->gateway6);
    rc = check_subnet("subnet6", s->subnet6, &subnet6, err);
    if (rc == 0 && (subnet.family != AF_INET || subnet6.family != AF_INET6))
        rc = fm_error_set(err, FM_E_INVALID,
                          "a network with two subnets has an IPv4 one in subnet and an IPv6 one in "
                          "subnet6");
    return rc < 0 ? rc : check_gateway("gateway6", s->gateway6, &subnet6, err);
}

/* What the mode needs, and what it has no use for. */
static int check_mode(const struct fm_network_spec *s, struct fm_error *err)
{
    bool has_v6 = *s->subnet6 || strchr(s->subnet, ':');
    if (s->mtu && has_v6 && s->mtu < MTU_MIN_V6)
        return fm_error_set(err, FM_E_INVALID, "mtu %d is too small for IPv6: make it %d or more",
                            s->mtu, MTU_MIN_V6);
    if (s->mode == FM_NETWORK_OVERLAY && *s->parent)
        return fm_error_set(err, FM_E_INVALID,
                            "an overlay network has no parent: leave it out, or choose mode bridge "
                            "or macvlan");
    if (s->mode == FM_NETWORK_OVERLAY)
        return 0;
    if (!*s->parent)
        return fm_error_set(err, FM_E_INVALID,
                            "a network of mode %s needs a parent: the %s that its "
                            "containers are to be on",
                            modes[s->mode], s->mode == FM_NETWORK_BRIDGE ? "bridge" : "interface");
    if (strspn(s->parent, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") !=
            strlen(s->parent) ||
        fm_streq(s->parent, ".") || fm_streq(s->parent, ".."))
        return fm_error_set(err, FM_E_INVALID, "parent '%s' is not an interface's name", s->parent);
    if (s->vni)
        return fm_error_set(err, FM_E_INVALID, "only an overlay network has a VNI: leave it out");
    return 0;
}

static int check_name(const char *name, struct fm_error *err)
{
    int rc = fm_check_name("network", name, err);
    if (rc == 0 && strlen(name) > FM_NETWORK_NAME_MAX)
        return fm_error_set(err, FM_E_INVALID,
                            "network name '%s' is too long: %d characters at most", name,
                            FM_NETWORK_NAME_MAX);
    return rc;
}

int fm_network_spec_from_json(const json_t *doc, struct fm_network_spec *spec, struct fm_error *err)
{
    char name[128];
    json_int_t vni, mtu;
    *spec = (struct fm_network_spec){0};
    int rc = take_text(doc, "name", name, sizeof(name), err);
    if (rc == 0)
        rc = check_name(name, err);
    if (rc == 0 && snprintf(spec->name, sizeof(spec->name), "%.*s", FM_NETWORK_NAME_MAX, name) > 0)
        rc = take_mode(doc, &spec->mode, err);
    if (rc == 0)
        rc = take_text(doc, "subnet", spec->subnet, sizeof(spec->subnet), err);
    if (rc == 0)
        rc = take_text(doc, "gateway", spec->gateway, sizeof(spec->gateway), err);
    if (rc == 0)
        rc = take_text(doc, "subnet6", spec->subnet6, sizeof(spec->subnet6), err);
    if (rc == 0)
        rc = take_text(doc, "gateway6", spec->gateway6, sizeof(spec->gateway6), err);
    if (rc == 0)
        rc = take_text(doc, "parent", spec->parent, sizeof(spec->parent), err);
    if (rc == 0)
        rc = take_number(doc, "vni", 1, FM_VNI_MAX, &vni, err);
    if (rc == 0)
        rc = take_number(doc, "mtu", MTU_MIN, MTU_MAX, &mtu, err);
    if (rc < 0)
        return rc;
    spec->vni = (uint32_t)vni;
    spec->mtu = (int)mtu;
    rc = check_addresses(spec, err);
    return rc < 0 ? rc : check_mode(spec, err);
}

json_t *fm_network_spec_to_json(const struct fm_network_spec *s)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:i, s:s}", "name", s->name, "mode",
                     modes[s->mode], "subnet", s->subnet, "gateway", s->gateway, "subnet6",
                     s->subnet6, "gateway6", s->gateway6, "vni", (json_int_t)s->vni, "mtu", s->mtu,
                     "parent", s->parent);
}

bool fm_network_spec_equal(const struct fm_network_spec *a, const struct fm_network_spec *b)
{
    json_auto_t *one = fm_network_spec_to_json(a);
    json_auto_t *other = fm_network_spec_to_json(b);
    return json_equal(one, other);
}

/* --- clashes --- */

static bool overlap(const char *a, const char *b)
{
    struct fm_ip one, other;
    if (!*a || !*b || fm_ip_parse("subnet", a, &one, NULL) < 0 ||
        fm_ip_parse("subnet", b, &other, NULL) < 0)
        return false;
    return fm_ip_in_subnet(&one, &other) || fm_ip_in_subnet(&other, &one);
}

int fm_network_spec_clash(const struct fm_network_spec *spec, const struct fm_network_spec *other,
                          struct fm_error *err)
{
    const char *const mine[] = {spec->subnet, spec->subnet6};
    const char *const theirs[] = {other->subnet, other->subnet6};
    for (int i = 0; i < 4; i++)
        if (overlap(mine[i / 2], theirs[i % 2]))
            return fm_error_set(err, FM_E_EXISTS,
                                "subnet %s overlaps with %s of network '%s': choose another",
                                mine[i / 2], theirs[i % 2], other->name);
    if (spec->vni && spec->vni == other->vni)
        return fm_error_set(err, FM_E_EXISTS, "VNI %u is in use by network '%s': choose another",
                            spec->vni, other->name);
    return 0;
}
