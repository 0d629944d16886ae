#!/usr/bin/env bats
# Who outside is told of a migration, with real daemons, containers and servers: HAProxy in front of a web server that
# moves, a command, DNS. Dead, stopped and lying ones fail PREPARATION, and the container does not notice.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load followers

ip=10.88.0.5
published=8080
timeout_ms=1000
# What a step may take beyond its timeout on a machine that has other things to do.
grace_ms=2000

setup_file()
{
    cluster_start 4 a b
    export edge
    edge=$(address_of d)
    web_root >/dev/null
    mkdir "$FM_WORK/other"
    echo other >"$FM_WORK/other/index.html"
    server_start other d busybox httpd -f -p 127.0.0.1:8080 -h "$FM_WORK/other"
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    [ ! -e "$FM_WORK/web.pid" ] || kill -KILL "$(cat "$FM_WORK/web.pid")" 2>/dev/null || true
    [ ! -e "$FM_WORK/sessions.pid" ] || kill -KILL "$(cat "$FM_WORK/sessions.pid")" 2>/dev/null || true
    rm -f "$FM_WORK/web.pid" "$FM_WORK"/sessions.*
    remove_everywhere web
    local server
    for server in haproxy liar controller named; do
        server_kill "$server"
    done
    rm -f "$FM_WORK/command.log" "$FM_WORK/misbehave"
}

# --- a web server ---

# web_root: a page that says "web", and a health that is what /shared/health says.
web_root()
{
    local root=$FM_WORK/root-web
    if [ ! -d "$root" ]; then
        "$top/scripts/make-rootfs" busybox "$root"
        mkdir "$root/www"
        echo web >"$root/www/index.html"
    fi
    echo "$root"
}

# run_web [HEALTH]: on host a, whether it is healthy there or not; on host b its health is HEALTH.
run_web()
{
    local host
    for host in a b; do
        on $host mkdir -p /var/lib/shared
    done
    on a sh -c 'echo good >/var/lib/shared/health'
    on b sh -c "echo ${1:-good} >/var/lib/shared/health"
    on a curl -sf --unix-socket /run/fleximigrate/fleximigrated.sock -o /dev/null \
        http://localhost/v1/containers -d "$(jq -n --arg image "$(web_root)" --arg ip "$ip" --arg port "$published:80" '
            {name: "web", $image, $ip, publish: [$port], command: ["httpd", "-f", "-p", "80", "-h", "/www"],
             volumes: ["/var/lib/shared:/shared:ro:shared"],
             health: {kind: "command", target: "grep -q good /shared/health", attempts: 1, interval_ms: 100, timeout_ms: 1000}}')"
    until_true page_is "$ip" 80 web
    identity_of a web >"$FM_WORK/web.identity"
}

