#!/usr/bin/env bats
# Networks and leases between real daemons: addresses that belong to one container of all hosts, automatic ones, what
# a host that was away hears afterwards, and `network verify`.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load followers

setup_file()
{
    cluster_start 3 a b c
    root_of busybox >/dev/null
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    [ -e "/proc/$(daemon_pid b)" ] || daemon_start b 3>&- 4>&-
    local host name
    for host in a b c; do
        for name in $(cluster_cli $host --json container list | jq -r '.[].name'); do
            cluster_cli $host -q container remove --force "$name"
        done
    done
    until_true no_lease c one
    until_true no_lease c two
    for name in tiny shop; do
        cluster_cli a -q network remove $name >/dev/null 2>&1 || true
    done
}

# nothing_made [NETWORK…]: no container anywhere, no network but these and the default one, and the kernels are as they
# should be.
nothing_made()
{
    local host
    for host in a b c; do
        cluster_cli "$host" --json container list | jq -e 'length == 0' >/dev/null ||
            fail "on $host: $(cluster_cli "$host" container list)" || return 1
        [ "$(cluster_cli "$host" --json network list | jq -r '.[].name' | sort | xargs)" = \
            "$(printf '%s\n' default "$@" | sort | xargs)" ] || fail "on $host: $(cluster_cli "$host" network list)" || return 1
    done
    assert_verified a b c
}

# start HOST NAME [OPTION…]
start()
{
    local host=$1 name=$2
    shift 2
    cluster_cli "$host" -q run --name "$name" --image "$(root_of busybox)" "$@" -- sleep 1000
}

# lease HOST NAME FIELD: of a container in the default network, as that host knows it; "null" for none.
lease()
{
    cluster_cli "$1" --json network show default |
        jq -r --arg owner "$2" --arg field "$3" '[.leases[] | select(.owner == $owner)][0][$field]'
}

lease_is()
{
    [ "$(lease "$1" "$2" "$3")" = "$4" ]
}

no_lease()
{
    lease_is "$1" "$2" ip null
}

# entry_is HOST MAC ADDRESS: where that host's fabric sends frames for a MAC.
entry_is()
{
    on "$1" bridge fdb show dev fmvx0 | grep -q "^$2 dst $3 .*static\|^$2 dst $3 self permanent"
}

# reaches HOST NAME ADDRESS: from inside the container.
reaches()
{
    cluster_cli "$1" container exec "$2" -- ping -c 1 -W 2 "$3" >/dev/null
}

@test "an address belongs to one container of all hosts" {
    start a one --ip 10.88.0.5
    refused 4 b run --name two --image "$(root_of busybox)" --ip 10.88.0.5 -- sleep 1000
    [ "${stderr_lines[0]}" = \
        "fleximigrate: address 10.88.0.5 belongs to container 'one' on host-a; choose another" ]
    [ -z "$(processes_of b two)" ]
    cluster_cli b --json container list | jq -e 'length == 0'
    start b two --ip 10.88.0.6

    cluster_cli a -q container remove --force one
    until_true no_lease b one
    start b three --ip 10.88.0.5
    until_true lease_is a three host host-b
}

@test "addresses are chosen, and no two hosts choose the same" {
    start a one --network default
    start b two --ip auto
    start c three --network default
    run -0 cluster_cli b --json container show two
    jq -e '.network == "default" and (.ip | test("^10\\.88\\.0\\.[0-9]+/24$"))' <<<"$output"
    [ "$(for host in a b c; do cluster_cli "$host" --json container list | jq -r '.[].ip'; done | sort -u | wc -l)" -eq 3 ]
    until_true lease_is c one host host-a
    until_true lease_is c two host host-b
    until_true lease_is a three host host-c
}

@test "network list and show tell what there is" {
    start a one --ip 10.88.0.5
    until_true lease_is b one ip 10.88.0.5
    run -0 cluster_cli b network list
    [[ ${lines[0]} == NAME*MODE*SUBNET*GATEWAY*VNI*CONTAINERS ]]
    [[ ${lines[1]} == default*overlay*10.88.0.0/24*10.88.0.1*1 ]]
    run -0 cluster_cli b network show default
    [[ $output == *"10.88.0.5"*"02:fd:0a:58:00:05"*one*host-a* ]]
    refused 3 b network show shop
    [[ $stderr == *"no network 'shop'"* ]]
    refused 4 a network remove default
    refused 3 a run --name two --image "$(root_of busybox)" --network shop -- sleep 1000
    cluster_cli a --json container list | jq -e 'length == 1'
}

