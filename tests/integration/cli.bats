#!/usr/bin/env bats
# shellcheck disable=SC2154  # stderr is what run --separate-stderr sets
# The command line and the daemon's front, against a daemon whose Migration Manager is a fake: what a user
# sees, and every exit code. FM_BUILD names the build directory.

bats_require_minimum_version 1.5.0

# Waits up to ten seconds until a file has a line that matches.
wait_for_line() {
    local deadline=$((SECONDS + 10))
    until grep -q -- "$2" "$1"; do
        [ "$SECONDS" -lt "$deadline" ]
        sleep 0.02
    done
}

setup_file() {
    export FM_BUILD=${FM_BUILD:-$BATS_TEST_DIRNAME/../../build}
    export DIR=$BATS_FILE_TMPDIR
    export PATH=$FM_BUILD/src/cli:$PATH
    export DAEMON=$FM_BUILD/tests/unit/with_fake/fleximigrated-fake
    export FLEXIMIGRATE_SOCKET=$DIR/run/fleximigrated.sock
    unset FLEXIMIGRATE_HOST FLEXIMIGRATE_CA FLEXIMIGRATE_CERT FLEXIMIGRATE_KEY

    fleximigrate -q cert init --dir "$DIR/pki"
    fleximigrate -q cert issue host-a --role node -a 127.0.0.1 --ca-dir "$DIR/pki" -o "$DIR/pki"
    fleximigrate -q cert issue alice --role operator --ca-dir "$DIR/pki" -o "$DIR/pki"
    fleximigrate -q cert issue victor --role viewer --ca-dir "$DIR/pki" -o "$DIR/pki"
    fleximigrate -q cert issue old --role operator --days -1 --ca-dir "$DIR/pki" -o "$DIR/pki"
    fleximigrate -q cert init --dir "$DIR/other" --name Other
    fleximigrate -q cert issue mallory --role operator --ca-dir "$DIR/other" -o "$DIR/other"

    cat >"$DIR/host-a.yaml" <<END
host: host-a
state_dir: $DIR/state
run_dir: $DIR/run
listen: {api_address: 127.0.0.1, api_port: 17440, wire_port: 17441}
pki: {ca: $DIR/pki/ca.pem, cert: $DIR/pki/host-a.pem, key: $DIR/pki/host-a.key}
END
    "$DAEMON" --config "$DIR/host-a.yaml" 2>"$DIR/log" 3>&- &
    echo $! >"$DIR/pid"
    wait_for_line "$DIR/log" 'is ready'
}

teardown_file() {
    kill "$(cat "$DIR/pid")"
    wait_for_line "$DIR/log" 'Stopped'
}

remote() {
    local who=$1
    shift
    fleximigrate --host https://127.0.0.1:17440 --ca "$DIR/pki/ca.pem" \
        --cert "$DIR/pki/$who.pem" --key "$DIR/pki/$who.key" "$@"
}

one_error_line() {
    [ "${#lines[@]}" -eq 1 ]
    [[ ${lines[0]} == fleximigrate:\ * ]]
}

@test "migrate prints a line per state and ends with 0" {
    run -0 fleximigrate migrate redis --to host-b
    [ "$(printf '%s\n' "${lines[@]}" | cut -d' ' -f1 | head -6 | xargs)" = \
        "PENDING PLANNING PREPARATION EXECUTION VERIFICATION COMPLETED" ]
    [[ ${lines[6]} == "'redis' runs on 'host-b'"*"freeze 143.5 ms"*"70.0 MiB sent" ]]
}

@test "migrate --quiet is silent, --json prints the document" {
    run -0 fleximigrate -q migrate redis --to host-b
    [ -z "$output" ]
    run -0 fleximigrate migrate redis --to host-b --bandwidth 1Gbit --timeout 5m --priority high --json
    [ "$(jq -r .result <<<"$output")" = completed ]
    [ "$(jq -cS .options <<<"$output")" = \
        '{"bandwidth_bytes":125000000,"container":"redis","destination":"host-b","priority":"high","timeout_ms":300000}' ]
}

