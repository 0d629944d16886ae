#!/usr/bin/env bats
# Networks and leases between real daemons: addresses that belong to one container of all hosts, automatic ones, what
# a host that was away hears afterwards, and `network verify`.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib

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
    remove_everywhere one two three
    cluster_cli c -q container remove --force three >/dev/null 2>&1 || true
    until_true no_lease c one
    until_true no_lease c two
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

# Where the fabric knows only the default network the request is refused, and nothing is made.
@test "a network of its own: both families, moves, damage and repair" {
    run --separate-stderr cluster_cli a network create shop --subnet 10.89.0.0/24 --gateway 10.89.0.1 \
        --subnet6 fd00:89::/64 --gateway6 fd00:89::1
    if [[ $stderr == *"supports only the network"* ]]; then
        [ "$status" -eq 4 ]
        cluster_cli c --json network list | jq -e 'length == 1'
        return
    fi
    [ "$status" -eq 0 ]
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