@test "bad input is one line, and makes nothing" {
    refused 2 a network create shop
    refused 2 a network create shop --subnet 10.89.0.0/24 --vni 16777216
    refused 2 a network create shop --subnet 10.89.0.0
    refused 2 a network create shop --subnet 10.89.0.7/24
    refused 2 a network create shop --subnet 10.89.0.0/24 --gateway 10.90.0.1
    refused 2 a network create a-name-of-more-than-thirty-one-chars --subnet 10.89.0.0/24
    refused 2 a network create shop --subnet 10.89.0.0/24 --mode host
    refused 2 a run --name one --image "$(root_of busybox)" --ip 10.88.0.5 --publish 80 -- sleep 1000
    refused 2 a run --name one --image "$(root_of busybox)" --ip 10.88.0.5 --publish 80:80 --publish 80:81 -- sleep 1000
    refused 2 a run --name one --image "$(root_of busybox)" --ip 10.99.0.5 -- sleep 1000
    refused 2 a run --name one --image "$(root_of busybox)" --ip 10.88.0.5 --ip6 fd00::5 -- sleep 1000
    no_lease a one
    cluster_cli a --json container list | jq -e 'length == 0'
    cluster_cli a --json network list | jq -e 'length == 1'
}

@test "a lease moves with its container, and every host knows" {
    start a one --ip 10.88.0.5
    until_true lease_is c one host host-a
    until_true entry_is c 02:fd:0a:58:00:05 "$(address_of a)"
    cluster_cli a -q migrate one --to host-b
    for host in a b c; do
        until_true lease_is "$host" one host host-b
    done
    until_true entry_is c 02:fd:0a:58:00:05 "$(address_of b)"
    until_true entry_is a 02:fd:0a:58:00:05 "$(address_of b)"
    refused 4 c run --name two --image "$(root_of busybox)" --ip 10.88.0.5 -- sleep 1000
    [[ $stderr == *"container 'one' on host-b"* ]]
}

@test "a host that was away hears what it has missed" {
    start b two --ip 10.88.0.6
    until_true lease_is a two host host-b
    daemon_stop b
    start a one --ip 10.88.0.5
    cluster_cli c -q run --name three --image "$(root_of busybox)" --ip 10.88.0.7 -- sleep 1000
    daemon_start b 3>&- 4>&-
    until_true lease_is b one host host-a
    until_true lease_is b three host host-c
    lease_is b two host host-b
    refused 4 b run --name four --image "$(root_of busybox)" --ip 10.88.0.5 -- sleep 1000
    daemon_stop b
    cluster_cli a -q container remove --force one
    daemon_start b 3>&- 4>&-
    until_true no_lease b one
    [ "$(status_on b two)" = running ]
}

@test "network verify says what differs" {
    start a one --ip 10.88.0.5
    until_true lease_is b one host host-a
    for host in a b c; do
        run -0 cluster_cli "$host" network verify
        cluster_cli "$host" --json network verify | jq -e '.ok and .differences == []'
    done
    run -0 cluster_cli b network repair
    [ "$output" = "this host is as the registry says" ]
    run -0 cluster_cli b network verify
}

# registry HOST SQL: somebody changes a host's registry by hand.
registry()
{
    on "$1" sqlite3 -cmd '.timeout 5000' /var/lib/fleximigrate/registry.db "$2"
}

# lease_of_one SETTINGS: changes host a's lease of 10.88.0.5; SETTINGS as json_set has them.
lease_of_one()
{
    registry a "UPDATE documents SET doc = json_set(doc, $1) WHERE kind = 'lease' AND key = 'default/10.88.0.5'"
}

# found_and_repaired HOST LINE: verify says exactly this, and repair mends it.
found_and_repaired()
{
    run -1 cluster_cli "$1" network verify
    [ "$output" = "$2" ] || fail "expected: $2; got: $output" || return 1
    run -0 cluster_cli "$1" network repair
    [ "$output" = "this host is as the registry says" ] || fail "repair of '$2' says: $output" || return 1
    run -0 cluster_cli "$1" network verify
}

