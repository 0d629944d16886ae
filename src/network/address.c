#include "network/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

static uint32_t hash32(const void *data, size_t len)
{
    const uint8_t *bytes = data;
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

size_t fm_ip_size(const struct fm_ip *ip)
{
    return ip->family == AF_INET6 ? 16 : 4;
}

int fm_ip_parse(const char *what, const char *text, struct fm_ip *ip, struct fm_error *err)
{
    *ip = (struct fm_ip){0};
    const char *slash = strchr(text, '/');
    fm_autofree char *address =
        slash ? fm_xstrndup(text, (size_t)(slash - text)) : fm_xstrdup(text);
    if (inet_pton(AF_INET, address, ip->bytes) == 1)
        ip->family = AF_INET;
    else if (inet_pton(AF_INET6, address, ip->bytes) == 1)
        ip->family = AF_INET6;
    else
        return fm_error_set(err, FM_E_INVALID, "%s '%s' is not an IP address", what, text);

    ip->prefix = (uint8_t)(fm_ip_size(ip) * 8);
    if (!slash)
        return 0;
    int64_t prefix = 0;
    struct fm_error ignored = {0};
    if (fm_parse_int(slash + 1, 0, ip->prefix, &prefix, &ignored) < 0)
        return fm_error_set(err, FM_E_INVALID, "%s '%s' has a bad prefix length (0 to %d)", what,
                            text, ip->prefix);
    ip->prefix = (uint8_t)prefix;
    ip->with_prefix = true;
    return 0;
}

char *fm_ip_format(const struct fm_ip *ip, char text[FM_IP_TEXT])
{
    if (!ip->family || !inet_ntop(ip->family, ip->bytes, text, FM_IP_TEXT))
        text[0] = '\0';
    return text;
}

char *fm_ip_format_prefix(const struct fm_ip *ip, char text[FM_IP_TEXT])
{
    fm_ip_format(ip, text);
    size_t used = strlen(text);
    snprintf(text + used, FM_IP_TEXT - used, "/%d", ip->prefix);
    return text;
}

bool fm_ip_equal(const struct fm_ip *a, const struct fm_ip *b)
{
    return a->family == b->family && memcmp(a->bytes, b->bytes, fm_ip_size(a)) == 0;
}

static int bit_of(const struct fm_ip *ip, unsigned bit)
{
    return ip->bytes[bit / 8] >> (7 - bit % 8) & 1;
}

bool fm_ip_in_subnet(const struct fm_ip *ip, const struct fm_ip *subnet)
{
    if (ip->family != subnet->family)
        return false;
    for (unsigned bit = 0; bit < subnet->prefix; bit++)
        if (bit_of(ip, bit) != bit_of(subnet, bit))
            return false;
    return true;
}

bool fm_ip_overlaps(const struct fm_ip *subnet, const struct fm_ip *other)
{
    return fm_ip_in_subnet(subnet, other) || fm_ip_in_subnet(other, subnet);
}

bool fm_ip_is_reserved(const struct fm_ip *ip, const struct fm_ip *subnet)
{
    unsigned bits = (unsigned)fm_ip_size(ip) * 8;
    if (bits - subnet->prefix < 2) /* /31 and /32 have no such addresses (RFC 3021) */
        return false;
    bool zeroes = true;
    bool ones = true;
    for (unsigned bit = subnet->prefix; bit < bits; bit++) {
        zeroes &= !bit_of(ip, bit);
        ones &= bit_of(ip, bit);
    }
    return zeroes || (ones && ip->family == AF_INET);
}

socklen_t fm_ip_sockaddr(const struct fm_ip *ip, uint16_t port, struct sockaddr_storage *address)
{
    memset(address, 0, sizeof(*address));
    if (ip->family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        memcpy(&in6->sin6_addr, ip->bytes, 16);
        return sizeof(*in6);
    }
    struct sockaddr_in *in4 = (struct sockaddr_in *)address;
    in4->sin_family = AF_INET;
    in4->sin_port = htons(port);
    memcpy(&in4->sin_addr, ip->bytes, 4);
    return sizeof(*in4);
}

int fm_mac_parse(const char *text, uint8_t mac[6], struct fm_error *err)
{
    unsigned part[6];
    int used = 0;
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &part[0], &part[1], &part[2], &part[3], &part[4],
               &part[5], &used) != 6 ||
        text[used] != '\0' || used != 17)
        return fm_error_set(err, FM_E_INVALID, "'%s' is not a MAC address", text);
    bool zero = true;
    for (int i = 0; i < 6; i++) {
        mac[i] = (uint8_t)part[i];
        zero &= mac[i] == 0;
    }
    if (zero || (mac[0] & 1))
        return fm_error_set(err, FM_E_INVALID, "MAC address '%s' is not a unicast address", text);
    return 0;
}

char *fm_mac_format(const uint8_t mac[6], char text[FM_MAC_TEXT])
{
    snprintf(text, FM_MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
             mac[4], mac[5]);
    return text;
}

static void mac_from_bytes(uint8_t kind, const struct fm_ip *ip, uint8_t mac[6])
{
    mac[0] = 0x02; /* locally administered, unicast */
    mac[1] = kind;
    uint32_t low = htonl(hash32(ip->bytes, fm_ip_size(ip)));
    memcpy(mac + 2, ip->family == AF_INET ? (const void *)ip->bytes : (const void *)&low, 4);
}

void fm_mac_from_ip(const struct fm_ip *ip, uint8_t mac[6])
{
    mac_from_bytes(ip->family == AF_INET ? 0xfd : 0xfe, ip, mac);
}

void fm_mac_of_gateway(const struct fm_ip *gateway, uint8_t mac[6])
{
    mac_from_bytes(0xfb, gateway, mac);
}

void fm_ip_link_local(const uint8_t mac[6], struct fm_ip *ip)
{
    *ip = (struct fm_ip){
        .family = AF_INET6,
        .bytes = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3],
                  mac[4], mac[5]},
        .prefix = 64,
    };
}

void fm_host_if_name(const char *container, char name[16])
{
    snprintf(name, 16, "fm%08x", hash32(container, strlen(container)));
}

void fm_network_if_name(const char *prefix, const char *network, char name[16])
{
    snprintf(name, 16, "%.7s%08x", prefix, hash32(network, strlen(network)));
}