page_is()
{
    [ "$(on c curl -s -m 2 "http://$1:$2/")" = "$3" ]
}

# assert_stayed: it runs on as the very process that it was, and the destination has nothing of it.
assert_stayed()
{
    assert_runs_only_on a web
    [ "$(identity_of a web)" = "$(cat "$FM_WORK/web.identity")" ] || fail "web is another process now"
    assert_clean b web
    assert_verified a b
}

# migration_fails STATE TEXT: one that is rolled back from that state, and says so; sets id.
migration_fails()
{
    refused 5 a migrate web --to host-b
    [[ $stderr == *"rolled back from $1"*$2* ]] || fail "expected $1: $2; got: $stderr"
    id=$(last_migration a)
    cluster_cli a --json migration show "$id" | jq -e '.final and (.needs_attention | not)' >/dev/null ||
        fail "it needs attention: $(cluster_cli a --json migration show "$id")"
}

# assert_in_time: PREPARATION was given up when its follower's time was up.
assert_in_time()
{
    local ms
    ms=$(milliseconds_in a "$id" PREPARATION)
    echo "# failed after $ms ms in PREPARATION" >&3
    [ "$ms" -lt $((timeout_ms + grace_ms)) ] || fail "PREPARATION took $ms ms"
}

# --- HAProxy ---

# haproxy_start: with one backend of web and another server, one of web alone, and one of web's published port.
haproxy_start()
{
    cat >"$FM_WORK/haproxy.cfg" <<END
global
    stats socket ipv4@$edge:9999 level admin
    stats timeout 10s
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
    retries 0
    default-server inter 100ms fall 2 rise 1
frontend both
    bind $edge:8000
    default_backend both
frontend alone
    bind $edge:8001
    default_backend alone
frontend hosts
    bind $edge:8002
    default_backend hosts
frontend raw
    mode tcp
    bind $edge:8003
    default_backend raw
backend raw
    mode tcp
    server web $ip:80 weight 50
    server other 127.0.0.1:8080 weight 50
backend both
    server web $ip:80 weight 50 check
    server other 127.0.0.1:8080 weight 50 check
backend alone
    server web $ip:80 weight 50
backend hosts
    server web $(address_of a):$published weight 50
END
    server_start haproxy d haproxy -db -q -f "$FM_WORK/haproxy.cfg"
    until_true page_is "$edge" 8000 other
    until_true page_is "$edge" 8000 web
}

# server_of BACKEND: "ADDRESS:PORT WEIGHT" of web in it.
server_of()
{
    on c busybox nc -w 2 "$edge" 9999 <<<"show servers state $1" | awk '$4 == "web" { print $5 ":" $19 " " $8 }'
}

assert_server()
{
    [ "$(server_of "$1")" = "$2" ] || fail "the server in '$1' is '$(server_of "$1")', not '$2'"
}

# haproxy_follows BACKEND [LINE…]: further lines are keys of the section haproxy.
haproxy_follows()
{
    local backend=$1 line
    shift
    {
        echo "load_balancers:"
        echo "  - name: edge"
        echo "    timeout: ${timeout_ms}ms"
        echo "    haproxy:"
        echo "      socket: $edge:9999"
        echo "      backend: $backend"
        for line in "$@"; do
            echo "      $line"
        done
    } | followers_are
}

# look_while_it_moves BACKEND: what the server is between PREPARATION and the freeze goes to $FM_WORK/seen.
look_while_it_moves()
{
    cat >"$FM_WORK/look" <<END
#!/bin/sh
echo 'show servers state $1' | busybox nc -w 2 $edge 9999 | awk '\$4 == "web" { print \$5 ":" \$19 " " \$8 }' >$FM_WORK/seen
END
    chmod 755 "$FM_WORK/look"
    rm -f "$FM_WORK/seen"
    daemon_restart a "FLEXIMIGRATE_FAULT=step.dump=run:$FM_WORK/look"
}

@test "HAProxy: drained while it moves, then served again, and no request fails" {
    run_web
    haproxy_start
    haproxy_follows both "drain_wait: 2s"
    look_while_it_moves both
    assert_server both "$ip:80 50"
    web_client "$edge" 8000
    run -0 cluster_cli a migrate web --to host-b || fail "$output"
    [ "$(cat "$FM_WORK/seen")" = "$ip:80 0" ] || fail "it was '$(cat "$FM_WORK/seen")' before the freeze"
    assert_server both "$ip:80 50"
    assert_runs_only_on b web
    until_true page_is "$edge" 8000 web
    run -0 cluster_cli b migrate web --to host-a # host b's daemon drives it now
    assert_server both "$ip:80 50"
    web_client_ends '.answers.web > 10 and .answers.other > 10'
    assert_verified a b
}

@test "HAProxy: the only server keeps its weight, and its requests wait for it" {
    run_web
    haproxy_start
    haproxy_follows alone
    look_while_it_moves alone
    web_client "$edge" 8001
    run -0 cluster_cli a migrate web --to host-b || fail "$output"
    [ "$(cat "$FM_WORK/seen")" = "$ip:80 50" ]
    assert_server alone "$ip:80 50"
    web_client_ends '.answers.web > 10 and (.answers | length) == 1'
}

@test "HAProxy: a published port is the new host's from then on" {
    run_web
    haproxy_start
    haproxy_follows hosts
    web_client "$edge" 8002
    run -0 cluster_cli a migrate web --to host-b || fail "$output"
    assert_server hosts "$(address_of b):$published 50"
    run -0 cluster_cli b migrate web --to host-a
    assert_server hosts "$(address_of a):$published 50"
    web_client_ends '.answers.web > 10'
}

@test "HAProxy: rolled back from VERIFICATION, it is as it was" {
    run_web bad
    haproxy_start
    haproxy_follows hosts "drain_percent: 20"
    look_while_it_moves hosts
    web_client "$edge" 8002
    migration_fails VERIFICATION "health check"
    [ "$(cat "$FM_WORK/seen")" = "$(address_of a):$published 10" ]
    assert_server hosts "$(address_of a):$published 50"
    assert_runs_only_on a web
    web_client_ends '.answers.web > 10'
    assert_verified a b
}

@test "HAProxy is dead: PREPARATION fails, and says which" {
    run_web
    haproxy_start
    haproxy_follows both
    server_kill haproxy
    migration_fails PREPARATION "load balancer 'edge'"
    [[ $stderr == *"$edge:9999"* ]] || fail "it does not say where: $stderr"
    assert_in_time
    assert_stayed
    haproxy_start
    run -0 cluster_cli a -q migrate web --to host-b
    assert_server both "$ip:80 50"
}

@test "HAProxy stands still: PREPARATION fails within its timeout" {
    run_web
    haproxy_start
    haproxy_follows both
    server_signal haproxy STOP
    migration_fails PREPARATION "load balancer 'edge'"
    [[ $stderr == *"$edge:9999"* ]] || fail "it does not say where: $stderr"
    server_signal haproxy CONT
    assert_in_time
    assert_stayed
    assert_server both "$ip:80 50"
}

@test "HAProxy stops in the middle of PREPARATION: it is as it was as soon as it goes on" {
    run_web
    haproxy_start
    {
        echo "load_balancers:"
        echo "  - {name: edge, timeout: ${timeout_ms}ms, haproxy: {socket: '$edge:9999', backend: both}}"
        echo "  - {name: stopper, timeout: 5s, command: ['$FM_WORK/stopper']}"
    } >"$FM_WORK/followers"
    # Drained already; it misses the undoing for a while.
    cat >"$FM_WORK/stopper" <<END
#!/bin/sh
case \$FLEXIMIGRATE_PHASE in
prepare) kill -STOP $(cat "$FM_WORK/haproxy.server"); echo 'not today' >&2; exit 1 ;;
undo) (sleep 0.4; kill -CONT $(cat "$FM_WORK/haproxy.server")) >/dev/null 2>&1 & ;;
esac
END
    chmod 755 "$FM_WORK/stopper"
    followers_are <"$FM_WORK/followers"
    migration_fails PREPARATION "load balancer 'stopper'"
    [[ $stderr == *"not today"* ]]
    assert_server both "$ip:80 50"
    assert_stayed
}

