/* Readdress: a container that has another address, perhaps in another network, on its destination.
 * Its established TCP connections come back closed, and what was sent to the old address is not
 * forwarded; DNS and other followers are told. */
#ifndef FM_MIGRATION_READDRESS_H
#define FM_MIGRATION_READDRESS_H

#include "migration/migration.h"

/* PLANNING: leases what the options ask for. m->arrival stays NULL when they ask for nothing.
 * FM_E_REFUSED: it cannot have another address, or somebody else has that one. */
int fm_readdress_plan(struct fm_migration *m, struct fm_error *err);
/* Recovery: what the journal knows of it. */
int fm_readdress_recall(struct fm_migration *m, struct fm_error *err);
/* As the destination knows it. */
static inline const struct fm_container *fm_readdress_container(const struct fm_migration *m)
{
    return m->arrival ? m->arrival : m->container;
}
static inline const struct fm_endpoint *fm_readdress_endpoint(const struct fm_migration *m)
{
    return m->arrival ? &m->arrival_endpoint : &m->endpoint;
}
/* {"network","ip","ip6","mac","gateway","gateway6"}: what it had before, for the way back; NULL
 * when nothing changes. New reference. */
json_t *fm_readdress_left(const struct fm_migration *m);
/* The record of a container with what it had before; the caller frees it. FM_E_INVALID: `left` is
 * no such document. */
struct fm_container *fm_readdress_back(const struct fm_container *container, const json_t *left,
                                       struct fm_error *err);
/* It runs there: the ports are the new lease's. */
void fm_readdress_switch(struct fm_migration *m);
/* COMPLETED: the old address is free. */
void fm_readdress_settle(struct fm_migration *m);
/* ROLLBACK: the new one is. */
void fm_readdress_undo(struct fm_migration *m);

#endif