@test "exit codes: rolled back 5, refused 4, not found 3, usage 2, failed 1" {
    run -5 --separate-stderr fleximigrate migrate redis --to host-broken
    [[ $stderr == "fleximigrate: 'redis' stays on 'host-a': rolled back from EXECUTION: chunk 7"* ]]
    run -4 --separate-stderr fleximigrate migrate immovable --to host-b
    [[ $stderr == "fleximigrate: 'immovable' does not move: the container is labelled immovable" ]]
    run -1 fleximigrate -q migrate redis --to host-off
    one_error_line
    run -3 fleximigrate migrate redis --to nowhere
    one_error_line
    run -3 fleximigrate migrate nobody --to host-b
    one_error_line
    run -2 fleximigrate migrate redis --to host-a
    one_error_line
}

@test "what this version does not have is refused with 4" {
    run -4 fleximigrate migrate redis --to auto
    one_error_line
    [[ $output == *"is not available in this version"* ]]
}

@test "the options of a migration reach the daemon" {
    run -0 fleximigrate -q migrate redis --to host-b --strategy hybrid --max-downtime 40ms --max-rounds 9 --auto-converge \
        --on-no-convergence freeze --parallel 4 --compress zstd --delta-cache 1MiB --bandwidth 1Gbit
}

@test "wrong usage ends with 2 and one line" {
    for words in '' zork 'host zork' 'migrate' 'migrate redis' 'migrate a b --to c' 'migrate --to' \
        'host list --zork' 'host list -z' 'check redis' 'run --image /tmp' 'run --name x' \
        'migrate redis --to host-b --priority urgent' 'migrate redis --to host-b --timeout soon' \
        'migrate redis --to host-b --bandwidth much' 'migrate redis --to host-b --strategy warm' \
        'migrate redis --to host-b --max-downtime soon' 'migrate redis --to host-b --parallel 0' \
        'migrate redis --to host-b --compress gzip' 'migrate redis --to host-b --on-no-convergence pray' \
        'container logs redis --tail x' 'host add h 192.0.2.1 --api-port 0' '--json=1 host list' \
        'cert issue x' 'cert issue x --role king' 'cert issue x --role node' \
        'cert issue ../x --role viewer' '--host http://h host list' '--host h --ca= host list'; do
        # shellcheck disable=SC2086
        run fleximigrate $words
        echo "$words: $status: $output"
        [ "$status" -eq 2 ]
        one_error_line
    done
}

@test "every command has a help with an example" {
    for words in '' container host migration cert migrate check run 'container list' \
        'container show' 'container logs' 'container exec' 'container stop' 'container remove' \
        'host list' 'host show' 'host add' 'host remove' 'host cordon' 'host uncordon' \
        'migration list' 'migration show' 'migration watch' 'migration cancel' \
        'migration report' 'cert init' 'cert issue'; do
        # shellcheck disable=SC2086
        run -0 fleximigrate $words --help
        [[ $output == "Usage: fleximigrate"*"Example:"*"  fleximigrate ${words:-migrate} "* ||
            $output == "Usage: fleximigrate"*"Example:"*"  fleximigrate ${words:-migrate}"* ]]
    done
}

@test "without a terminal ^C cancels at once and the exit code tells that it was rolled back" {
    # Job control, or bash starts the command with SIGINT ignored.
    set -m
    fleximigrate migrate slow --to host-b >"$DIR/out" 2>"$DIR/err" 3>&- &
    local pid=$! code=0
    wait_for_line "$DIR/out" EXECUTION
    kill -INT "$pid"
    wait "$pid" || code=$?
    [ "$code" -eq 5 ]
    grep -q 'cancelling' "$DIR/err"
    grep -q "'slow' stays on 'host-a'" "$DIR/err"
}

