/* What the real CRIU is preloaded with. The libraries lie beside this program. */
#ifndef FM_CRIU_PRELOAD_H
#define FM_CRIU_PRELOAD_H

#include <stdbool.h>

/* Number of the socket by which a held CRIU is let go (restore_aid.c). */
#define FM_HOLD_ENVIRONMENT "FLEXIMIGRATE_HOLD_FD"

/* Inode number of a network namespace that is not the container's own (no_conntrack.c). */
#define FM_EXTERNAL_NET_ENVIRONMENT "FLEXIMIGRATE_EXTERNAL_NET"

struct fm_preload {
    bool dump;                /* what every dump needs (dump_aid.c) */
    const char *external_net; /* the inode number; NULL: CRIU saves the network namespace. Without
                                 its library a dump only takes longer */
    const char *filter_dir;   /* the dump is a skeleton; NULL: not */
    bool lazy;                /* a restore whose memory comes from a pager (restore_aid.c). Without
                                 its library fewer deaths are survived */
    int hold_fd;              /* stays open in CRIU; -1: it is not held */
};
/* Sets the environment of the CRIU that is executed next. False when a library is not there that is
 * needed. */
bool fm_preload(const struct fm_preload *preload);

#endif
