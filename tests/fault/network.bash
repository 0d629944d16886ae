# shellcheck shell=bash
# shellcheck disable=SC2154  # variables of the libraries
# What the fault tests of the network share, on top of faults.bash: redis in a network of its own with both address
# families and a published port, under a client that comes to that port on a third host (d), and a command that follows
# its migrations.

load ../integration/followers

ip=$(address_of d) # redis is asked at the third host's published port
daemons=(a b d)

faults_start()
{
    cluster_start 4 a b d
    network_begin
}

cluster_renew()
{
    cluster_down
    rm -rf "$FM_WORK/ca" "$FM_WORK/pki"
    cluster_up "$cluster_prefix" 4 a b d 3>&- 4>&-
    network_begin
}

network_begin()
{
    local host i=0
    root_of redis >/dev/null
    for host in a b c d; do
        on $host ip -6 addr add "fd00:97::1$((i += 1))/64" dev eth0 nodad
    done
    cluster_cli a -q network create blue --subnet 10.99.0.0/24 --gateway 10.99.0.1 --subnet6 fd00:99::/64 --gateway6 fd00:99::1
    follower_begin
}

# --- the follower ---

# It keeps where it was last told that redis is, and whether a migration is under way; twice the same step finds its
# work done. It strikes when it comes to the phase in $FM_WORK/strike-phase.
follower_begin()
{
    cat >"$FM_WORK/command" <<END
#!/bin/sh
cd $FM_WORK
echo "\$FLEXIMIGRATE_PHASE \$FLEXIMIGRATE_SOURCE \$FLEXIMIGRATE_DESTINATION" >>command.log
if [ "\$(cat strike-phase 2>/dev/null)" = "\$FLEXIMIGRATE_PHASE" ]; then
    rm strike-phase
    $kill_one follower
fi
case \$FLEXIMIGRATE_PHASE in
prepare) echo \$FLEXIMIGRATE_MIGRATION >moving ;;
switch) echo \$FLEXIMIGRATE_DESTINATION >place ;;
finish) rm -f moving ;;
undo) echo \$FLEXIMIGRATE_SOURCE >place; rm -f moving ;;
esac
END
    chmod 755 "$FM_WORK/command"
    rm -f "$FM_WORK/moving" "$FM_WORK/place" "$FM_WORK/command.log"
    followers_are <<END
load_balancers:
  - {name: own, containers: [redis], timeout: 5s, command: ['$FM_WORK/command']}
END
}

# assert_followed HOST: it knows where redis is, and of no migration.
assert_followed()
{
    [ ! -e "$FM_WORK/moving" ] || fail "the follower was left in the middle: $(tail -n 5 "$FM_WORK/command.log")"
    [ ! -e "$FM_WORK/place" ] || [ "$(cat "$FM_WORK/place")" = "host-$1" ] ||
        fail "the follower says $(cat "$FM_WORK/place"), redis is on $1: $(tail -n 5 "$FM_WORK/command.log")"
}

# --- what faults.bash asks ---

start_redis()
{
    cluster_cli "$1" -q run --name redis --image "$(root_of redis)" --network blue --publish 6379:6379 \
        --volume "$volume:/volume" -- redis-server /etc/redis.conf --bind 0.0.0.0 ::
    echo "host-$1" >"$FM_WORK/place"
    until_true answers "$ip"
}

# All three hosts are as the registry says, and each publishes redis, for both families.
assert_more()
{
    local host
    assert_verified a b d
    for host in a b d; do
        until_true answers "$(address_of $host)" || fail "the port of host $host does not lead to redis"
    done
    for host in 1 2 4; do
        until_true answers "fd00:97::1$host" || fail "the port of host $host does not lead to redis by IPv6"
    done
    assert_followed "$1"
}
