#!/usr/bin/env bats
# What users, hosts and strangers get wrong: each is told in one line, with the exit code of the interface pages, and
# the container does not notice.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib

socket=/run/fleximigrate/fleximigrated.sock

setup_file()
{
    cluster_start 3 a b
    root_of busybox >/dev/null
    run_ticker a web --ip 10.88.0.7
    identity_of a web >"$FM_WORK/web.identity"
}

teardown_file()
{
    cluster_stop
}

# Whatever a test did, the container of the file runs on as the process that it was.
teardown()
{
    on b mount -o remount,size=50% /var/lib/fleximigrate
    remove_everywhere first second third
    assert_unharmed
}

assert_unharmed()
{
    assert_runs_only_on a web
    [ "$(identity_of a web)" = "$(cat "$FM_WORK/web.identity")" ] || fail "web is another process now"
    ticks a web || fail "web stands still"
}

# script NAME: a program for a fault point of a daemon, from stdin.
script()
{
    {
        echo "#!/bin/sh"
        echo "PATH=$FM_BUILD/src/cli:\$PATH; cd '$FM_WORK'"
        cat
    } >"$FM_WORK/$1"
    chmod 755 "$FM_WORK/$1"
    echo "$FM_WORK/$1"
}

# --- names and hosts ---

@test "names that nobody knows" {
    refused 3 a migrate nobody --to host-b
    [[ $stderr == *"no container 'nobody' on host host-a"* ]]
    refused 3 a migrate web --to nowhere
    [[ $stderr == *"host 'nowhere' is not known here"*"host add"* ]]
    refused 3 a check nobody --to host-b
    refused 3 a check web --to nowhere
    refused 3 a container show nobody
    refused 3 a container stop nobody
    refused 3 a container remove nobody
    refused 3 a container logs nobody
    refused 3 a container exec nobody true
    refused 3 a migration show 0123456789ab
    refused 3 a migration cancel 0123456789ab
    refused 3 a migration watch ../../../etc/passwd
    refused 3 a host show nowhere
    refused 3 a host cordon nowhere
    refused 3 a host remove nowhere
}

@test "names and options that cannot be" {
    refused 2 a migrate 'we b' --to host-b
    refused 2 a migrate ../../etc --to host-b
    refused 2 a migrate web --to 'host b'
    refused 2 a migrate web
    refused 2 a migrate web --to host-b --bandwidth fast
    refused 2 a migrate web --to host-b --timeout never
    refused 2 a migrate web --to host-b --priority urgent
    refused 2 a migrate web --to host-b --strategy teleport
    refused 2 a migrate web --to host-b --max-downtime never
    refused 2 a migrate web --to host-b --parallel 99
    refused 2 a migrate web --to host-b --max-rounds 0
    refused 2 a run --name 'a/b' --image "$(root_of busybox)" -- true
    refused 2 a run --name first --image "$(root_of busybox)" --ip 300.1.2.3 -- true
    refused 2 a run --name first --image "$(root_of busybox)" --ip 192.0.2.1 -- true
    refused 2 a run --name first --image "$(root_of busybox)" --volume nonsense -- true
    refused 2 a run --name first --image "$(root_of busybox)" --health ftp://x -- true
    refused 2 a run --name first --image "$(root_of busybox)" --depends database:5432 -- true
    refused 2 a run --name first --image "$(root_of busybox)" --depends tcp://10.88.0.9:5432,soon -- true
    [[ $stderr == *"'soon' is not a duration"*"tcp://ADDRESS:PORT"* ]]
    refused 3 a run --name first --image /nonexistent -- true
    refused 2 a run --name first --image /etc/hostname -- true
    refused 1 a run --name first --image "$(root_of busybox)" -- /no/such/program
    refused 1 a run --name web --image "$(root_of busybox)" -- true
    refused 2 a host add 'x y' 10.97.0.12
    assert_clean a first
}

@test "source and destination are the same" {
    refused 2 a migrate web --to host-a
    [[ $stderr == *"both 'host-a'"* ]]
    refused 2 a migrate web --from host-a --to host-a
    refused 2 a check web --to host-a
}

