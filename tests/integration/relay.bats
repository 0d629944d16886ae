#!/usr/bin/env bats
# A third host whose daemon is dead while a container moves goes on sending to the host that it has left: that passes
# the frames on until the third one has heard of the new place. With a connection through the third host's published port.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib

ip=10.88.0.5
port=6400

setup_file()
{
    cluster_start 4 a b c
    root_of redis >/dev/null
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    client_kill
    daemon_alive c || daemon_start c 3>&- 4>&-
    remove_everywhere redis
    until_true no_relay a
    until_true no_relay b
    rm -f "$FM_WORK"/client.*
}

daemon_alive()
{
    kill -0 "$(daemon_pid "$1")" 2>/dev/null
}

daemon_kill()
{
    kill -KILL "$(daemon_pid "$1")"
    wait_gone "$(daemon_pid "$1")"
}

# relays HOST: the MAC addresses whose frames it passes on.
relays()
{
    on "$1" nft list table netdev fleximigrate 2>/dev/null | grep -o 'daddr [^ ]* fwd' | cut -d' ' -f2 || true
}

no_relay()
{
    [ -z "$(relays "$1")" ]
}

# relay_step HOST ID: what the journal says of it.
relay_step()
{
    cluster_cli "$1" --json migration show "$2" | jq -c '[.steps[] | select(.step == "relay")][-1]'
}

# far_client: on host d, through the published port of host c.
far_client()
{
    rm -f "$FM_WORK/client.ready"
    on d "$load_client" "$(address_of c)" $port --rate 500 --keys 500 --value-size 200 --verify \
        --control "$FM_WORK/client.sock" --ready-file "$FM_WORK/client.ready" \
        >"$FM_WORK/client.json" 2>"$FM_WORK/client.log" 3>&- 4>&- &
    echo $! >"$FM_WORK/client.pid"
    until_true test -e "$FM_WORK/client.ready"
    until_true acknowledged_more_than 0
}

# entry_on HOST: where its frames for the container go; "" it is there, or unknown.
entry_on()
{
    on "$1" bridge fdb show dev fmvx0 | awk -v mac="$mac" '$1 == mac && $2 == "dst" { print $3 }'
}

assert_verified()
{
    local host
    for host in "$@"; do
        until_true cluster_cli "$host" network verify ||
            fail "host $host: $(cluster_cli "$host" network verify)" || return 1
    done
}

# moved_past_c: redis has moved from a to b, with the daemon of c dead and a client by c's port. Sets id and mac.
moved_past_c()
{
    run_redis a redis $ip --publish $port:6379
    mac=$(cluster_cli a --json network show default | jq -r '.leases[] | select(.owner == "redis") | .mac')
    until_true eval '[ "$(entry_on c)" = "$(address_of a)" ]'
    until_true eval 'on d redis-cli -h "$(address_of c)" -p $port ping'
    far_client
    daemon_kill c
    cluster_cli a -q migrate redis --to host-b
    id=$(last_migration a)
    cluster_cli a --json migration show "$id" | jq -e '.state == "COMPLETED" and (.needs_attention | not)'
    [ "$(entry_on c)" = "$(address_of a)" ] # it does not know
}

@test "a host whose daemon is dead: its connection goes on, past its restart, and then nobody relays" {
    moved_past_c
    assert_client_served
    [ "$(relays a)" = "$mac" ]
    relay_step a "$id" | jq -e '(.undone | not) and .detail.hosts == ["host-c"]'
    assert_verified a b
    daemon_start c 3>&- 4>&-
    until_true no_relay a
    [ "$(entry_on c)" = "$(address_of b)" ]
    relay_step a "$id" | jq -e .undone
    assert_client_served
    assert_client_unharmed
    assert_verified a b c
}

@test "the relay outlives the daemon that does it, and a repair" {
    moved_past_c
    daemon_kill a
    assert_client_served # the kernel relays
    daemon_start a 3>&- 4>&-
    until_true eval '[ "$(relays a)" = "$mac" ]'
    assert_client_served
    cluster_cli a network repair
    [ "$(relays a)" = "$mac" ]
    assert_verified a
    daemon_start c 3>&- 4>&-
    until_true no_relay a
    assert_client_unharmed
    assert_verified a b c
}

@test "what no journal knows of is gone after a repair, and after a start" {
    local rogue='table netdev fleximigrate {
        chain x {
            type filter hook ingress device "fmvx0" priority 0
            ether daddr 02:00:00:00:00:99 fwd to "fmvx0"
        }
    }'
    on a nft "$rogue"
    [ "$(relays a)" = 02:00:00:00:00:99 ]
    cluster_cli a network repair
    no_relay a
    on a nft "$rogue"
    daemon_restart a
    no_relay a
}

@test "it comes back to the host that relays: its frames stay there" {
    moved_past_c
    cluster_cli b -q migrate redis --to host-a
    assert_client_served
    until_true no_relay a
    assert_runs_only_on a redis
    daemon_start c 3>&- 4>&-
    until_true no_relay b
    assert_client_unharmed
    assert_verified a b c
}

@test "relay_minutes: 0 turns relays off" {
    local real=$FM_WORK/config
    on a cat /etc/fleximigrate/fleximigrate.yaml >"$real"
    on a sed -i 's/^network:/network:\n  relay_minutes: 0/' /etc/fleximigrate/fleximigrate.yaml
    daemon_restart a
    moved_past_c
    no_relay a
    "$load_client" --ask "$FM_WORK/client.sock" stop >/dev/null 2>&1 || true
    on a tee /etc/fleximigrate/fleximigrate.yaml <"$real" >/dev/null
    daemon_restart a
}

@test "a relay whose time is up ends, with the host still away" {
    moved_past_c
    [ "$(relays a)" = "$mac" ]
    on a python3 - <<'END'
import sqlite3
db = sqlite3.connect("/var/lib/fleximigrate/journal.db", timeout=5)
db.execute("UPDATE steps SET detail = json_set(detail, '$.until_us', 1) WHERE step = 'relay' AND undone = 0")
db.commit()
END
    until_true no_relay a
    relay_step a "$id" | jq -e .undone
    grep -q "passed on no more: its time is up" "$FM_WORK/a.log"
}

@test "dead hosts cost a migration no more than one does" {
    local ms
    run_redis a redis $ip --publish $port:6379
    # Where nobody answers; three of them one after the other would take three seconds.
    on a python3 - "$(address_of a)" <<'END'
import json, sqlite3, sys
db = sqlite3.connect("/var/lib/fleximigrate/registry.db")
table, = [t for t, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%kind%'")]
key, doc = [(k, json.loads(d)) for k, d in db.execute(f"SELECT key, doc FROM {table} WHERE kind = 'host'")][0]
for i in (1, 2, 3):
    doc |= {"name": f"dead-{i}", "address": sys.argv[1].rsplit(".", 1)[0] + f".{200 + i}"}
    db.execute(f"INSERT INTO {table} (kind, key, doc) VALUES ('host', ?, ?)", (doc["name"], json.dumps(doc)))
db.commit()
END
    cluster_cli a -q migrate redis --to host-b
    id=$(last_migration a)
    ms=$(cluster_cli a --json migration show "$id" |
        jq '[.transitions[] | select(.from == "VERIFICATION")][0].duration_ms | round')
    echo "# VERIFICATION took $ms ms" >&3
    [ "$(relays a)" ]
    for i in 1 2 3; do
        cluster_cli a -q host remove dead-$i
    done
    until_true no_relay a
    [ "$ms" -lt 2500 ] || fail "VERIFICATION took $ms ms"
}