@test "HAProxy stops in the middle of PREPARATION for longer: it is as it was when it is back, without a restart" {
    run_web
    haproxy_start
    cat >"$FM_WORK/stopper" <<END
#!/bin/sh
[ \$FLEXIMIGRATE_PHASE != prepare ] || { kill -STOP $(cat "$FM_WORK/haproxy.server"); exit 1; }
END
    chmod 755 "$FM_WORK/stopper"
    followers_are <<END
load_balancers:
  - {name: edge, timeout: ${timeout_ms}ms, haproxy: {socket: '$edge:9999', backend: both}}
  - {name: stopper, timeout: 5s, command: ['$FM_WORK/stopper']}
END
    refused 1 a migrate web --to host-b
    id=$(last_migration a)
    cluster_cli a --json migration show "$id" |
        jq -e '.final and .needs_attention and .followers_left.followers == ["load-balancer edge"]'
    until_true eval 'cluster_cli a --json migration show "$id" | jq -e ".followers_left.attempts > 1"'
    server_signal haproxy CONT
    until_true eval '[ "$(server_of both)" = "$ip:80 50" ]'
    until_true eval 'cluster_cli a --json migration show "$id" | jq -e ".needs_attention | not"'
    assert_stayed
}

@test "HAProxy answers garbage: PREPARATION fails" {
    run_web
    haproxy_start
    haproxy_follows both
    server_kill haproxy
    # shellcheck disable=SC2016
    server_start liar d python3 -c '
import os, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], 9999))
s.listen(9)
while True:
    c = s.accept()[0]
    c.recv(1000)
    c.sendall(os.urandom(100000))
    c.close()' "$edge"
    until_true on c bash -c "</dev/tcp/$edge/9999"
    migration_fails PREPARATION "load balancer 'edge'"
    assert_in_time
    assert_stayed
}

# sessions_open: that end with us; every other one of them is web's.
sessions_open()
{
    on c bash -c "for fd in 11 12 13 14; do eval \"exec \$fd<>/dev/tcp/$edge/8003\"; done
        touch $FM_WORK/sessions.ready; exec sleep 60" 3>&- 4>&- &
    echo $! >"$FM_WORK/sessions.pid"
    disown $!
    until_true test -e "$FM_WORK/sessions.ready"
}

# migration_begins [OPTIONS]: of web to host-b, with a JSON object of options; it is in PREPARATION. Sets id.
migration_begins()
{
    id=$(on a curl -sf --unix-socket /run/fleximigrate/fleximigrated.sock http://localhost/v1/migrations \
        -d "$(jq -n --argjson more "${1:-{\}}" '{container: "web", destination: "host-b"} + $more')" | jq -r .id)
}

