/* Followers of the configuration: who outside is told where a container is. Read from a file of its
 * own, followers.yaml, which may hold secrets. */
#ifndef FM_DAEMON_FOLLOWERS_H
#define FM_DAEMON_FOLLOWERS_H

#include <stddef.h>

#include "base/error.h"
#include "network/follower.h"

struct fm_followers {
    struct fm_follower *items; /* SDN, DNS, load balancers: in the order in which they are told */
    size_t count;
};

/* Opens all that the file (etc/followers.yaml) names; asks none of them anything. A missing file is
 * an empty one. Errors start with the file's name. */
int fm_followers_open(const char *path, struct fm_followers *followers, struct fm_error *err);
void fm_followers_close(struct fm_followers *followers); /* {0} is fine */

#endif