@test "detach, list, show, watch, cancel, report" {
    id=$(fleximigrate migrate slow --to host-b --detach)
    [[ $id =~ ^[0-9a-f]+$ ]]
    run -0 fleximigrate migration list
    [[ $output == *"$id"*slow*host-b*running* ]]
    run -0 fleximigrate migration show "$id"
    [[ $output == *"result           running"* ]]
    run -0 fleximigrate migration cancel "$id"
    run -5 fleximigrate migration watch "$id"
    run -4 fleximigrate migration cancel "$id"
    run -0 fleximigrate migration report "$id"
    [[ $output == *"FAILED (final)"* ]]
    run -3 fleximigrate migration show nothing
    one_error_line
}

@test "check says what is wrong, its cure, and ends with 4" {
    run -0 fleximigrate check redis --to host-b
    run -4 fleximigrate check immovable --to host-b
    [[ $output == *"→ remove the label"* ]]
    run -4 fleximigrate check immovable --to host-b --json
    [ "$(jq .ok <<<"$output")" = false ]
}

@test "run, exec, logs, stop, remove" {
    mkdir -p "$DIR/image"
    cd "$DIR"
    run -0 fleximigrate run --name web --image ./image --ip 10.88.0.7 -m 64MiB -e A=1 -e B=2 -l k=v -- sh -c 'echo hi'
    run -0 fleximigrate container show web --json
    [ "$(jq -c .request <<<"$output")" = "$(jq -nc --arg image "$DIR/image" \
        '{name:"web",ip:"10.88.0.7",image:$image,memory_bytes:67108864,command:["sh","-c","echo hi"],env:["A=1","B=2"],labels:{k:"v"}}')" ]
    run -1 fleximigrate run --name web --image ./image
    run -3 fleximigrate run --name web2 --image ./missing
    run -0 --separate-stderr fleximigrate container exec web -- ls --all
    [ "$output" = $'ls\n--all' ]
    [ "$stderr" = noise ]
    run -0 --separate-stderr fleximigrate container exec web ls --json
    [ "$output" = $'ls\n--json' ]
    run -7 fleximigrate container exec web false
    run -0 fleximigrate container logs web --tail 1
    [ "$output" = three ]
    run -4 fleximigrate container remove web
    run -0 fleximigrate container stop web --timeout 2s
    run -0 fleximigrate container remove web
    run -3 fleximigrate container show web
}

@test "hosts" {
    run -0 --separate-stderr fleximigrate host add host-c 192.0.2.3
    [[ $stderr == *"warning: it does not answer"* ]]
    run -0 fleximigrate host cordon host-c
    run -0 fleximigrate host list
    [[ $output == *"host-c"*"cordoned"* ]]
    run -0 fleximigrate host uncordon host-c
    run -0 fleximigrate host remove host-c
    run -3 fleximigrate host show host-c
}

@test "networks" {
    run -0 fleximigrate network list
    [[ ${lines[0]} == NAME*MODE*SUBNET*GATEWAY*VNI*PARENT*CONTAINERS ]]
    [[ ${lines[1]} == default*overlay*10.88.0.0/16*10.88.0.1*4096*-*1 ]]
    run -0 fleximigrate network show default
    [[ $output == *"ADDRESS"*"10.88.0.5"*"redis"*"8080:80/tcp"* ]]
    run -0 fleximigrate network create shop --subnet 10.89.0.0/24 --vni 77 --mode overlay
    [ "$output" = "created network 'shop'" ]
    run -0 fleximigrate --json network show shop
    [ "$(jq -cS . <<<"$output")" = '{"mode":"overlay","name":"shop","subnet":"10.89.0.0/24","vni":77}' ]
    run -1 --separate-stderr fleximigrate network create shop --subnet 10.89.0.0/24
    [[ $stderr == "fleximigrate: network 'shop' exists already" ]]
    run -0 fleximigrate network verify
    [ "$output" = "the kernel has what the registry says" ]
    run -0 fleximigrate network create broken --subnet 10.90.0.0/24
    run -1 fleximigrate network verify
    [ "$output" = "network 'broken' is not in the kernel" ]
    run -1 fleximigrate --json network verify
    [ "$(jq .ok <<<"$output")" = false ]
    run -0 fleximigrate network repair
    [ "$output" = "this host is as the registry says" ]
    run -0 fleximigrate network remove broken
    run -0 fleximigrate network remove shop
    [ "$output" = "removed network 'shop'" ]
    run -3 --separate-stderr fleximigrate network show shop
    run -4 --separate-stderr fleximigrate network remove default
    run -2 --separate-stderr fleximigrate network create shop
    run -2 --separate-stderr fleximigrate network create shop --subnet 10.89.0.0/24 --vni x
}

