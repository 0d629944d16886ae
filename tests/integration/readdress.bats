#!/usr/bin/env bats
# A container that gets another address on its way, in its network or in another one: its names follow in a real
# BIND, its ports go on, the old address is free, and a rollback brings everything back.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load migrate

old=10.88.0.5
new=10.88.0.77

setup_file()
{
    cluster_start 4 a b c
    root_of redis >/dev/null
    for host in a b; do
        on "$host" mkdir -p /var/lib/shared
    done
    bind_start
    for host in a b c; do
        followers "$host" "$(address_of c)"
    done
}

teardown_file()
{
    [ ! -e "$FM_WORK/named.pid" ] || kill "$(cat "$FM_WORK/named.pid")" || true
    cluster_stop
}

teardown()
{
    cluster_cli c -q container remove --force web >/dev/null 2>&1 || true
    remove_everywhere web p1 p2 p3
    for host in a b; do
        on "$host" rm -f /var/lib/shared/health
    done
    for host in a b; do
        followers "$host" "$(address_of c)"
    done
    until_true no_lease
}

no_lease()
{
    [ "$(cluster_cli a --json network show default | jq '[.leases[] | select(.owner == "web")] | length')" = 0 ]
}

# bind_start: a name server on host c, with the zones as they were before the first move.
bind_start()
{
    local dir=$FM_WORK/named key=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
    on c mkdir -p $dir
    on c tee $dir/named.conf >/dev/null <<EOF
options { directory "$dir"; listen-on port 53 { any; }; listen-on-v6 { none; }; recursion no; dnssec-validation no;
    notify no; pid-file none; session-keyfile none; lock-file none; };
controls { };
key fm { algorithm hmac-sha256; secret "$key"; };
zone example.org { type primary; file "example.zone"; allow-transfer { any; }; allow-update { key fm; }; };
zone 88.10.in-addr.arpa { type primary; file "reverse.zone"; allow-transfer { any; }; allow-update { key fm; }; };
EOF
    on c tee $dir/example.zone >/dev/null <<EOF
\$TTL 600
@ IN SOA ns.example.org. root.example.org. 1 3600 600 86400 60
@ IN NS ns.example.org.
ns IN A $(address_of c)
web IN A $old
pool IN A 10.88.0.31
pool IN A 10.88.0.32
pool IN A 10.88.0.33
EOF
    on c tee $dir/reverse.zone >/dev/null <<EOF
\$TTL 600
@ IN SOA ns.example.org. root.example.org. 1 3600 600 86400 60
@ IN NS ns.example.org.
${old##*.}.0 IN PTR web.example.org.
EOF
    on c cp /usr/sbin/named $dir/named
    "$top/scripts/hosts" exec "$cluster_prefix" c -- $dir/named -4 -n 1 -f -g -c $dir/named.conf \
        </dev/null >"$FM_WORK/named.log" 2>&1 3>&- 4>&- &
    echo $! >"$FM_WORK/named.pid"
    disown $!
    until_true name_is "$old"
}

# followers HOST SERVER: the daemon on HOST tells this name server. Nothing when it does already.
followers()
{
    local host=$1 text
    text="dns: {server: $2, zone: example.org, reverse_zones: [88.10.in-addr.arpa], key_name: fm, timeout: 1s,
      names: [{container: p1, name: pool}, {container: p2, name: pool}, {container: p3, name: pool}],
      secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}"
    [ "$(on "$host" cat /etc/fleximigrate/followers.yaml 2>/dev/null)" != "$text" ] || return 0
    on "$host" tee /etc/fleximigrate/followers.yaml >/dev/null <<<"$text"
    daemon_restart "$host"
}

# records: what BIND says of the container, with the time to live.
records()
{
    on c dig +noall +answer @"$(address_of c)" web.example.org A | awk '{print $5, $2}'
    on c dig +noall +answer @"$(address_of c)" -x "$1" | awk '{print $5, $2}'
}