@test "each damage by hand is one line, and repair mends it: entries, ports, published ports, leases" {
    local mac=02:fd:0a:58:00:05 a b c
    a=$(address_of a) b=$(address_of b) c=$(address_of c)
    start a one --ip 10.88.0.5 --publish 8080:80
    assert_verified a b c
    until_true entry_is b $mac "$a"
    reaches a one 10.88.0.1

    on b bridge fdb replace $mac dev fmvx0 dst "$c" self permanent
    found_and_repaired b "network 'default' sends $mac to $c, but container 'one' is on host-a ($a)"
    on b bridge fdb del $mac dev fmvx0 self
    found_and_repaired b "network 'default' has no entry for $mac (container 'one' on host-a)"
    on b bridge fdb add 02:fd:0a:58:00:63 dev fmvx0 dst "$c" self permanent
    on b bridge fdb add 02:fd:0a:58:00:63 dev fmvx0 master static
    found_and_repaired b "network 'default' sends 02:fd:0a:58:00:63 to $c, and no lease has it"
    on a bridge fdb add $mac dev fmvx0 dst "$c" self permanent
    on a bridge fdb replace $mac dev fmvx0 master static
    run -1 cluster_cli a network verify
    [ "${lines[0]}" = "network 'default' sends $mac to $c, but container 'one' is here" ]
    [ "${lines[1]}" = "the port of container 'one' is closed" ]
    run -0 cluster_cli a network repair

    on a nft delete element inet fleximigrate tcp4 '{ 8080 }'
    found_and_repaired a "port 8080/tcp to 10.88.0.5 port 80 (container 'one') is not published"
    on b nft delete element inet fleximigrate tcp4 '{ 8080 }'
    found_and_repaired b "port 8080/tcp to 10.88.0.5 port 80 (container 'one') is not published"
    on c nft add element inet fleximigrate targets4 '{ tcp . 10.88.0.9 . 90 }'
    on c nft add element inet fleximigrate tcp4 '{ 9090 comment "ghost default" : 10.88.0.9 . 90 }'
    found_and_repaired c "port 9090/tcp to 10.88.0.9 port 90 is published, and no lease says so"

    lease_of_one "'\$.publish', json('[]')"
    run -1 cluster_cli a network verify # the kernel still has it
    [ "${lines[0]}" = "container 'one' publishes 8080:80/tcp, the lease default/10.88.0.5 does not" ]
    run -0 cluster_cli a network repair
    lease_of_one "'\$.mac', '02:00:00:00:00:01'"
    run -1 cluster_cli a network verify
    [ "${lines[0]}" = "container 'one' has hardware address $mac, the lease default/10.88.0.5 02:00:00:00:00:01" ]
    run -0 cluster_cli a network repair
    registry a "DELETE FROM documents WHERE kind = 'lease' AND key = 'default/10.88.0.5'"
    run -1 cluster_cli a network verify
    [ "${lines[0]}" = "container 'one' has no lease of default/10.88.0.5" ]
    run -0 cluster_cli a network repair
    for host in a b c; do
        until_true lease_is $host one mac $mac
    done
    registry a "INSERT INTO documents SELECT kind, 'default/10.88.0.77', json_set(doc, '\$.ip', '10.88.0.77', '\$.owner', 'ghost',
        '\$.mac', '02:fd:0a:58:00:4d', '\$.publish', json('[]')) FROM documents WHERE kind = 'lease' AND key = 'default/10.88.0.5'"
    found_and_repaired a "10.88.0.77 in network 'default' is leased to container 'ghost', which is not here"
    assert_verified a b c

    # Which of two is right only the host knows that one of them is said to be on.
    registry c "INSERT INTO documents SELECT kind, 'default/10.88.0.78', json_set(doc, '\$.ip', '10.88.0.78', '\$.owner', 'twin',
        '\$.host', 'host-b', '\$.publish', json('[]')) FROM documents WHERE kind = 'lease' AND key = 'default/10.88.0.5'"
    run -1 cluster_cli c network verify
    [[ $output == *"hardware address $mac in network 'default' is leased to 'one' on host-a and to 'twin' on host-b"* ]]
    run -1 cluster_cli c network repair
    until_true lease_is b twin ip 10.88.0.78
    run -0 cluster_cli b network repair
    for host in a c; do
        until_true no_lease $host twin
        run -0 cluster_cli $host network repair
    done
    reaches a one 10.88.0.1
    assert_verified a b c
}

