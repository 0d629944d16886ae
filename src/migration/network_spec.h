/* Network specifications: what a named network is, checked, as JSON and against others. */
#ifndef FM_MIGRATION_NETWORK_SPEC_H
#define FM_MIGRATION_NETWORK_SPEC_H

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"
#include "network/network.h"

#define FM_NETWORK_NAME_MAX 31
#define FM_VNI_MAX 16777215 /* 24 bits (RFC 7348) */

/* "overlay", "bridge", "macvlan". */
const char *fm_network_mode_text(enum fm_network_mode mode);

/* Reads and checks {"name","mode","subnet","gateway","subnet6","gateway6","vni","mtu","parent"},
 * which may come from anybody: missing and null is not set, unknown keys are left alone. An overlay
 * may lack its VNI. Addresses come out in their shortest form. FM_E_INVALID. */
int fm_network_spec_from_json(const json_t *doc, struct fm_network_spec *spec,
                              struct fm_error *err);
json_t *fm_network_spec_to_json(const struct fm_network_spec *spec);
bool fm_network_spec_equal(const struct fm_network_spec *a, const struct fm_network_spec *b);

/* FM_E_EXISTS: one has the VNI or a part of the subnet of the other. Names are not compared. */
int fm_network_spec_clash(const struct fm_network_spec *spec, const struct fm_network_spec *other,
                          struct fm_error *err);

#endif
