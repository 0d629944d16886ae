/* Checks of what others say about a container: paths, addresses, digests. None touches the file
 * system. */
#ifndef FM_CONTAINER_CHECK_H
#define FM_CONTAINER_CHECK_H

#include <stdbool.h>
#include <stddef.h>

/* Printable text of 1 … max bytes without control characters. */
bool fm_is_text(const char *s, size_t max);
/* Absolute path without empty, "." or ".." components, shorter than PATH_MAX ("/" included). */
bool fm_is_clean_path(const char *path);
/* "sha256:" and 64 lower-case hex digits. */
bool fm_is_digest(const char *digest);
/* "10.88.0.5/24"; with prefix_length false "10.88.0.5". IPv4 or IPv6. */
bool fm_is_address(const char *address, bool prefix_length);
/* "02:42:0a:58:00:05", unicast. */
bool fm_is_mac(const char *mac);
/* "tcp://10.88.0.9:5432,500ms" as far as its letters go; who asks for it looks closer. */
bool fm_is_dependency(const char *dependency);
/* "1000" or "1000:1000"; fills in what is given, gid = 0 without one. */
bool fm_parse_user(const char *user, unsigned *uid, unsigned *gid);

#endif