@test "subnets that overlap are refused: with another network, with a host, with what is reserved" {
    cluster_cli a -q network create tiny --subnet 10.60.0.0/29 --gateway 10.60.0.1 --subnet6 fd00:60::/64
    until_true cluster_cli b network show tiny
    refused 1 b network create tiny --subnet 10.61.0.0/24
    [[ $stderr == *"network 'tiny' exists already"* ]]
    refused 1 b network create shop --subnet 10.60.0.0/16
    [[ $stderr == *"subnet 10.60.0.0/16 overlaps with 10.60.0.0/29 of network 'tiny'"* ]]
    refused 1 a network create shop --subnet 10.88.0.128/25
    [[ $stderr == *"overlaps with 10.88.0.0/24 of network 'default'"* ]]
    refused 1 a network create shop --subnet 10.62.0.0/24 --subnet6 fd00:60::/80
    [[ $stderr == *"fd00:60::/64 of network 'tiny'"* ]]
    refused 1 a network create shop --subnet 10.62.0.0/24 --vni 7440
    [[ $stderr == *"VNI 7440 is in use by network 'default'"* ]]
    refused 2 a network create shop --subnet "${FM_HOSTS_SUBNET:-10.97.0}.8/30"
    [[ $stderr == *"contains"*"own address $(address_of a)"* ]]
    refused 2 a network create shop --subnet "${FM_HOSTS_SUBNET:-10.97.0}.12/30" # of b and c
    [[ $stderr == *"contains the address $(address_of b) of host 'host-b'"* ]]
    cluster_cli a host list | grep -q 'host-b .*online'
    refused 2 a network create shop --subnet 127.0.0.0/24
    [[ $stderr == *"reserved"* ]]
    refused 2 a network create shop --subnet 224.0.0.0/24
    refused 2 a network create shop --subnet 10.62.0.0/24 --subnet6 fe80::/64
    nothing_made tiny
}

@test "a subnet that is full says so, on every host, and a removal makes room" {
    local name
    cluster_cli a -q network create tiny --subnet 10.60.0.0/29 --gateway 10.60.0.1
    for name in t1 t2 t3; do
        start a $name --network tiny
    done
    start b t4 --network tiny
    start c t5 --network tiny # of 8 addresses: the network's, the gateway's, the broadcast one, and these
    for host in a b c; do
        refused 1 $host run --name six --image "$(root_of busybox)" --network tiny -- sleep 1000
        [ "${stderr_lines[0]}" = "fleximigrate: network 'tiny' has no free address left in 10.60.0.0/29: remove a container, or make a larger network" ]
        [ -z "$(processes_of $host six)" ]
    done
    refused 2 b run --name six --image "$(root_of busybox)" --network tiny --ip 10.60.0.1 -- sleep 1000
    [[ $stderr == *"10.60.0.1 of 'six' is the gateway's"* ]]
    refused 2 b run --name six --image "$(root_of busybox)" --network tiny --ip 10.60.0.7 -- sleep 1000
    [[ $stderr == *"10.60.0.7 of 'six' is reserved"* ]]
    assert_verified a b c
    run -0 cluster_cli a -q migrate t1 --to host-b # who has an address keeps it
    cluster_cli b -q container remove --force t1
    until_true room_in c tiny
    start c six --network tiny
    assert_verified a b c
    for name in t2 t3; do
        cluster_cli a -q container remove --force $name
    done
    cluster_cli b -q container remove --force t4
    cluster_cli c -q container remove --force t5
    cluster_cli c -q container remove --force six
    until_true cluster_cli a -q network remove tiny
    nothing_made
}

# room_in HOST NETWORK
room_in()
{
    [ "$(cluster_cli "$1" --json network show "$2" | jq '.leases | length')" -lt 5 ]
}

@test "a network that there is not, for a container and for its migration" {
    refused 3 a run --name one --image "$(root_of busybox)" --network shop -- sleep 1000
    [[ $stderr == *"no network 'shop': "*"network list"* ]]
    refused 3 a network show shop
    refused 3 a network remove shop
    nothing_made
}

