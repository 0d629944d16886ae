/* Published ports as people write them, and whether a list of them can be. */
#ifndef FM_NETWORK_PUBLICATION_H
#define FM_NETWORK_PUBLICATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "network/network.h"

/* "[HOST_PORT:]PORT[/tcp|/udp]": fills in protocol (tcp when none is named), host_port (PORT when
 * none is named) and port, and empties the rest. FM_E_INVALID names the text. */
int fm_publication_parse(const char *text, struct fm_publication *publication,
                         struct fm_error *err);
/* "8080:80/tcp". */
#define FM_PUBLICATION_TEXT 24
char *fm_publication_format(const struct fm_publication *publication,
                            char text[FM_PUBLICATION_TEXT]);

/* Whether all of these can be published together: names, protocols, ports and addresses are valid
 * (FM_E_INVALID), and no two have the same port of the hosts (FM_E_EXISTS names both containers).
 */
int fm_publication_check(const struct fm_publication *list, size_t count, struct fm_error *err);

/* Whether a process of this host (its network namespace) listens on a port: once that is published,
 * only new connections to 127.0.0.0/8 and ::1 reach the process. For a warning; changes nothing. */
int fm_publication_in_use(const char *protocol, uint16_t port, bool *in_use, struct fm_error *err);

#endif
