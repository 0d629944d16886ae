#!/usr/bin/env bats
# After the commit another host is asked whether it finds the container where it is now.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load migrate

ip=10.88.0.5

setup_file()
{
    cluster_start 4 a b c
    root_of redis >/dev/null
    cluster_cli a -q host add host-c "$(address_of c)"
    cluster_cli c -q host add host-a "$(address_of a)"
    cluster_cli c -q host add host-b "$(address_of b)"
    cluster_cli b -q host add host-c "$(address_of c)"
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    on b nft delete table inet cut 2>/dev/null || true
    on b nft delete table bridge cut 2>/dev/null || true
    on c ip link set fmvx0 up
    remove_everywhere redis
    cluster_cli a -q network remove dual 2>/dev/null || true
}

# Host c has a daemon here: clients are on d.
answers()
{
    [ "$(on d redis-cli -h "$1" ping)" = PONG ]
}

@test "a third host finds the container, and says so" {
    run_redis a redis $ip
    hop a b redis
    grep -q "Host host-c finds redis in" "$FM_WORK/a.log"
}

@test "no third host finds the container: back on the source, with its data" {
    run_redis a redis $ip
    [ "$(on d redis-cli -h $ip set key value)" = OK ]
    # The destination is cut off from the overlay, and healthy in itself.
    on b nft 'add table inet cut; add chain inet cut out { type filter hook output priority 0; };
        add rule inet cut out udp dport 4789 drop'
    run -5 --separate-stderr cluster_cli a -q migrate redis --to host-b
    [[ $stderr == *"rolled back from VERIFICATION"*"host 'host-c' does not find 'redis'"* ]]
    assert_runs_only_on a redis
    [ "$(on d redis-cli -h $ip get key)" = value ]
}

@test "a third host that does not answer is no witness" {
    run_redis a redis $ip
    kill -STOP "$(daemon_pid c)"
    run cluster_cli a -q migrate redis --to host-b
    kill -CONT "$(daemon_pid c)"
    [ "$status" -eq 0 ]
    assert_runs_only_on b redis
}

@test "a third host whose own way is down cannot tell" {
    run_redis a redis $ip
    on c ip link set fmvx0 down
    hop a b redis
    grep -q "Host host-c cannot tell whether it finds redis: VXLAN device fmvx0 of network 'default' is down" "$FM_WORK/a.log"
    assert_runs_only_on b redis
}

@test "of both addresses the second one is asked for as well" {
    cluster_cli a -q network create dual --subnet 10.60.0.0/24 --gateway 10.60.0.1 --subnet6 fd00:60::/64
    run_dual a
    hop a b redis
    hop b a redis
    # The destination lets no IPv6 in.
    on b nft 'add table bridge cut; add chain bridge cut in { type filter hook forward priority 0; };
        add rule bridge cut in ether type ip6 drop'
    run -5 --separate-stderr cluster_cli a -q migrate redis --to host-b
    [[ $stderr == *"host 'host-c' does not find 'redis': address fd00:60::5 does not answer neighbour discovery"* ]] ||
        fail "$stderr"
    assert_runs_only_on a redis
}

run_dual()
{
    cluster_cli "$1" -q run --name redis --image "$(root_of redis)" --network dual --ip 10.60.0.5 -- redis-server /etc/redis.conf
}
