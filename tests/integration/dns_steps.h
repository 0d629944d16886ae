/* The follower's steps against the server of the running test, and what is asserted of them. */
#ifndef FM_TESTS_DNS_STEPS_H
#define FM_TESTS_DNS_STEPS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dns_world.h"

enum step { READ, PREPARE, SWITCH_OVER, FINISH, UNDO };

/* Of the running test. */
extern struct world world;
extern struct fm_follower follower;

/* A follower with other settings. */
void dns_open_with(const struct fm_dns_config *config);

struct fm_move dns_move_of(const char *container, const char *old_ip, const char *new_ip,
                           const char *old_ip6, const char *new_ip6);
/* The container `web` in both families. */
const struct fm_move *dns_web(void);

#define OLD_PTR "5.0.0.10.in-addr.arpa"
#define NEW_PTR "6.0.1.10.in-addr.arpa"
#define OLD_PTR6 "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"
#define NEW_PTR6 "6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"

int dns_try_step(enum step step, const struct fm_move *move, json_t **before, struct fm_error *err);
/* The test fails when the step does. */
void dns_do_step(enum step step, const struct fm_move *move, json_t **before);
/* The test fails unless the step does, with this code and these words. */
void dns_fail_step(enum step step, const struct fm_move *move, json_t **before, enum fm_code code,
                   const char *expected);
json_t *dns_read_move(const struct fm_move *move);

/* What the server has of a name now, as world_dig tells it, and of everything. */
void dns_says(const char *name, const char *type, const char *expected);
void dns_dump_is(const char *expected);
/* Knot keeps names in lower case. */
const char *dns_in_its_case(const char *text);

int dns_set_up_bind(void **state);
int dns_set_up_knot(void **state);
int dns_tear_down(void **state);

#define BOTH(test)                                                                                 \
    {#test " (BIND)", test, dns_set_up_bind, dns_tear_down, NULL},                                 \
    {                                                                                              \
#test " (Knot)", test, dns_set_up_knot, dns_tear_down, NULL                                \
    }

#endif
