#include "net_scene.h"

#include <stdio.h>
#include <stdlib.h>

struct lab_host host_a, host_b, host_c;

void open_fabric(struct lab_host *host)
{
    CALL(*host, LAB_OPEN, .name = "0", .ip = "10.88.0.0/16", .host = "10.88.0.1", .number = 42);
}

void join_peers(struct lab_host *host, const struct lab_host *const others[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct lab_request q = {.op = LAB_PEER, .flag = true};
        snprintf(q.host, sizeof(q.host), "%s", others[i]->address);
        lab_call(host, q);
    }
}

void set_remote(struct lab_host *host, const char *ip, const char *where)
{
    struct lab_request q = {.op = LAB_SET_REMOTE, .name = "any"};
    snprintf(q.ip, sizeof(q.ip), "%s", ip);
    snprintf(q.host, sizeof(q.host), "%s", where);
    lab_call(host, q);
}

void start_hosts(bool learning)
{
    lab_host_start(&host_a, 1);
    lab_host_start(&host_b, 2);
    lab_host_start(&host_c, 3);
    open_fabric(&host_a);
    open_fabric(&host_b);
    join_peers(&host_a, (const struct lab_host *const[]){&host_b, &host_c}, 2);
    join_peers(&host_b, (const struct lab_host *const[]){&host_a, &host_c}, 2);
    if (!learning) {
        open_fabric(&host_c);
        join_peers(&host_c, (const struct lab_host *const[]){&host_a, &host_b}, 2);
        return;
    }
    free(lab_sh(host_c.netns,
                "ip link add fmbr0 type bridge forward_delay 0; "
                "ip link add fmvx0 type vxlan id 42 dstport 4789 local %s learning; "
                "bridge fdb append 00:00:00:00:00:00 dev fmvx0 dst %s; "
                "bridge fdb append 00:00:00:00:00:00 dev fmvx0 dst %s; "
                "ip link set fmvx0 master fmbr0 up; ip link set fmbr0 up; "
                "ip addr add 10.88.0.9/16 dev fmbr0",
                host_c.address, host_a.address, host_b.address));
}

void stop_hosts(void)
{
    lab_host_stop(&host_a);
    lab_host_stop(&host_b);
    lab_host_stop(&host_c);
}

/* The server on A, its place on B, the client on C. */
struct scene stage_all(bool learning)
{
    struct scene s;
    start_hosts(learning);
    struct lab_reply a = CALL(host_a, LAB_STAGE, SERVER, .flag = true);
    struct lab_reply b = CALL(host_b, LAB_STAGE, SERVER, .flag = false);
    snprintf(s.a, sizeof(s.a), "%.120s", a.ep.netns);
    snprintf(s.b, sizeof(s.b), "%.120s", b.ep.netns);
    printf("  stage: %.1f ms active, %.1f ms inactive\n", (double)a.us / 1000.0,
           (double)b.us / 1000.0);
    set_remote(&host_b, SERVER_IP, host_a.address);
    if (learning) {
        snprintf(s.client, sizeof(s.client), "%s", host_c.netns);
        return s;
    }
    struct lab_reply c = CALL(host_c, LAB_STAGE, CLIENT, .flag = true);
    snprintf(s.client, sizeof(s.client), "%.120s", c.ep.netns);
    set_remote(&host_c, SERVER_IP, host_a.address);
    set_remote(&host_a, CLIENT_IP, host_c.address);
    set_remote(&host_b, CLIENT_IP, host_c.address);
    return s;
}

struct lab_reply forward_to_b(void)
{
    struct lab_request q = {.op = LAB_HOLD_FORWARD};
    snprintf(q.host, sizeof(q.host), "%s", host_b.address);
    return lab_call(&host_a, q);
}