@test "published ports that cannot be: text, range, twice, somebody else's" {
    local text
    for text in 80 : 80: :80 a:b 0:80 80:0 65536:80 80:65536 -1:80 80:80/sctp 80:80/tcp/udp '80:80 ' 1.2.3.4:80:80; do
        refused 2 a run --name one --image "$(root_of busybox)" --network default --publish "$text" -- sleep 1000
        [[ $stderr == *"published port '$text' is not understood: use HOSTPORT:PORT"* ]] || fail "$text: $stderr"
    done
    refused 2 a run --name one --image "$(root_of busybox)" --network default --publish 80:80 --publish 80:81 -- sleep 1000
    [[ $stderr == *"port 80/tcp is published twice"* ]]
    nothing_made

    local host
    for host in a b; do # the daemons' own port, on the host that is asked, or on every one
        refused 4 $host run --name one --image "$(root_of busybox)" --network default --publish 7441:80 -- sleep 1000
        [[ $stderr == *"port 7441/tcp belongs to host host-$host itself; choose another"* ]] || fail "$stderr"
    done
    server_start echo c busybox httpd -f -p 8090 -h "$FM_WORK"
    server_start inside c busybox httpd -f -p 127.0.0.1:8091 -h "$FM_WORK" # nobody comes to it from elsewhere
    until_true on c bash -c '</dev/tcp/127.0.0.1/8090 && </dev/tcp/127.0.0.1/8091'
    refused 4 a run --name one --image "$(root_of busybox)" --network default --publish 8090:80 -- sleep 1000
    [[ $stderr == *"port 8090/tcp belongs to host host-c itself; choose another"* ]] || fail "$stderr"
    nothing_made
    start c one --network default --publish 8090:80/udp --publish 8091:80
    cluster_cli c -q container remove --force one
    server_kill echo
    server_kill inside
    nothing_made

    start a one --network default --publish 8080:80 --publish 8080:80/udp
    refused 4 a run --name two --image "$(root_of busybox)" --network default --publish 8080:90 -- sleep 1000
    [[ $stderr == *"port 8080/tcp belongs to container 'one' on host-a; choose another"* ]]
    refused 4 b run --name two --image "$(root_of busybox)" --network default --publish 8080:80/udp -- sleep 1000
    [[ $stderr == *"port 8080/udp belongs to container 'one' on host-a; choose another"* ]]
    cluster_cli c -q network create tiny --subnet 10.60.0.0/24
    refused 4 c run --name two --image "$(root_of busybox)" --network tiny --publish 8080:80 -- sleep 1000
    [[ $stderr == *"port 8080/tcp belongs to container 'one' on host-a; choose another"* ]]
    cluster_cli a -q migrate one --to host-b # the port goes with it
    refused 4 a run --name two --image "$(root_of busybox)" --network default --publish 8080:90 -- sleep 1000
    [[ $stderr == *"container 'one' on host-b"* ]]
    start c two --network tiny --publish 8081:80
    assert_verified a b c
    cluster_cli c -q container remove --force two
    cluster_cli b -q container remove --force one
    cluster_cli c -q network remove tiny
    nothing_made
}

@test "a network of its own: both families, moves, damage and repair" {
    cluster_cli a -q network create shop --subnet 10.89.0.0/24 --gateway 10.89.0.1 --subnet6 fd00:89::/64 --gateway6 fd00:89::1
    refused 1 b network create other --subnet 10.89.0.128/25
    cluster_cli c --json network show shop | jq -e '.subnet == "10.89.0.0/24" and .vni > 0'
    start a one --network shop --ip 10.89.0.5
    start b two --network shop
    cluster_cli a --json container show one | jq -e '.ip6 == "fd00:89::5/64" and .network == "shop"'
    reaches b two 10.89.0.5
    reaches b two fd00:89::5

    cluster_cli a -q migrate one --to host-c
    reaches b two 10.89.0.5
    reaches b two fd00:89::5
    for host in a b c; do
        until_true cluster_cli "$host" network verify
    done

    local mac=02:fd:0a:59:00:05 device
    for device in $(on a sh -c 'bridge fdb | sed -n "s/^'$mac' dev \([^ ]*\) .*/\1/p"'); do
        on a bridge fdb del "$mac" dev "$device" self 2>/dev/null || on a bridge fdb del "$mac" dev "$device" master
    done
    run -1 cluster_cli a network verify
    [[ $output == *"has no entry for $mac (container 'one' on host-c)"* ]]
    run -0 cluster_cli a network repair
    run -0 cluster_cli a network verify

    daemon_restart b
    reaches b two 10.89.0.5
    run -0 cluster_cli b network verify
    refused 4 a network remove shop
    cluster_cli c -q container remove --force one
    cluster_cli b -q container remove --force two
    cluster_cli c -q network remove shop
    for host in a b c; do
        cluster_cli "$host" --json network list | jq -e 'length == 1'
        run -0 cluster_cli "$host" network verify
    done
}
