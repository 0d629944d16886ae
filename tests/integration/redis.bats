#!/usr/bin/env bats
# redis moves to the other host and back, with its clients connected.

load lib
load migrate

ip=10.88.0.5

setup_file()
{
    cluster_start 3
    root_of redis >/dev/null
}

teardown_file()
{
    cluster_stop
}

setup()
{
    cluster_cli a -q run --name redis --image "$(root_of redis)" --ip "$ip" --health tcp://:6379 \
        -- redis-server /etc/redis.conf --enable-debug-command yes
    until_true answers "$ip"
}

teardown()
{
    client_kill
    clients_kill
    remove_everywhere redis
}

redis()
{
    on c redis-cli -h "$ip" "$@"
}

@test "redis under full load: no write is lost, and the connection stays" {
    client_start "$ip" --rate 0 --outstanding 16 --keys 10000 --value-size 1k --preload-mib 32
    ask_client mark
    redis_hop a b
    redis_hop b a
    assert_client_unharmed
    show "$(jq .acknowledged_writes "$FM_WORK/client.json") writes acknowledged, 0 lost"
}

redis_hop()
{
    local gap
    hop "$1" "$2" redis
    assert_client_served
    gap=$(ask_client mark | jq .max_gap_ms)
    show "client gap $gap ms"
    assert_no_timeout "$gap"
}

ask_client()
{
    "$FM_BUILD/tests/workloads/loadclient" --ask "$FM_WORK/client.sock" "$1"
}

# A value of every type, some of them with a time to live.
fill()
{
    redis debug populate 20000 key 300
    redis eval "
        for i = 1, 2000 do
            redis.call('rpush', 'list', i)
            redis.call('sadd', 'set', 'member' .. i)
            redis.call('zadd', 'sorted', i, 'member' .. i)
            redis.call('hset', 'hash', 'field' .. i, i)
            redis.call('xadd', 'stream', '*', 'n', i)
            redis.call('setex', 'brief:' .. i, 3600, i)
        end" 0
}

@test "redis without writers: the data set is the same to the last key" {
    fill >/dev/null
    local digest size
    digest=$(redis debug digest)
    size=$(redis dbsize)
    [[ $digest =~ ^[0-9a-f]{40}$ && ! $digest =~ ^0+$ ]]
    [ "$size" -eq 22005 ]

    hop a b redis
    [ "$(redis debug digest)" = "$digest" ]
    hop b a redis
    [ "$(redis debug digest)" = "$digest" ]
    [ "$(redis dbsize)" = "$size" ]
    [ "$(redis ttl brief:7)" -gt 3000 ]
}

@test "redis: a client that waits for an answer gets it after both moves" {
    on c redis-cli -h "$ip" blpop queue 0 >"$FM_WORK/blpop.out" 3>&- 4>&- &
    echo $! >"$FM_WORK/blpop.pid"
    until_true has_waiting_client
    hop a b redis
    hop b a redis
    redis lpush queue there-it-is
    wait_gone "$(cat "$FM_WORK/blpop.pid")"
    grep -qx there-it-is "$FM_WORK/blpop.out"
}

has_waiting_client()
{
    redis info clients | grep -q 'blocked_clients:1'
}