is_final()
{
    cluster_cli a --json migration show "$id" | jq -e .final
}

# ended_after: milliseconds from an instant (of the real time) to the end of PREPARATION.
ended_after()
{
    local failed
    failed=$(cluster_cli a --json migration show "$id" |
        jq -r '[.transitions[] | select(.from == "PREPARATION")][0] | "\(.to) \(.at)"')
    [ "${failed% *}" = FAILED ] || fail "PREPARATION was followed by $failed" || return
    echo $(($(date -d "${failed#* }" +%s%3N) - $1))
}

@test "HAProxy: a cancel ends the wait for its sessions, and so does the time of the preparation" {
    local began ms
    run_web
    haproxy_start
    haproxy_follows raw "drain_wait: 60s"
    sessions_open
    migration_begins
    until_true eval '[ "$(server_of raw)" = "$ip:80 0" ]'
    began=$(date +%s%3N)
    cluster_cli a -q migration cancel "$id"
    until_true is_final
    ms=$(ended_after "$began")
    echo "# ended $ms ms after the cancel" >&3
    [ "$ms" -lt 500 ] || fail "the wait went on for $ms ms"
    assert_server raw "$ip:80 50"
    assert_stayed

    migration_begins '{"preparation_timeout_ms": 1500}'
    until_true eval '[ "$(server_of raw)" = "$ip:80 0" ]'
    until_true is_final
    ms=$(milliseconds_in a "$id" PREPARATION)
    echo "# PREPARATION took $ms ms of 1500" >&3
    [ "$ms" -ge 1490 ]
    [ "$ms" -lt 2000 ] || fail "the wait went on for $ms ms"
    assert_server raw "$ip:80 50"
    assert_stayed
}

# --- a command ---

# command_follows [TIMEOUT]: one that writes its phases down, and runs $FM_WORK/misbehave when there is such a script.
command_follows()
{
    cat >"$FM_WORK/command" <<END
#!/bin/sh
echo "\$FLEXIMIGRATE_PHASE \$FLEXIMIGRATE_CONTAINER \$FLEXIMIGRATE_SOURCE \$FLEXIMIGRATE_DESTINATION \$FLEXIMIGRATE_OLD_IP \$FLEXIMIGRATE_NEW_IP" >>$FM_WORK/command.log
[ ! -e $FM_WORK/misbehave ] || . $FM_WORK/misbehave
END
    chmod 755 "$FM_WORK/command"
    rm -f "$FM_WORK/command.log"
    followers_are <<END
load_balancers:
  - {name: own, containers: [web], timeout: ${1:-${timeout_ms}ms}, command: ['$FM_WORK/command']}
END
}

# told PHASE…: exactly these, each with what it is about.
told()
{
    diff <(printf "%s web host-a host-b $ip $ip\n" "$@") "$FM_WORK/command.log" || fail "other phases: $(cat "$FM_WORK/command.log")"
}

@test "a command: its phases, in their order" {
    command_follows
    run_web
    run -0 cluster_cli a -q migrate web --to host-b
    told prepare switch finish
}

@test "a command that fails in prepare fails the migration, and is told to undo" {
    command_follows
    run_web
    echo "[ \$FLEXIMIGRATE_PHASE != prepare ] || { echo 'the pool is full' >&2; exit 3; }" >"$FM_WORK/misbehave"
    migration_fails PREPARATION "load balancer 'own'"
    [[ $stderr == *"the pool is full"* ]] || fail "$stderr"
    told prepare undo
    assert_stayed
}

@test "a command that hangs in prepare is ended at its timeout" {
    command_follows
    run_web
    echo "[ \$FLEXIMIGRATE_PHASE != prepare ] || { echo \$\$ >$FM_WORK/command.pid; sleep 100; }" >"$FM_WORK/misbehave"
    migration_fails PREPARATION "load balancer 'own'"
    assert_in_time
    is_gone "$(cat "$FM_WORK/command.pid")" || fail "it still runs"
    told prepare undo
    assert_stayed
}

@test "a command that runs when the migration is cancelled is ended" {
    command_follows 60s
    run_web
    echo "[ \$FLEXIMIGRATE_PHASE != prepare ] || { echo \$\$ >$FM_WORK/command.pid; sleep 100; }" >"$FM_WORK/misbehave"
    rm -f "$FM_WORK/command.pid"
    migration_begins
    until_true test -s "$FM_WORK/command.pid"
    began=$(date +%s%3N)
    cluster_cli a -q migration cancel "$id"
    until_true is_final
    ms=$(ended_after "$began")
    echo "# ended $ms ms after the cancel" >&3
    [ "$ms" -lt 500 ] || fail "it went on for $ms ms"
    is_gone "$(cat "$FM_WORK/command.pid")" || fail "it still runs"
    told prepare undo
    assert_stayed
}