name_is()
{
    [ "$(on c dig +short @"$(address_of c)" web.example.org A)" = "$1" ]
}

# The zones are as they were at first, but for their serial numbers.
zones_are_untouched()
{
    [ "$(records $old)" = "$old 600"$'\n'"web.example.org. 600" ]
    [ -z "$(on c dig +short @"$(address_of c)" -x $new)" ]
}

# run_web [OPTION…]: redis under the name that the zone knows, with data. Its names lead to it.
run_web()
{
    run_redis a web $old --publish 6400:6379 "$@"
    [ "$(on c redis-cli -h $old set key value)" = OK ]
    zones_are_untouched
}

published()
{
    [ "$(on d timeout 2 redis-cli -h "$(address_of "$1")" -p 6400 get key)" = value ]
}

all_equal()
{
    local host
    for host in a b c; do
        cluster_cli "$host" network verify >/dev/null || return 1
    done
}

# back_to_old: the zone as it was, by a move back to the old address.
back_to_old()
{
    cluster_cli b -q migrate web --to host-a --new-address $old
    zones_are_untouched
}

@test "a new address: names, ports and leases follow, the data is there, and back again" {
    run_web
    cluster_cli a -q migrate web --to host-b --new-address $new
    assert_runs_only_on b web
    [ "$(on c redis-cli -h $new get key)" = value ]
    run ! on c timeout 1 redis-cli -h $old ping
    [ "$(records $new)" = "$new 600"$'\n'"web.example.org. 600" ]
    [ -z "$(on c dig +short @"$(address_of c)" -x $old)" ]
    for host in a b c; do
        until_true published "$host"
    done
    [ "$(cluster_cli c --json network show default | jq -r '.leases[] | select(.owner == "web") | .ip')" = $new ]
    until_true all_equal
    back_to_old
    [ "$(on c redis-cli -h $old get key)" = value ]
    until_true all_equal
}

@test "a new address: what is connected is closed in the container, and nothing waits for ever" {
    run_web
    on c timeout 20 redis-cli -h $old subscribe nothing >/dev/null 2>&1 3>&- 4>&- &
    until_true eval '[ "$(on c redis-cli -h $old client list | wc -l)" -ge 2 ]'
    cluster_cli a -q migrate web --to host-b --new-address $new
    [ "$(on c redis-cli -h $new client list | wc -l)" = 1 ]
    back_to_old
}

@test "a new address: unhealthy on the destination, it comes back to the old one, and the zones are as before" {
    on a sh -c 'echo good >/var/lib/shared/health'
    on b sh -c 'echo bad >/var/lib/shared/health'
    run_web --volume /var/lib/shared:/shared:ro:shared --health 'cmd:grep -q good /shared/health'
    run -5 --separate-stderr cluster_cli a -q migrate web --to host-b --new-address $new
    [[ $stderr == *"rolled back from VERIFICATION"* ]]
    assert_runs_only_on a web
    [ "$(on c redis-cli -h $old get key)" = value ]
    zones_are_untouched
    until_true all_equal
    for host in a b c; do
        until_true published "$host"
    done
}

@test "a new address: a name server that is away at the end gets the original TTL when it is back" {
    run_web
    printf '#!/bin/sh\nkill -STOP %s\n' "$(cat "$FM_WORK/named.pid")" >"$FM_WORK/away"
    chmod 755 "$FM_WORK/away"
    daemon_restart a "FLEXIMIGRATE_FAULT=step.clean-up=run:$FM_WORK/away"
    cluster_cli a -q migrate web --to host-b --new-address $new
    id=$(last_migration a)
    cluster_cli a --json migration show "$id" |
        jq -e '.state == "COMPLETED" and .needs_attention and .followers_left.followers == ["dns"]'
    kill -CONT "$(cat "$FM_WORK/named.pid")"
    until_true eval '[ "$(records $new)" = "$new 600"$'"'\\n'"'"web.example.org. 600" ]'
    until_true eval 'cluster_cli a --json migration show "$id" | jq -e ".needs_attention | not"'
    [ "$(grep -c "superseded" "$FM_WORK/a.log")" = 0 ]
    daemon_restart a
    back_to_old
}