@test "over TLS: roles and certificates" {
    run -0 remote alice host cordon host-b
    run -0 remote alice host uncordon host-b
    run -0 remote victor host list
    run -1 remote victor host cordon host-b
    [[ $output == *"'victor' is a viewer"* ]]
    run -1 remote old host list
    [[ $output == *expired* ]]
    cp "$DIR/other/mallory.pem" "$DIR/other/mallory.key" "$DIR/pki/"
    run -1 remote mallory host list
    one_error_line
    run -1 remote alice --ca "$DIR/other/ca.pem" host list
    [[ $output == *"does not vouch for"* ]]
}

@test "a daemon that is not there" {
    run -1 fleximigrate --socket /nonexistent/s host list
    [ "$output" = "fleximigrate: cannot reach the daemon at /nonexistent/s: No such file or directory; is fleximigrated running?" ]
    run -1 remote alice --host 127.0.0.1:1 host list
    [[ $output == *"Connection refused"* ]]
}

@test "certificates are never overwritten" {
    run -1 fleximigrate cert init --dir "$DIR/pki"
    one_error_line
}

@test "the daemon's options and configuration" {
    run -0 "$DAEMON" --config "$DIR/host-a.yaml" --check-config
    run -0 "$DAEMON" --version
    run -2 "$DAEMON" --zork
    run -2 "$DAEMON" --config /nonexistent --check-config
    mkdir -p "$DIR/bad"
    printf 'host: a\nlisten:\n  zork: 1\n' >"$DIR/bad/c.yaml"
    run -2 "$DAEMON" --config "$DIR/bad/c.yaml" --check-config
    [ "$output" = "fleximigrated: $DIR/bad/c.yaml:3:3: listen.zork: unknown key" ]
    run -1 "$DAEMON" --config "$DIR/host-a.yaml"
    [[ $output == *"another fleximigrated uses the state directory"* ]]
}

@test "the daemon tells systemd when it is ready and when it stops" {
    sed "s|$DIR/|$DIR/second-|; s|17440|17442|; s|17441|17443|; s|\(pki:.*\)|pki: {ca: $DIR/pki/ca.pem, cert: $DIR/pki/host-a.pem, key: $DIR/pki/host-a.key}|" \
        "$DIR/host-a.yaml" >"$DIR/second.yaml"
    python3 - "$DIR/notify" "$DAEMON" "$DIR/second.yaml" <<'END'
import os, signal, socket, subprocess, sys
path, daemon, config = sys.argv[1:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
notify.settimeout(10)
child = subprocess.Popen([daemon, "--config", config], env=dict(os.environ, NOTIFY_SOCKET=path))
seen = []
while "STATUS=0 migrations running" not in seen:
    seen.append(notify.recv(4096).decode())
assert seen[0] == "READY=1", seen
child.send_signal(signal.SIGHUP)
child.send_signal(signal.SIGTERM)
assert notify.recv(4096).decode().startswith("STOPPING=1")
assert child.wait(10) == 0
END
}