@test "a command that fails in switch: rolled back from VERIFICATION, and told to undo" {
    command_follows
    run_web
    echo "[ \$FLEXIMIGRATE_PHASE != switch ] || { echo 'no such pool' >&2; exit 1; }" >"$FM_WORK/misbehave"
    migration_fails VERIFICATION "load balancer 'own'"
    [[ $stderr == *"no such pool"* ]] || fail "$stderr"
    told prepare switch undo
    assert_runs_only_on a web
    assert_clean b web
    assert_verified a b
}

@test "a health check that fails: the command is told to undo, once it is back" {
    command_follows
    run_web bad
    migration_fails VERIFICATION "health check"
    told prepare switch undo
    assert_runs_only_on a web
    assert_verified a b
}

@test "a command that fails in finish: the container has moved, and it is told again until it takes it" {
    command_follows
    run_web
    echo "[ \$FLEXIMIGRATE_PHASE != finish ] || { echo 'try later' >&2; exit 1; }" >"$FM_WORK/misbehave"
    cluster_cli a -q migrate web --to host-b
    id=$(last_migration a)
    cluster_cli a --json migration show "$id" | jq -e '.state == "COMPLETED" and .needs_attention'
    grep -q "load balancer 'own'.*try later" "$FM_WORK/a.log"
    assert_runs_only_on b web
    cluster_cli a --json migration show "$id" | jq -e '.followers_left.followers == ["load-balancer own"]'
    until_true eval '[ "$(grep -c ^finish "$FM_WORK/command.log")" -ge 2 ]'
    rm "$FM_WORK/misbehave"
    until_true eval 'cluster_cli a --json migration show "$id" | jq -e "(.needs_attention | not) and .followers_left == null"'
    [ "$(sort -u "$FM_WORK/command.log" | cut -d' ' -f1 | xargs)" = "finish prepare switch" ]
    assert_clean a web
}

@test "a command is not told of containers that are not its own" {
    command_follows
    sed -i 's/\[web\]/[database]/' "$FM_WORK/followers.yaml"
    followers_are < <(cat "$FM_WORK/followers.yaml")
    run_web
    run -0 cluster_cli a -q migrate web --to host-b
    [ ! -e "$FM_WORK/command.log" ]
}

# --- DNS ---

zone_serial()
{
    on d dig +short +tcp @"$edge" -p 5353 example.test SOA | cut -d' ' -f3
}

@test "DNS: nothing is sent when the address moves along" {
    local secret=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY= serial
    mkdir -p "$FM_WORK/named"
    cat >"$FM_WORK/named/named.conf" <<END
options { directory "$FM_WORK/named"; listen-on port 5353 { $edge; }; listen-on-v6 { none; }; recursion no;
    dnssec-validation no; notify no; pid-file none; session-keyfile none; lock-file none; };
controls { };
key fm { algorithm hmac-sha256; secret "$secret"; };
zone example.test { type primary; file "zone"; allow-update { key fm; }; };
END
    printf '%s\n' '$TTL 300' '@ SOA ns.example.test. admin.example.test. 1 3600 600 86400 60' \
        '@ NS ns.example.test.' "ns A $edge" "web A $ip" >"$FM_WORK/named/zone"
    server_start named d named -g -c "$FM_WORK/named/named.conf"
    until_true eval '[ "$(zone_serial)" = 1 ]'
    followers_are <<END
dns: {server: $edge, port: 5353, zone: example.test, key_name: fm, secret: $secret}
END
    run_web
    run -0 cluster_cli a -q migrate web --to host-b
    [ "$(zone_serial)" = 1 ]
    [ "$(on d dig +noall +answer @"$edge" -p 5353 web.example.test A | awk '{ print $2, $5 }')" = "300 $ip" ]
    run -1 grep "updating zone" "$FM_WORK/named.log"
    # An update would have shown.
    on d nsupdate -y "hmac-sha256:fm:$secret" <<END
server $edge 5353
update add other.example.test 300 A 10.0.0.1
send
END
    serial=$(zone_serial)
    [ "$serial" -gt 1 ]
    grep -q "updating zone" "$FM_WORK/named.log"
}
