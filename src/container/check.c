#include "container/check.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define MAX_DEPENDENCY 511

bool fm_is_text(const char *s, size_t max)
{
    size_t len = s ? strnlen(s, max + 1) : 0;

    if (len == 0 || len > max)
        return false;
    for (; *s; s++) {
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return false;
    }
    return true;
}

bool fm_is_clean_path(const char *path)
{
    if (!fm_is_text(path, PATH_MAX - 1) || path[0] != '/')
        return false;
    if (path[1] == '\0')
        return true;
    while (*path) { /* at a slash */
        size_t len = strcspn(path + 1, "/");

        if (len == 0 || len > NAME_MAX || (len == 1 && path[1] == '.') ||
            (len == 2 && path[1] == '.' && path[2] == '.'))
            return false;
        path += 1 + len;
    }
    return true;
}

bool fm_is_dependency(const char *dependency)
{
    const char *rest = dependency ? strstr(dependency, "://") : NULL;

    return rest && fm_is_text(dependency, MAX_DEPENDENCY) && rest[3] &&
           !strpbrk(dependency, " \"'\\") &&
           (fm_starts_with(dependency, "tcp://") || fm_starts_with(dependency, "http://") ||
            fm_starts_with(dependency, "https://"));
}

bool fm_is_digest(const char *digest)
{
    if (!digest || !fm_starts_with(digest, "sha256:"))
        return false;
    digest += strlen("sha256:");
    return strlen(digest) == 64 && strspn(digest, "0123456789abcdef") == 64;
}

bool fm_is_address(const char *address, bool prefix_length)
{
    char host[INET6_ADDRSTRLEN];
    unsigned char bytes[sizeof(struct in6_addr)];
    const char *slash = address ? strchr(address, '/') : NULL;
    size_t len;
    int64_t bits;
    bool v6;

    if (!address || !slash != !prefix_length)
        return false;
    len = slash ? (size_t)(slash - address) : strlen(address);
    if (len == 0 || len >= sizeof(host))
        return false;
    memcpy(host, address, len);
    host[len] = '\0';
    v6 = strchr(host, ':') != NULL;
    if (inet_pton(v6 ? AF_INET6 : AF_INET, host, bytes) != 1)
        return false;
    return !slash || fm_parse_int(slash + 1, 1, v6 ? 128 : 32, &bits, NULL) == 0;
}

bool fm_is_mac(const char *mac)
{
    if (!mac || strlen(mac) != 17)
        return false;
    for (int i = 0; i < 17; i++) {
        if (i % 3 == 2 ? mac[i] != ':' : !isxdigit((unsigned char)mac[i]))
            return false;
    }
    return (strtoul(mac, NULL, 16) & 1) == 0;
}

bool fm_parse_user(const char *user, unsigned *uid, unsigned *gid)
{
    const char *colon = user ? strchr(user, ':') : NULL;
    int64_t number = 0;

    *uid = *gid = 0;
    if (!user)
        return true;
    fm_autofree char *first = colon ? fm_xstrndup(user, (size_t)(colon - user)) : fm_xstrdup(user);
    if (fm_parse_int(first, 0, UINT_MAX - 1, &number, NULL) < 0)
        return false;
    *uid = (unsigned)number;
    if (!colon)
        return true;
    if (fm_parse_int(colon + 1, 0, UINT_MAX - 1, &number, NULL) < 0)
        return false;
    *gid = (unsigned)number;
    return true;
}
