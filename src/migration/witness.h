/* Witness: another host that says whether a container's address is answered, seen from there. */
#ifndef FM_MIGRATION_WITNESS_H
#define FM_MIGRATION_WITNESS_H

#include "migration/migration.h"

/* VERIFICATION: asks up to three hosts that are neither source nor destination; this one when there
 * is none, or only one. One that finds the container, at both of its addresses, is enough, since
 * any other may have troubles of its own; one that cannot tell does not count. FM_E_FAILED: none of
 * them does, and what the last one said. */
int fm_witness_ask(struct fm_migration *m, struct fm_error *err);
/* The answer to such a question, {"network","ip","ip6","mac"} ("ip6" may be "" or missing):
 * {"latency_us"} of the slower one; new reference. FM_E_UNREACHABLE, FM_E_FAILED: an address does
 * not answer, or another container answers; anything else: this host cannot tell. */
json_t *fm_witness_answer(struct fm_components *p, const json_t *body, struct fm_error *err);

#endif
