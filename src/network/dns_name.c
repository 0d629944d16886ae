#include "network/dns_name.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_LABEL 63
#define MAX_NAME 253 /* of text without the last dot: 255 bytes on the wire */

static bool is_label_character(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '/';
}

int fm_dns_name_parse(const char *what, const char *text, char name[FM_DNS_NAME_TEXT],
                      struct fm_error *err)
{
    size_t len = strlen(text);
    if (len && text[len - 1] == '.')
        len--;
    if (len == 0)
        return fm_error_set(err, FM_E_INVALID, "%s is empty", what);
    if (len > MAX_NAME)
        return fm_error_set(err, FM_E_INVALID,
                            "%s is longer than the %d characters of a name in the DNS", what,
                            MAX_NAME);
    size_t label = 0;
    for (size_t i = 0; i < len; i++) {
        name[i] = (char)tolower((unsigned char)text[i]);
        if (text[i] != '.' && !is_label_character(text[i]))
            return fm_error_set(err, FM_E_INVALID,
                                "%s '%s' has a character that names of hosts cannot have", what,
                                text);
        label = text[i] == '.' ? 0 : label + 1;
        if (label > MAX_LABEL || (text[i] == '.' && (i == 0 || text[i - 1] == '.')))
            return fm_error_set(err, FM_E_INVALID, "%s '%s' has a part %s", what, text,
                                label ? "of more than 63 characters" : "without a character");
    }
    if (label == 0)
        return fm_error_set(err, FM_E_INVALID, "%s '%s' has a part without a character", what,
                            text);
    name[len] = '.';
    name[len + 1] = '\0';
    return 0;
}

bool fm_dns_name_in_zone(const char *name, const char *zone)
{
    size_t len = strlen(name), zone_len = strlen(zone);
    if (len < zone_len || strcmp(name + len - zone_len, zone) != 0)
        return false;
    return len == zone_len || name[len - zone_len - 1] == '.';
}

const char *fm_dns_name_zone(const char *name, const char *const *zones)
{
    const char *best = NULL;
    for (size_t i = 0; zones && zones[i]; i++) {
        if (fm_dns_name_in_zone(name, zones[i]) && (!best || strlen(zones[i]) > strlen(best)))
            best = zones[i];
    }
    return best;
}

void fm_dns_name_of_address(const struct fm_ip *ip, char name[FM_DNS_NAME_TEXT])
{
    const uint8_t *b = ip->bytes;
    if (ip->family == AF_INET) {
        snprintf(name, FM_DNS_NAME_TEXT, "%u.%u.%u.%u.in-addr.arpa.", b[3], b[2], b[1], b[0]);
        return;
    }
    char *out = name;
    for (int i = 15; i >= 0; i--) {
        static const char digits[] = "0123456789abcdef";
        *out++ = digits[b[i] & 15];
        *out++ = '.';
        *out++ = digits[b[i] >> 4];
        *out++ = '.';
    }
    snprintf(out, FM_DNS_NAME_TEXT - 64, "ip6.arpa.");
}