@test "a new address: a name server that is dead fails PREPARATION, and nothing has changed" {
    run_web
    followers a 10.97.0.99
    run -5 --separate-stderr cluster_cli a -q migrate web --to host-b --new-address $new
    [[ $stderr == *"rolled back from PREPARATION"*"10.97.0.99"* ]]
    assert_runs_only_on a web
    [ "$(on c redis-cli -h $old get key)" = value ]
    zones_are_untouched
    until_true all_equal
}

@test "a new address: a wrong key fails PREPARATION by name" {
    run_web
    on a sed -i 's/secret: MDEy/secret: MDEz/' /etc/fleximigrate/followers.yaml
    daemon_restart a
    run -5 --separate-stderr cluster_cli a -q migrate web --to host-b --new-address $new
    [[ $stderr == *"rolled back from PREPARATION"*"key"* ]]
    assert_runs_only_on a web
    zones_are_untouched
}

@test "another network: it leaves one and joins the other" {
    cluster_cli a -q network create blue --subnet 10.99.0.0/24 --gateway 10.99.0.1
    run_web
    cluster_cli a -q migrate web --to host-c --new-network blue
    lease=$(cluster_cli a --json network show blue | jq -r '.leases[] | select(.owner == "web") | .ip')
    [[ $lease == 10.99.0.* ]]
    for host in a b c; do
        until_true published "$host"
    done
    until_true all_equal
    cluster_cli c -q migrate web --to host-a --new-network default --new-address $old
    [ "$(on c redis-cli -h $old get key)" = value ]
    until_true all_equal
    cluster_cli a -q network remove blue
}

# pool: what BIND says of the name of three containers.
pool()
{
    on c dig +noall +answer @"$(address_of c)" pool.example.org A | awk '{print $5, $2}' | sort | xargs
}

answers_d()
{
    [ "$(on d redis-cli -h "$1" ping)" = PONG ]
}

# all_at_once MIGRATION…: each "HOST NAME TO ADDRESS"; all of them succeed.
all_at_once()
{
    local migration pids=() pid
    for migration in "$@"; do
        # shellcheck disable=SC2086 # words
        set -- $migration
        cluster_cli "$1" -q migrate "$2" --to "$3" --new-address "$4" >"$FM_WORK/$2.out" 2>&1 3>&- 4>&- &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || fail "$(cat "$FM_WORK"/p?.out)"
    done
}

