/* Relays: a host that was not told where a container has gone sends to the host that it has left,
 * which passes its frames on until every host has confirmed the new place. */
#ifndef FM_MIGRATION_RELAY_H
#define FM_MIGRATION_RELAY_H

#include "migration/migration.h"

/* COMPLETED, before the hold ends: for the hosts in m->untold (NULL: nobody knows who was told). */
void fm_relay_begin(struct fm_migration *m);
/* After a start: those that the journal knows go on, others are gone. */
void fm_relays_resume(struct fm_components *p);
/* Asks those who are missing, and ends what nobody needs any more: all hosts have confirmed, the
 * time is up, the container has come back or is gone. */
void fm_relays_pass(struct fm_components *p);

/* `network repair`: the kernel's are those of the journal that are still needed. */
int fm_relays_repair(struct fm_components *p, struct fm_error *err);

#endif