@test "the destination is another host than it says" {
    cluster_cli a -q host add host-x "$(address_of b)" 2>"$FM_WORK/warning"
    grep -q "warning: .*'host-b', not 'host-x'" "$FM_WORK/warning"
    refused 1 a migrate web --to host-x
    [[ $stderr == *"names 'host-b', not 'host-x'"* ]]
    cluster_cli a -q host remove host-x
    on a bridge fdb | grep -q "^00:00:00:00:00:00 dev fmvx0 dst $(address_of b) " # of host-b, which has it too
}

# bats test_tags=slow
@test "the destination takes the connection and says nothing" {
    kill -STOP "$(daemon_pid b)"
    refused 1 a migrate web --to host-b
    kill -CONT "$(daemon_pid b)"
    [[ $stderr == *"'web' does not move: "*"host-b"*"in time"* ]] || fail "$stderr"
}

# --- certificates ---

@test "certificates: another authority, expired, the wrong role" {
    local fm="$FM_BUILD/src/cli/fleximigrate -q" address
    address=$(address_of b)
    $fm cert init --dir "$FM_WORK/other" --name Other
    $fm cert issue host-b --role node --address "$address" --ca-dir "$FM_WORK/other" --out "$FM_WORK/other"
    mkdir -p "$FM_WORK/old" "$FM_WORK/operator"
    $fm cert issue host-b --role node --address "$address" --days -1 --ca-dir "$FM_WORK/ca" --out "$FM_WORK/old"
    $fm cert issue host-b --role operator --ca-dir "$FM_WORK/ca" --out "$FM_WORK/operator"
    run -0 on b python3 "$BATS_TEST_DIRNAME/wire_abuse.py" "$(address_of a)" 7441 "$FM_WORK/other" host-b no-hello
    [ "$output" = "no-hello: refused" ]
    grep -q "WARN .*A connection was refused: .*'host-b' is not signed by our authority" "$FM_WORK/a.log"
    run -0 on b python3 "$BATS_TEST_DIRNAME/wire_abuse.py" "$(address_of a)" 7441 "$FM_WORK/old" host-b no-hello
    [ "$output" = "no-hello: refused" ]
    grep -q "WARN .*A connection was refused: .*'host-b' expired" "$FM_WORK/a.log"
    run -0 on b python3 "$BATS_TEST_DIRNAME/wire_abuse.py" "$(address_of a)" 7441 "$FM_WORK/operator" host-b no-hello
    [ "$output" = "no-hello: refused" ]
    grep -q "WARN .*A connection was refused: .*'host-b' has role operator" "$FM_WORK/a.log"
    # and the other way round: the destination is the one with such a certificate
    local kind
    for kind in other old; do
        daemon_stop b
        on b cp "$FM_WORK/$kind/host-b.pem" "$FM_WORK/$kind/host-b.key" /etc/fleximigrate/pki/
        if daemon_start b 3>&- 4>&- 2>/dev/null; then
            refused 1 a migrate web --to host-b
            [[ $stderr == *certificate* ]]
        else
            [[ $(tail -n 1 "$FM_WORK/b.log") == *certificate* ]]
        fi
    done
    daemon_stop b
    on b cp "$FM_WORK/pki/host-b.pem" "$FM_WORK/pki/host-b.key" /etc/fleximigrate/pki/
    daemon_start b 3>&- 4>&-
}

# --- space ---

@test "no space on the destination: preflight says so" {
    on b mount -o remount,size=2m /var/lib/fleximigrate
    refused 4 a migrate web --to host-b
    on b mount -o remount,size=50% /var/lib/fleximigrate
    [[ $stderr == *"does not move"*disk* ]]
    [[ $(transitions_of a "$(last_migration a)") == "PENDING PLANNING FAILED ROLLBACK FAILED." ]]
}