@test "containers that share a name change their addresses at once: each is exchanged, and the TTL is restored" {
    local i
    for i in a:1 a:2 b:3; do
        cluster_cli ${i%:*} -q run --name p${i#*:} --image "$(root_of redis)" --ip 10.88.0.3${i#*:} -- redis-server /etc/redis.conf
        until_true answers_d 10.88.0.3${i#*:}
    done
    all_at_once "a p1 host-b 10.88.0.41" "a p2 host-b 10.88.0.42"
    [ "$(pool)" = "10.88.0.33 600 10.88.0.41 600 10.88.0.42 600" ] || fail "$(pool)"
    all_at_once "b p1 host-a 10.88.0.31" "b p2 host-a 10.88.0.32" "b p3 host-a 10.88.0.43"
    [ "$(pool)" = "10.88.0.31 600 10.88.0.32 600 10.88.0.43 600" ] || fail "$(pool)"
    all_at_once "a p1 host-b 10.88.0.41" "a p3 host-b 10.88.0.33"
    # Of two daemons each address is exchanged as well.
    all_at_once "b p1 host-a 10.88.0.31" "a p2 host-b 10.88.0.42"
    [[ "$(pool)" == "10.88.0.31 "*" 10.88.0.33 "*" 10.88.0.42 "* ]] || fail "$(pool)"
    for i in 31 33 42; do
        answers_d 10.88.0.$i
    done
    until_true all_equal
}

# refused ADDRESS TEXT [OPTION…]
refused()
{
    local address=$1 text=$2
    shift 2
    run -2 --separate-stderr cluster_cli a -q migrate web --to host-b --new-address "$address" "$@"
    [[ $stderr == *"$text"* ]] || fail "$address: $stderr"
}

@test "addresses that cannot be: one clear line, and nothing has changed" {
    run_web
    refused $old "has address $old/24 already"
    refused 10.88.0.1 "is the gateway's"
    refused 192.0.2.1 "outside of the subnet"
    refused nowhere "must be an IP address"
    run -3 --separate-stderr cluster_cli a -q migrate web --to host-b --new-network red
    [[ $stderr == *"no network 'red'"* ]]
    run -4 --separate-stderr cluster_cli a -q migrate web --to host-b --new-address 10.88.0.254
    [[ $stderr == *"belongs to"* ]]
    assert_runs_only_on a web
    until_true all_equal
    zones_are_untouched
}

# stays CODE TEXT OPTION…: a migration to host b ends so with one line, and web is where and what it was.
stays()
{
    local code=$1 text=$2 leases
    shift 2
    leases=$(cluster_cli a --json network list | jq -c '[.[] | [.name, .containers]]')
    run --separate-stderr cluster_cli a -q migrate web --to host-b "$@"
    # shellcheck disable=SC2154 # set by run
    [ "$status" -eq "$code" ] && [ "${#stderr_lines[@]}" -eq 1 ] && [[ $stderr == *"$text"* ]] || fail "$*: expected $code '$text', got $status: $stderr" || return 1
    assert_runs_only_on a web
    [ "$(cluster_cli a --json network list | jq -c '[.[] | [.name, .containers]]')" = "$leases" ] ||
        fail "$*: $(cluster_cli a network list)" || return 1
    zones_are_untouched && until_true all_equal
}

@test "a network or an address that it cannot get: full, taken, outside, unknown, reserved" {
    cluster_cli a -q network create blue --subnet 10.99.0.0/30 --gateway 10.99.0.1
    cluster_cli c -q run --name other --image "$(root_of redis)" --network blue -- redis-server /etc/redis.conf
    run_web
    stays 4 "network 'blue' has no free address left in 10.99.0.0/30: remove a container, or make a larger network" --new-network blue
    stays 4 "address 10.99.0.2 belongs to container 'other' on host-c; choose another" --new-network blue --new-address 10.99.0.2
    stays 2 "10.99.0.1 of 'web' is the gateway's" --new-network blue --new-address 10.99.0.1
    stays 2 "10.99.0.3 of 'web' is reserved" --new-network blue --new-address 10.99.0.3
    stays 2 "outside of the subnet" --new-network blue --new-address 10.88.0.6
    stays 2 "must be an IP address" --new-network blue --new-address 10.99.0
    stays 3 "no network 'red': \`fleximigrate network list\` shows those there are" --new-network red --new-address 10.99.0.2
    cluster_cli c -q container remove --force other
    until_true cluster_cli a -q network remove blue
}

@test "a zone that the name server has not got fails PREPARATION, and nothing has changed" {
    run_web
    on a sed -i 's/zone: example.org/zone: example.net/' /etc/fleximigrate/followers.yaml
    daemon_restart a
    stays 5 "rolled back from PREPARATION" --new-address $new
    [[ $stderr == *"zone example.net: it has not got this zone"* ]] || fail "$stderr"
    on a sed -i 's/example.net/example.org/; s/88.10.in-addr/89.10.in-addr/' /etc/fleximigrate/followers.yaml
    daemon_restart a # an address in none of the zones has no PTR
    run -0 cluster_cli a -q migrate web --to host-b --new-address $new
    [ -z "$(on c dig +short @"$(address_of c)" -x $new)" ]
    followers b "$(address_of c)"
    on c nsupdate -y "hmac-sha256:fm:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" <<<"server $(address_of c)
update delete web.example.org A
update add web.example.org 600 A $old
send"
}
