#!/usr/bin/env bats
# kill -9 between any two steps of the network's part in a migration. redis is in a network of its own with IPv4 and
# IPv6, its port is published, and its client comes to that port on a third host, over the one connection that it
# began with. Afterwards every host is as the registry says, and the follower knows where redis is. A line is a case, as
# in kill.bats; network-* and hold-* are fault points of the kernel's part, follower.* phases of the command.

load faults
load network

setup_file()
{
    faults_start
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    faults_teardown
}

@test "killed between two network steps: the hosts are as the registry says" {
    each_case <<END
stays destination network-stage kill:daemon@destination
stays source follow kill:daemon@source
moves destination network-activate kill:daemon@destination
moves source follower.switch kill:daemon@source
moves source switch kill:daemon@d
END
}

# bats test_tags=slow
@test "the source dies at each of its network steps" {
    each_case <<END
stays source hold kill:daemon@source
stays source hold-prepare kill:daemon@source
stays source follow kill:daemon@source
stays source follower.prepare kill:daemon@source
stays source hold-engage kill:daemon@source
moves source commit kill:daemon@source
moves source switch kill:daemon@source
moves source hold-forward kill:daemon@source
moves source follower.switch kill:daemon@source
moves source destroy kill:daemon@source
moves source clean-up kill:daemon@source
moves source follower.finish kill:daemon@source
END
}

# bats test_tags=slow
@test "the destination dies at each of its network steps" {
    each_case <<END
stays destination stage-network kill:daemon@destination
stays destination network-stage kill:daemon@destination
stays destination ready kill:daemon@destination
moves destination run kill:daemon@destination
moves destination release kill:daemon@destination
moves destination network-activate kill:daemon@destination
moves destination register kill:daemon@destination
END
}

# bats test_tags=slow
@test "the destination dies at the source's network steps" {
    each_case <<END
stays source hold kill:daemon@destination
stays source follow kill:daemon@destination
stays source follower.prepare kill:daemon@destination
stays source hold-engage kill:daemon@destination
moves source switch kill:daemon@destination
moves source hold-forward kill:daemon@destination
moves source follower.switch kill:daemon@destination
moves source follower.finish kill:daemon@destination
END
}

# bats test_tags=slow
@test "both die, or the source dies at the destination's network steps" {
    each_case <<END
stays destination network-stage kill:daemon@source
stays destination network-stage kill:daemon@source kill:daemon@destination
moves destination network-activate kill:daemon@source
moves destination network-activate kill:daemon@source kill:daemon@destination
moves source switch kill:daemon@source kill:daemon@destination
moves source follower.switch kill:daemon@source kill:daemon@destination
END
}

# bats test_tags=slow
@test "on the way back: the followers are undone all the same" {
    each_case <<END
stays source follower.undo also:step.dumped=fail kill:daemon@source
stays destination discard also:step.ready=fail kill:daemon@destination
END
}

# bats test_tags=slow
@test "a third host dies at the steps that it is told of, or not, and learns of them when it is back" {
    each_case <<END
moves source hold kill:daemon@d
moves source commit kill:daemon@d
moves source switch kill:daemon@d
moves source clean-up kill:daemon@d
moves destination network-activate kill:daemon@d
stays source dumped kill:daemon@d kill:daemon@source
END
}

# damaged HOST WHAT-VERIFY-SAYS COMMAND…: by hand, on that host. It is found, mended, and found no more; the port of that
# host leads to redis again.
damaged()
{
    local host=$1 says=$2 said
    shift 2
    on "$host" "$@" || fail "cannot damage: $*" || return 1
    run -1 cluster_cli "$host" network verify
    [[ $output == *"$says"* ]] || fail "after '$*' verify says: $output" || return 1
    run -0 cluster_cli "$host" network repair
    run -0 cluster_cli "$host" network verify
    until_true answers "$(address_of "$host")" || fail "after '$*' and the repair the port of $host leads nowhere"
}

# blue_of HOST: what the names of the network's devices fmb…, fmh… and fmx… end with.
blue_of()
{
    on "$1" ip -o -4 addr | sed -n 's/.* fmb\([0-9a-f]\{8\}\) .*10\.99\.0\.1\/24.*/\1/p'
}

@test "damage by hand: network verify tells, network repair mends" {
    local mac id
    ensure_redis
    mac=$(cluster_cli "$source" --json container show redis | jq -r .mac)
    id=$(blue_of d)
    assert_verified a b d

    damaged d "has no entry for $mac" bridge fdb del "$mac" dev "fmx$id" self
    damaged d "has no entry for $mac" bridge fdb del "$mac" dev "fmx$id" master
    damaged d "sends $mac to" bridge fdb replace "$mac" dev "fmx$id" self dst "$(address_of c)"
    damaged d "does not send broadcasts to host host-a" bridge fdb del 00:00:00:00:00:00 dev "fmx$id" self dst "$(address_of a)"
    damaged d "no lease has it" sh -c "
        bridge fdb add 02:fd:0a:63:00:77 dev fmx$id self dst $(address_of a)
        bridge fdb add 02:fd:0a:63:00:77 dev fmx$id master static"
    damaged d "is not published" nft delete table inet fleximigrate
    damaged d "is not published" nft flush map inet fleximigrate tcp4
    damaged d "table is damaged" nft flush chain inet fleximigrate outgoing
    damaged d "host's own address" ip link del "fmh$id"
    damaged d "host's own address" sh -c "ip addr flush dev fmh$id"
    damaged d "" ip link del "fmx$id"
    damaged "$source" "is not published" nft delete table inet fleximigrate
    damaged "$destination" "host's own address" ip link del "fmh$id"

    # Where it runs; its client, on the third host's port, has to wait a little.
    local port
    port=$(on "$source" ip -o -d link | sed -n 's/^[0-9]*: \(fm[0-9a-f]*\)@.*alias fleximigrate redis .*/\1/p')
    client_start "$ip"
    damaged "$source" "port of container 'redis' is closed" bridge fdb del "$mac" dev "$port" master
    damaged "$source" "port of container 'redis' is closed" bridge link set dev "$port" state 0
    damaged "$source" "port of container 'redis' is closed" ip link set "$port" down
    damaged "$source" "'redis' has no port in network 'blue'" ip link set "$port" nomaster
    damaged "$source" "'redis' has no port in network 'blue'" ip link del "$port"
    damaged "$source" "'redis' has no port in network 'blue'" ip link del "fmb$id"
    assert_client_served
    assert_verified a b d

    run -0 cluster_cli "$source" -q migrate redis --to "host-$destination"
    assert_sound "$destination"
    assert_client_unharmed
}
