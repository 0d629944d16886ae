/* The choice of an address: arithmetic, nothing else. */
#include "migration/networks_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/text.h"
#include "network/address.h"
#include "wire/frame.h"

#define NUMBER_BITS_MAX 24 /* of a large subnet its first 16 million addresses are used */

static struct fm_ip address_of(const struct fm_ip *subnet, uint32_t number)
{
    struct fm_ip ip = *subnet;
    size_t size = fm_ip_size(subnet);
    for (size_t i = 0; i < 4; i++)
        ip.bytes[size - 1 - i] |= (uint8_t)(number >> (8 * i));
    return ip;
}

/* Which one of its subnet an address is. */
static uint32_t number_of(const char *address, const char *subnet)
{
    struct fm_ip ip, range;
    uint32_t number = 0;
    if (fm_ip_parse("address", address, &ip, NULL) < 0 ||
        fm_ip_parse("subnet", subnet, &range, NULL) < 0)
        return 0;
    for (size_t i = fm_ip_size(&ip) - 4; i < fm_ip_size(&ip); i++)
        number = number << 8 | ip.bytes[i];
    unsigned bits = (unsigned)fm_ip_size(&range) * 8 - range.prefix;
    return bits < 32 ? number & ((1u << bits) - 1) : number;
}

/* Two hosts that do not hear each other rarely begin at the same place. */
static uint32_t offset_of(const struct fm_choice *c, uint32_t count)
{
    uint8_t sum[16];
    if (c->from_top)
        return count - 1;
    if (c->near)
        return number_of(c->near, c->near_subnet) % count;
    fm_frame_checksum(c->host, strlen(c->host), sum);
    return ((uint32_t)sum[0] << 24 | (uint32_t)sum[1] << 16 | (uint32_t)sum[2] << 8 | sum[3]) %
           count;
}

static bool is_free(const struct fm_choice *c, const struct fm_ip *ip, const struct fm_ip *subnet,
                    char text[64])
{
    fm_ip_format(ip, text);
    return !fm_ip_is_reserved(ip, subnet) && !fm_streq(text, c->gateway) &&
           !json_object_get(c->taken, text);
}

int fm_lease_choose(const struct fm_choice *c, char text[64], struct fm_error *err)
{
    struct fm_ip subnet;
    int rc = fm_ip_parse("subnet", c->subnet, &subnet, err);
    if (rc < 0)
        return rc;
    unsigned bits = (unsigned)fm_ip_size(&subnet) * 8 - subnet.prefix;
    uint32_t count = 1u << (bits < NUMBER_BITS_MAX ? bits : NUMBER_BITS_MAX);
    uint32_t start = offset_of(c, count);
    /* Of one more than there are taken, one is free; two are reserved, one is the gateway's. */
    size_t tries = json_object_size(c->taken) + 4;
    for (uint32_t i = 0; i < count && i < tries; i++) {
        struct fm_ip ip = address_of(&subnet, (c->from_top ? start - i : start + i) % count);
        if (is_free(c, &ip, &subnet, text))
            return 0;
    }
    *text = '\0';
    return fm_error_set(err, FM_E_NO_SPACE,
                        "network '%s' has no free address left in %s: remove a container, or make "
                        "a larger network",
                        c->network, c->subnet);
}
