#!/usr/bin/env bats
# Two OpenFlow switches (Open vSwitch) and their controller (os-ken with our application) on host d; the hosts' own bridges
# hang on them, and redis moves across under a client.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load followers

ip=10.60.0.5
mac=02:fd:0a:3c:00:05
client=10.60.0.9
client_mac=02:00:00:00:60:09
volume=/var/lib/shared
timeout_ms=2000
grace_ms=2000

setup_file()
{
    cluster_start 4 a b
    root_of redis >/dev/null
    export edge
    edge=$(address_of d)
    switches_start
    controller_start
    wires
    local host
    for host in a b; do
        on $host mkdir -p $volume
    done
    cluster_cli a -q network create lan --mode bridge --parent brlan --subnet 10.60.0.0/24
    followers_are <<END
sdn:
  controllers: [http://$edge:8080]
  timeout: ${timeout_ms}ms
  networks: [lan]
  switches: [{name: leaf-1, dpid: 0xa1}, {name: leaf-2, dpid: 0xb1}]
  links: [{a: leaf-1, port_a: 2, b: leaf-2, port_b: 2, latency_ms: 0.1}]
  hosts: [{name: host-a, switch: leaf-1, port: 1}, {name: host-b, switch: leaf-2, port: 1}]
END
}

teardown_file()
{
    cluster_stop
}

setup()
{
    [ -e "$FM_WORK/controller.server" ] || controller_start
    wait_seconds=30 until_true both_connected || fail "the controller: $(tail -n 5 "$FM_WORK/controller.log")"
    flows_reset
}

teardown()
{
    local server
    for server in controller switches; do
        [ ! -e "$FM_WORK/$server.server" ] || server_signal $server CONT
    done
    client_kill || true
    remove_everywhere redis
    server_kill liar
}

# --- the switches, and who hangs on them ---

switches_start()
{
    on d mkdir -p /run/openvswitch
    on d ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
    server_start database d ovsdb-server /run/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock \
        --pidfile=/run/openvswitch/db.pid --unixctl=/run/openvswitch/db.ctl
    until_true on d test -S /run/openvswitch/db.sock
    server_start switches d ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile=/run/openvswitch/sw.pid \
        --unixctl=/run/openvswitch/sw.ctl
}

controller_start()
{
    server_start controller d env FM_OFCTL_LISTEN="$edge:8080" PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$top/contrib/osken" \
        /usr/bin/osken-manager --ofp-listen-host 127.0.0.1 --ofp-tcp-listen-port 6653 "$top/contrib/osken/ofctl_rest.py"
    [ ! -e "$FM_WORK/wired" ] || wait_seconds=30 until_true both_connected
}

both_connected()
{
    on d curl -sf -m 1 "http://$edge:8080/stats/switches" | jq -e 'sort == [161, 177]'
}

# wire HOST DEVICE: an end in the host, the other one, DEVICE, for a switch.
wire()
{
    on d ip link add "$2" type veth peer name lan0
    on d ip link set lan0 netns "$("$top/scripts/hosts" pid "$cluster_prefix" "$1")"
    on d ip link set "$2" up
    on "$1" ip link set lan0 up
    on "$1" ethtool -K lan0 tx off >/dev/null # the switches do not complete checksums
}

wires()
{
    local host
    wire a wa
    wire b wb
    wire c wc
    for host in a b; do
        on $host ip link add brlan type bridge mcast_snooping 0
        on $host ip link set lan0 master brlan
        on $host ip link set brlan up
    done
    on c ip link set lan0 address $client_mac
    on c ip addr add $client/24 dev lan0
    on d ovs-vsctl --timeout=20 \
        -- add-br swa -- set bridge swa datapath_type=netdev fail-mode=secure other-config:datapath-id=00000000000000a1 \
        -- add-port swa wa -- set interface wa ofport_request=1 \
        -- add-port swa across -- set interface across type=patch options:peer=back ofport_request=2 \
        -- add-port swa wc -- set interface wc ofport_request=3 \
        -- add-br swb -- set bridge swb datapath_type=netdev fail-mode=secure other-config:datapath-id=00000000000000b1 \
        -- add-port swb wb -- set interface wb ofport_request=1 \
        -- add-port swb back -- set interface back type=patch options:peer=across ofport_request=2 \
        -- set-controller swa tcp:127.0.0.1:6653 -- set-controller swb tcp:127.0.0.1:6653
    wait_seconds=30 until_true both_connected
    touch "$FM_WORK/wired"
}

# --- flows ---

flow()
{
    on d ovs-ofctl -O OpenFlow13 "$@"
}

# What somebody else has set up: broadcasts go everywhere, the container and its client are where they are.
flows_reset()
{
    local switch
    for switch in swa swb; do
        flow del-flows $switch
        flow add-flow $switch cookie=0x77,priority=0,actions=NORMAL
    done
    flow add-flow swa "cookie=0x77,priority=100,dl_dst=$mac,actions=output:1"
    flow add-flow swb "cookie=0x77,priority=100,dl_dst=$mac,actions=output:2"
    flow add-flow swa "cookie=0x77,priority=100,dl_dst=$client_mac,actions=output:3"
    flow add-flow swb "cookie=0x77,priority=100,dl_dst=$client_mac,actions=output:2"
}

flows()
{
    local switch
    for switch in swa swb; do
        flow --no-stats --sort dump-flows $switch
    done
}

# leads_to SWITCH PORT: our one flow of the container there.
leads_to()
{
    [ "$(flow --no-stats dump-flows "$1" cookie=0x464d53444e/-1 | grep -o 'dl_dst.*' | xargs)" = "dl_dst=$mac actions=output:$2" ] ||
        fail "$1 has $(flow --no-stats dump-flows "$1")"
}

# --- redis ---

# begin [HEALTH]: on host a, where it is healthy; on host b its health is HEALTH. And a client.
begin()
{
    on a sh -c "echo good >$volume/health"
    on b sh -c "echo ${1:-good} >$volume/health"
    on a curl -sf --unix-socket /run/fleximigrate/fleximigrated.sock -o /dev/null \
        http://localhost/v1/containers -d "$(jq -n --arg image "$(root_of redis)" --arg ip "$ip" --arg volume "$volume:/shared:ro:shared" '
            {name: "redis", $image, $ip, network: "lan", command: ["redis-server", "/etc/redis.conf"], volumes: [$volume],
             health: {kind: "command", target: "grep -q good /shared/health", attempts: 1, interval_ms: 100, timeout_ms: 2000}}')"
    until_true answers "$ip"
    client_start "$ip"
    before=$(identity_of a redis)
    flows >"$FM_WORK/flows.before"
}

# stays TEXT…: PREPARATION fails in its time, each TEXT is in the line, and nothing else has changed.
stays()
{
    local text ms
    refused 5 a migrate redis --to host-b
    for text in "rolled back from PREPARATION" "$@"; do
        [[ $stderr == *"$text"* ]] || fail "expected '$text': $stderr" || return 1
    done
    ms=$(milliseconds_in a "$(last_migration a)" PREPARATION)
    echo "# failed after $ms ms in PREPARATION" >&3
    [ "$ms" -lt $((timeout_ms + grace_ms)) ] || fail "PREPARATION took $ms ms" || return 1
    assert_runs_only_on a redis
    [ "$(identity_of a redis)" = "$before" ] || fail "another process" || return 1
    assert_client_unharmed
    assert_clean b redis
    diff "$FM_WORK/flows.before" <(flows)
}

@test "the switches follow redis to the other host, and back" {
    begin
    run -0 cluster_cli a -q migrate redis --to host-b
    leads_to swa 2
    leads_to swb 1
    assert_client_served
    run -0 cluster_cli b -q migrate redis --to host-a
    leads_to swa 1
    leads_to swb 2
    assert_client_unharmed
    assert_verified a b
}

@test "rolled back from VERIFICATION: every flow is as it was" {
    begin bad
    refused 5 a migrate redis --to host-b
    [[ $stderr == *"rolled back from VERIFICATION"* ]]
    diff "$FM_WORK/flows.before" <(flows)
    assert_client_unharmed
    assert_runs_only_on a redis
}

@test "the controller is dead: PREPARATION fails and names it" {
    begin
    server_kill controller
    stays "SDN: controller http://$edge:8080"
}

@test "the controller stands still: PREPARATION fails within its timeout, and names it" {
    begin
    server_signal controller STOP
    stays "SDN: controller http://$edge:8080: no answer within $timeout_ms ms" ||
        fail "the controller: $(tail -n 5 "$FM_WORK/controller.log")"
    server_signal controller CONT
}

# The client reaches redis through the switch that stands still, so it has to wait as well.
@test "a switch stands still: PREPARATION fails within its timeout, and names it" {
    begin
    server_signal switches STOP
    refused 5 a migrate redis --to host-b
    server_signal switches CONT
    [[ $stderr == *"rolled back from PREPARATION"*"controller http://$edge:8080"*"switch 'leaf-"* ]] || fail "$stderr"
    [ "$(milliseconds_in a "$(last_migration a)" PREPARATION)" -lt $((timeout_ms + grace_ms)) ]
    assert_runs_only_on a redis
    assert_client_unharmed
    diff "$FM_WORK/flows.before" <(flows)
}

@test "a switch has gone: PREPARATION fails and names it" {
    begin
    on d ovs-vsctl --timeout=20 del-controller swb
    until_true eval '! both_connected'
    refused 5 a migrate redis --to host-b
    on d ovs-vsctl --timeout=20 set-controller swb tcp:127.0.0.1:6653
    wait_seconds=30 until_true both_connected
    [[ $stderr == *"rolled back from PREPARATION"*"controller http://$edge:8080"*"switch 'leaf-2'"* ]] || fail "$stderr"
    assert_runs_only_on a redis
    assert_client_unharmed
}

@test "the controller answers garbage: PREPARATION fails and names it" {
    begin
    server_kill controller
    server_start liar d python3 -c '
import os, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], 8080))
s.listen(9)
while True:
    c = s.accept()[0]
    c.recv(10000)
    c.sendall(b"HTTP/1.1 200 OK\r\n\r\n{\"161\": " + os.urandom(100000))
    c.close()' "$edge"
    until_true on d bash -c "</dev/tcp/$edge/8080"
    stays "SDN: controller http://$edge:8080"
}