@test "no space on the destination: it is used up in the middle" {
    snapshot b >"$FM_WORK/b.before"
    daemon_restart b "FLEXIMIGRATE_FAULT=step.stage-bundle=run:$(script fill <<'END'
mount -o remount,size=1m /var/lib/fleximigrate
END
    )"
    refused 5 a migrate web --to host-b
    on b mount -o remount,size=50% /var/lib/fleximigrate
    daemon_restart b
    [[ $stderr == *"rolled back from PREPARATION"*[Nn]"o space left on"* ]]
    assert_nothing_new b "$FM_WORK/b.before"
}

# --- the wire ---

@test "truncated, oversized and garbage frames" {
    snapshot a >"$FM_WORK/a.before"
    local cases=(plain nothing garbage cut-header cut-payload oversized checksum sequence type not-json version
        no-hello later-garbage later-not-json answer unknown-migration no-migration image-alone data-alone
        prepare-empty prepare-id prepare-name prepare-volume prepare-ip prepare-liar prepare-taken prepare-leave
        commit-early tree-unknown tree-layer tree-volume tree-garbage image-early log-offset)
    run -0 on b python3 "$BATS_TEST_DIRNAME/wire_abuse.py" "$(address_of a)" 7441 "$FM_WORK/pki" host-b "${cases[@]}"
    [ "${#lines[@]}" -eq "${#cases[@]}" ]
    [ "$(grep -c ': \(closed\|left\|refused\|ERROR [A-Z]* .*\|FAILED [A-Z_]* .*\)$' <<<"$output")" -eq "${#cases[@]}" ]
    local said
    for said in "in the middle of a frame" "a frame of 4294967295 bytes is over the limit" "not a frame of ours" \
        "arrived damaged (checksum mismatch)" "frame 7 where 0 was expected" "carries no JSON object" \
        "the caller does not speak TLS"; do
        grep -q "WARN .*$said" "$FM_WORK/a.log" || fail "the log does not say: $said"
    done
    assert_nothing_new a "$FM_WORK/a.before"
    assert_clean a evil
    run -0 cluster_cli b host show host-a
}

# --- the API ---

# problem STATUS TEXT CURL-ARGUMENT…: the answer is a problem document that says so.
problem()
{
    local status=$1 text=$2 got
    shift 2
    got=$(on a curl -s --unix-socket $socket -w '\n%{http_code} %{content_type}' "$@")
    [ "$(tail -n 1 <<<"$got")" = "$status application/problem+json" ] || fail "expected $status: $got"
    head -n -1 <<<"$got" | jq -e --arg text "$text" '.detail | contains($text)' >/dev/null || fail "expected '$text': $got"
}

@test "garbage on the API" {
    local url=http://localhost/v1
    problem 400 JSON $url/migrations -d '{"container": "web",'
    problem 400 object $url/migrations -d '[1, 2]'
    problem 400 "" $url/migrations -d $'\x01\xff\xfe'
    problem 400 missing $url/migrations -d '{}'
    problem 400 string $url/migrations -d '{"container": 5, "destination": "host-b"}'
    problem 400 "not an option" $url/migrations -d '{"container": "web", "destination": "host-b", "colour": 1}'
    problem 400 "'strategy' cannot be" $url/migrations -d '{"container": "web", "destination": "host-b", "strategy": "x"}'
    problem 400 "whole number" $url/migrations -d '{"container": "web", "destination": "host-b", "timeout_ms": -1}'
    problem 400 "" $url/containers -d '{"name": {}, "image": []}'
    problem 400 "" $url/containers/web/exec -d '{"command": "not a list"}'
    problem 404 "" $url/nothing
    problem 405 "" -X PATCH $url/migrations
    head -c 3000000 /dev/zero | tr '\0' ' ' >"$FM_WORK/large"
    problem 413 "" $url/migrations -d @"$FM_WORK/large"
    on a python3 - $socket <<'END'
import os, socket, sys
for data in [os.urandom(4000), b"GET", b"POST /v1/migrations HTTP/1.1\r\nContent-Length: 99999\r\n\r\n{",
             b"GET /v1/hosts HTTP/1.1\r\nX: " + b"y" * 1000000, b"\r\n" * 1000, b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n"]:
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    try:
        s.sendall(data)
    except OSError:
        pass  # it had enough
    s.close()
END
    run -0 cluster_cli a host list
}

# --- the interposer's socket ---

@test "a stranger on the interposer's socket" {
    snapshot b >"$FM_WORK/b.before"
    daemon_restart a "FLEXIMIGRATE_FAULT=runtime.checkpoint=run:$(script stranger <<'END'
exec python3 -c '
import glob, os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(glob.glob("/var/lib/fleximigrate/migrations/*/criu.sock")[0])
s.send(os.urandom(1000))'
END
    )"
    refused 5 a migrate web --to host-b
    daemon_restart a
    [[ $stderr == *"rolled back from EXECUTION"*"interposer sent something that is no event"* ]]
    assert_nothing_new b "$FM_WORK/b.before"
}

