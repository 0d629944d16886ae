/* SDN controller: OpenFlow switches through a REST interface with the paths of Ryu's ofctl_rest, as
 * contrib/osken serves them. What a controller answers is checked, bounded and waited for no longer
 * than the time-out; every error names the controller and the switch. */
#ifndef FM_NETWORK_SDN_REST_H
#define FM_NETWORK_SDN_REST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/cancel.h"
#include "base/error.h"
#include "network/topology.h"

struct fm_sdn_rest_config {
    const char *const *urls;     /* "http://10.0.0.1:8080"; tried in this order; NULL-terminated */
    uint64_t timeout_ms;         /* of a session as a whole */
    const char *ca, *cert, *key; /* files for https; NULL: the system's authorities, no client's */
};

/* What is known of the controllers. One for all threads; it must outlive its sessions. */
struct fm_sdn_rest;
/* FM_E_INVALID: no URL, or one that is neither http:// nor https://. Strings are copied. */
struct fm_sdn_rest *fm_sdn_rest_open(const struct fm_sdn_rest_config *config, struct fm_error *err);
void fm_sdn_rest_close(struct fm_sdn_rest *rest);

/* The requests of one step. For one thread; its time runs from here. `patient`: no requests take
 * more than half of what is left, so that a dead switch leaves time for the living ones. When
 * `cancel` says so, all requests fail as it says. */
struct fm_sdn_session;
struct fm_sdn_session *fm_sdn_session_open(struct fm_sdn_rest *rest, bool patient,
                                           struct fm_cancel cancel);
void fm_sdn_session_close(struct fm_sdn_session *session);
/* Time is left, and every barrier so far was a real one. */
bool fm_sdn_session_has_time(const struct fm_sdn_session *session);
bool fm_sdn_session_has_barriers(const struct fm_sdn_session *session);

enum fm_sdn_verb {
    FM_SDN_FLOWS,         /* body: filter; answer: a list of flows */
    FM_SDN_ADD,           /* body: a flow; replaces the one with this table, priority and match */
    FM_SDN_MODIFY_STRICT, /* body: a flow with cookie_mask; does nothing when it is missing */
    FM_SDN_DELETE_STRICT, /* the same */
    FM_SDN_QUEUES,        /* answer: a list of {"port","queues":[{"queue_id"}]} of `port` */
    FM_SDN_METERS,        /* answer: a list of {"meter_id"}: the one that is named in `port` */
    FM_SDN_BARRIER,       /* answer: {"errors":[…]} */
};

struct fm_sdn_request {
    const struct fm_topology_switch *target;
    enum fm_sdn_verb verb;
    json_t *body; /* without dpid; owned */
    uint32_t port;
    json_t *answer;      /* owned; whole numbers are integers */
    bool done;           /* the switch has done it: it needs no barrier */
    struct fm_error err; /* of this request */
};

/* Sends all of them at once and waits for the answers. A controller that fails is followed by the
 * next one: a request may so be made twice. Returns the first request's error that failed. */
int fm_sdn_run(struct fm_sdn_session *session, struct fm_sdn_request *requests, size_t count,
               struct fm_error *err);
void fm_sdn_requests_clear(struct fm_sdn_request *requests, size_t count);

/* Waits until these switches have done what this session sent, and fails when one has refused a
 * part of it. A controller without barriers: does nothing (has_barriers). Failures of single
 * switches are in errors[i] (may be NULL). */
int fm_sdn_barrier(struct fm_sdn_session *session, const struct fm_topology_switch *const *targets,
                   size_t count, struct fm_error *errors, struct fm_error *err);

/* All of these are connected to the controller. */
int fm_sdn_connected(struct fm_sdn_session *session,
                     const struct fm_topology_switch *const *targets, size_t count,
                     struct fm_error *err);

#endif
