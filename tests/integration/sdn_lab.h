/* Two hosts' Open vSwitch bridges joined by a link, an os-ken controller for both, the same
 * container on either side and a client on the first:
 *
 *      client 3┐
 *   container 1┤ swa 2 ──── 2 swb ├1 container
 */
#ifndef FM_TESTS_SDN_LAB_H
#define FM_TESTS_SDN_LAB_H

#include <sys/types.h>

#include "network/sdn.h"

#define SWA_DPID 0xa1
#define SWB_DPID 0xb1
#define CONTAINER_MAC "02:fd:0a:43:00:05"
#define CONTAINER_IP "10.67.0.5"
#define CLIENT_MAC "02:fd:0a:43:00:09"
#define CONTROLLER "http://127.0.0.1:8080"
#define CONTROLLER_WITHOUT_BARRIERS "http://127.0.0.1:8081"

struct sdn_lab {
    pid_t controller, controller2;
    pid_t database[2], vswitchd[2];
};

/* Everything in namespaces of this process's own; its children die with it. */
void sdn_lab_start(struct sdn_lab *lab);
void sdn_lab_stop(struct sdn_lab *lab);
void sdn_lab_start_vswitchd(struct sdn_lab *lab, int which);
/* Waits until the controller has (or has not) that switch. */
void sdn_lab_await(const char *controller, unsigned dpid, bool connected);

/* Path of "swa", "swb", "ca", "cb", "client". */
const char *sdn_lab_netns(const char *name);
/* Empties both tables and puts in the operator's own flows: the container is on A. */
void sdn_lab_reset(void);
void sdn_lab_flow(const char *sw, const char *command, const char *flow);
/* The flows of a switch, or of both ("*"), sorted, without counters; the caller frees it. */
char *sdn_lab_dump(const char *sw);

/* The follower's configuration; controllers may be NULL. */
struct fm_sdn_config sdn_lab_config(const char *const *controllers);
struct fm_move sdn_lab_move(const char *from, const char *to);

#endif