# A dump that nobody holds ends its container.
@test "an interposer that finds no daemon dumps nothing" {
    snapshot b >"$FM_WORK/b.before"
    daemon_restart a "FLEXIMIGRATE_FAULT=runtime.checkpoint=run:$(script unlink <<'END'
rm /var/lib/fleximigrate/migrations/*/criu.sock
END
    )"
    refused 5 a migrate web --to host-b
    daemon_restart a
    [[ $stderr == *"rolled back from EXECUTION: the runtime's checkpoint failed"* ]]
    assert_nothing_new b "$FM_WORK/b.before"
}

# --- configuration ---

@test "a malformed configuration: line and column" {
    local daemon=$FM_BUILD/src/daemon/fleximigrated config=$FM_WORK/bad.yaml
    check_config()
    {
        printf '%b' "$1" >"$config"
        run -2 --separate-stderr "$daemon" --config "$config" --check-config
        [ "${#stderr_lines[@]}" -eq 1 ]
        [[ $stderr == *"bad.yaml:$2"* ]] || fail "expected $2: $stderr"
    }
    check_config 'host: a\nlisten:\n  zork: 1\n' '3:3: listen.zork: unknown key'
    check_config 'host: a\nlimits:\n  max_concurrent: many\n' '3:19: limits.max_concurrent'
    check_config 'host: a\nlimits:\n  max_concurrent: 0\n' '3:3: limits.max_concurrent: 0 is not within 1..64'
    check_config 'host: a\n  listen: [\n' '2:'
    check_config 'host: [a, b]\n' '1:7: host'
    check_config '\x01\x02' '1:'
    on a "$daemon" --check-config
}

@test "a malformed followers' file: where it is wrong, and nobody starts with it" {
    local daemon=$FM_BUILD/src/daemon/fleximigrated
    cat >"$FM_WORK/with-followers.yaml" <<END
host: a
network: {followers: $FM_WORK/followers.yaml}
END
    # check_followers TEXT FILE: TEXT is in the one line that it says.
    check_followers()
    {
        printf '%b' "$2" >"$FM_WORK/followers.yaml"
        run -2 --separate-stderr "$daemon" --config "$FM_WORK/with-followers.yaml" --check-config
        [ "${#stderr_lines[@]}" -eq 1 ] || fail "$2: $stderr"
        [[ $stderr == "fleximigrated: $FM_WORK/followers.yaml:"*"$1"* ]] || fail "expected '$1' of $2: $stderr"
    }
    local dns='dns:\n  server: 192.0.2.53\n  zone: example.org\n  key_name: k\n'
    local key='  secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n'
    check_followers 'zork' 'zork: 1\n'
    check_followers 'server' 'dns: {zone: example.org}\n'
    check_followers 'zone' 'dns: {server: 192.0.2.53}\n'
    check_followers 'secret' "$dns  secret: not base64!\n"
    check_followers 'secret' "$dns  secret_file: /nonexistent\n"
    check_followers 'algorithm' "$dns$key  algorithm: md5\n"
    check_followers 'zone' "${dns/example.org/ex..ample}$key"
    check_followers 'server' "${dns/192.0.2.53/nobody home}$key"
    check_followers 'port' "$dns$key  port: 70000\n"
    check_followers 'timeout' "$dns$key  timeout: soon\n"
    check_followers 'reverse' "$dns$key  reverse_zones: [10.in-addr.arpa, example.com]\n"
    check_followers 'controller' 'sdn:\n  controllers: []\n  switches: [{name: s, dpid: 1}]\n'
    check_followers 'dpid' 'sdn:\n  controllers: [http://192.0.2.1:8080]\n  switches: [{name: s, dpid: x}]\n'
    check_followers "switch 'two'" 'sdn:\n  controllers: [http://192.0.2.1:8080]\n  switches: [{name: one, dpid: 1}]\n  hosts: [{name: a, switch: two, port: 1}]\n'
    check_followers "'edge'" 'load_balancers: [{name: edge}]\n'
    check_followers "'edge'" 'load_balancers: [{name: edge, haproxy: {socket: nowhere, backend: b}}]\n'
    check_followers "'edge'" 'load_balancers: [{name: edge, haproxy: {socket: /s, backend: "b; shutdown"}}]\n'
    check_followers "called 'edge'" 'load_balancers: [{name: edge, command: [a]}, {name: edge, command: [b]}]\n'
    printf '%b' "$dns$key" >"$FM_WORK/followers.yaml"
    run -0 "$daemon" --config "$FM_WORK/with-followers.yaml" --check-config
    run -0 "$daemon" --config "$FM_WORK/with-followers.yaml" --check-config
    cp "$top/etc/followers.yaml" "$FM_WORK/followers.yaml"
    run -0 "$daemon" --config "$FM_WORK/with-followers.yaml" --check-config

    on a sh -c 'echo "load_balancers: [{name: edge}]" >/etc/fleximigrate/followers.yaml'
    daemon_stop a
    run -1 daemon_start a 3>&- 4>&-
    on a rm /etc/fleximigrate/followers.yaml
    daemon_start a 3>&- 4>&-
    grep -qx "fleximigrated: /etc/fleximigrate/followers.yaml: load balancer 'edge': it needs either HAProxy or a command" "$FM_WORK/a.log"
}

# --- in the middle of a migration ---

@test "while it migrates: stop, remove and a second migration are refused, and cancel works" {
    daemon_restart a "FLEXIMIGRATE_FAULT=step.hold=run:$(script meddle <<'END'
say() { fleximigrate "$@" 2>>said; echo "$?" >>said; }
rm -f said
say container stop web
say container remove --force web
say migrate web --to host-b
say run --name web --image ./root-busybox -- true
id=$(fleximigrate --json migration list | jq -r '.[0].id')
say -q migration cancel "$id"
END
    )"
    snapshot b >"$FM_WORK/b.before"
    refused 5 a migrate web --to host-b
    [[ $stderr == *"rolled back from PREPARATION: cancelled" ]]
    assert_path a "$(last_migration a)" "PENDING PLANNING PREPARATION FAILED ROLLBACK FAILED."
    daemon_restart a
    local busy="fleximigrate: container 'web' is being migrated: cancel the migration first"
    diff - "$FM_WORK/said" <<END
$busy
4
$busy
4
$busy
4
fleximigrate: container 'web' already exists: remove it or choose another name
1
0
END
    assert_nothing_new b "$FM_WORK/b.before"
    refused 4 a migration cancel "$(last_migration a)"
}

@test "cancel with the container frozen" {
    daemon_restart a "FLEXIMIGRATE_FAULT=step.dumped=run:$(script cancel <<'END'
fleximigrate -q migration cancel "$(fleximigrate --json migration list | jq -r '.[0].id')"
END
    )"
    snapshot b >"$FM_WORK/b.before"
    refused 5 a migrate web --to host-b
    [[ $stderr == *"rolled back from EXECUTION: "*cancelled* ]]
    assert_path a "$(last_migration a)" "PENDING PLANNING PREPARATION EXECUTION FAILED ROLLBACK FAILED."
    daemon_restart a
    assert_nothing_new b "$FM_WORK/b.before"
}

@test "cancel after the commit is too late" {
    run_ticker a first
    daemon_restart a "FLEXIMIGRATE_FAULT=step.commit=run:$(script late <<'END'
fleximigrate migration cancel "$(fleximigrate --json migration list | jq -r '.[0].id')" 2>said
echo $? >>said
END
    )"
    run -0 cluster_cli a -q migrate first --to host-b
    daemon_restart a
    [[ $(cat "$FM_WORK/said") == "fleximigrate: migration "*" is committed: it cannot be cancelled any more"$'\n'4 ]]
    assert_runs_only_on b first
}

# removed_at STEP TEXT: removed behind the daemon's back at this step.
removed_at()
{
    local command=${command:-runc delete --force first}
    run_ticker a first --ip 10.88.0.8
    daemon_restart a "FLEXIMIGRATE_FAULT=step.$1=run:$(script delete <<<"$command"
    )"
    snapshot b >"$FM_WORK/b.before"
    refused 5 a -q migrate first --to host-b
    [[ $stderr == *$2* ]] || fail "$stderr"
    logged_of a "$(last_migration a)" | grep -q 'the container has ended meanwhile\. Final State: FAILED'
    [[ $(status_on a first) =~ ^(stopped)?$ ]]
    [ -z "$(status_on b first)" ]
    daemon_restart a
    assert_nothing_new b "$FM_WORK/b.before"
    assert_clean b first
    run -0 cluster_cli a container remove first
    assert_clean a first
}

@test "the container is removed in PREPARATION" {
    removed_at hold "rolled back from PREPARATION: container 'first' was stopped or removed meanwhile"
}

@test "the container is removed in EXECUTION, before the freeze" {
    removed_at freeze "rolled back from EXECUTION: container 'first' was stopped or removed meanwhile"
}

@test "the container is killed in EXECUTION, frozen" {
    command="runc kill first KILL" # `runc delete` waits for its death, which comes with the thaw
    removed_at dumped "rolled back from EXECUTION: container 'first' was stopped or removed meanwhile"
}

# --- the queue ---

@test "one migration at a time: the rest wait, the more urgent first" {
    local name
    for name in first second third; do
        run_ticker a "$name"
    done
    on a mkdir -p /etc/fleximigrate/conf.d
    on a tee /etc/fleximigrate/conf.d/limit.yaml <<<'limits: {max_concurrent: 1}' >/dev/null
    mkfifo "$FM_WORK/gate"
    daemon_restart a "FLEXIMIGRATE_FAULT=step.dump=run:$(script wait <<'END'
read -r go <gate
END
    )"
    local one two three
    one=$(cluster_cli a migrate first --to host-b --detach)
    until_true in_state "$one" EXECUTION
    two=$(cluster_cli a migrate second --to host-b --priority low --detach)
    until_true in_state "$two" PENDING
    three=$(cluster_cli a migrate third --to host-b --priority high --detach)
    until_true in_state "$three" PENDING
    refused 4 a migrate second --to host-b
    echo go >"$FM_WORK/gate"
    run -0 cluster_cli a -q migration watch "$one"
    run -0 cluster_cli a -q migration watch "$two"
    run -0 cluster_cli a -q migration watch "$three"
    on a rm /etc/fleximigrate/conf.d/limit.yaml
    daemon_restart a
    # by their PLANNING: the first, the urgent one, the other
    [ "$(for id in "$one" "$two" "$three"; do
        cluster_cli a --json migration show "$id" |
            jq -r '.container as $name | .transitions[] | select(.to == "PLANNING") | "\(.at) \($name)"'
    done | sort | cut -d' ' -f2 | xargs)" = "first third second" ]
    for name in first second third; do
        assert_runs_only_on b "$name"
    done
}

in_state()
{
    [ "$(cluster_cli a --json migration show "$1" | jq -r '"\(.state) \(.transitions | length > 0)"')" = "$2 true" ]
}
