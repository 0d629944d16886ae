# shellcheck shell=bash
# What the integration tests share: a cluster per file, containers and clients on it, and assertions about
# what is left on a host. A file's setup_file calls cluster_start, its teardown_file cluster_stop.
#
# FM_BUILD names the build directory, as for tests/run. Every helper fails with a line that says why.

bats_require_minimum_version 1.5.0

top=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
export FM_BUILD=${FM_BUILD:-$top/build} FM_WORK=${BATS_FILE_TMPDIR:-}
# shellcheck source=scripts/cluster
. "$top/scripts/cluster"

load_client=$FM_BUILD/tests/workloads/loadclient
wait_seconds=10

# --- the cluster of a file ---

# cluster_start N [HOST…]: as cluster_up, under a name that is this file's alone. It also goes when the tests are
# killed.
cluster_start()
{
    local name=${BATS_TEST_FILENAME##*/}
    name=${name%.bats}
    export cluster_prefix=${name//_/-}-$$
    setsid bash -c 'tail --pid="$1" -f /dev/null && exec "$2" down "$3"' guard $$ "$top/scripts/hosts" \
        "$cluster_prefix" </dev/null >/dev/null 2>&1 3>&- 4>&- &
    export guard=$!
    disown "$guard"
    cluster_up "$cluster_prefix" "$@" 3>&- 4>&-
}

cluster_stop()
{
    cluster_down
    pkill -P "$guard" || true # the guard's tail, and with it the guard
}

# daemon_restart HOST [NAME=VALUE…]
daemon_restart()
{
    daemon_stop "$1"
    daemon_start "$@" 3>&- 4>&-
}

# root_of KIND: the root directory of a test container, made once for a file (kinds: make-rootfs).
root_of()
{
    [ -d "$FM_WORK/root-$1" ] || "$top/scripts/make-rootfs" "$1" "$FM_WORK/root-$1"
    echo "$FM_WORK/root-$1"
}

# run_redis HOST NAME IP [OPTION…]
run_redis()
{
    local host=$1 name=$2 ip=$3
    shift 3
    cluster_cli "$host" -q run --name "$name" --image "$(root_of redis)" --ip "$ip" "$@" \
        -- redis-server /etc/redis.conf
    until_true answers "$ip"
}

answers()
{
    [ "$(on c redis-cli -h "$1" ping)" = PONG ]
}

# run_ticker HOST NAME [OPTION…]: a container that counts into its log, and into /tmp/count.
run_ticker()
{
    local host=$1 name=$2
    shift 2
    cluster_cli "$host" -q run --name "$name" --image "$(root_of busybox)" "$@" -- sh -c "$ticker"
    until_true count_passed "$host" "$name" 0
}

# shellcheck disable=SC2016  # the container's shell expands it
ticker='n=0; while :; do n=$((n + 1)); echo "tick $n"; echo $n >/tmp/count; usleep 20000; done'

# ticks HOST NAME: it counts at this moment.
ticks()
{
    until_true count_passed "$1" "$2" "$(count_of "$1" "$2")"
}

count_of()
{
    cluster_cli "$1" container logs "$2" --tail 1 | sed 's/^tick //'
}

count_passed()
{
    [ "$(count_of "$1" "$2")" -gt "${3:-0}" ]
}

# remove_everywhere NAME…: for teardown.
remove_everywhere()
{
    local name host
    for name in "$@"; do
        for host in a b; do
            cluster_cli "$host" -q container remove --force "$name" >/dev/null 2>&1 || true
        done
    done
}

# until_true COMMAND…: a deadline on a real condition.
until_true()
{
    local deadline=$((SECONDS + wait_seconds))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "this did not come true within $wait_seconds s: $*" || return 1
        read -r -t 0.02 <> <(:) || true
    done
}

fail()
{
    echo "$*" >&2
    return 1
}

# jq 1.6 is content with no input at all, even with -e: a command that says nothing would pass for one that says yes.
jq()
{
    local said
    if [[ " $* " != *" -e "* ]]; then
        command jq "$@"
        return
    fi
    said=$(command jq "$@") && [ -n "$said" ] && echo "$said"
}

# --- the client ---

# client_start IP [OPTION…]: writes and reads numbered keys of redis over one connection.
client_start()
{
    local ip=$1
    shift
    rm -f "$FM_WORK/client.ready"
    on c "$load_client" "$ip" 6379 --rate 500 --keys 500 --value-size 200 --verify \
        --control "$FM_WORK/client.sock" --ready-file "$FM_WORK/client.ready" "$@" \
        >"$FM_WORK/client.json" 2>"$FM_WORK/client.log" 3>&- 4>&- &
    echo $! >"$FM_WORK/client.pid"
    until_true test -e "$FM_WORK/client.ready"
    until_true acknowledged_more_than 0
}

acknowledged_more_than()
{
    [ "$("$load_client" --ask "$FM_WORK/client.sock" status | jq .acknowledged_writes)" -gt "$1" ]
}

# assert_client_served: writes are acknowledged now, after whatever happened.
assert_client_served()
{
    local before
    before=$("$load_client" --ask "$FM_WORK/client.sock" status | jq .acknowledged_writes)
    until_true acknowledged_more_than "$before"
}

# assert_client_unharmed: still served; then it stops, has read back all that was acknowledged, over the
# connection that it began with.
assert_client_unharmed()
{
    assert_client_served
    "$load_client" --ask "$FM_WORK/client.sock" stop >/dev/null
    wait_gone "$(cat "$FM_WORK/client.pid")"
    rm "$FM_WORK/client.pid"
    jq -e '.lost_writes == 0 and .connection_resets == 0 and .errors == 0 and .unanswered == 0 and .verified' \
        "$FM_WORK/client.json" >/dev/null || fail "the client was harmed: $(cat "$FM_WORK/client.json" "$FM_WORK/client.log")"
}

client_kill()
{
    local pid
    pid=$(cat "$FM_WORK/client.pid" 2>/dev/null) || return 0
    "$load_client" --ask "$FM_WORK/client.sock" stop >/dev/null 2>&1 || true
    wait_gone "$pid"
    rm -f "$FM_WORK/client.pid"
}

wait_gone()
{
    until_true is_gone "$1"
}

is_gone()
{
    [ ! -e "/proc/$1/stat" ] || grep -q ') Z ' "/proc/$1/stat"
}

# --- one container ---

# identity_of HOST NAME: "PID STARTTIME" of its init, which no other process ever has.
identity_of()
{
    local pid
    pid=$(on "$1" runc state "$2" | jq .pid) && [ "$pid" -gt 0 ] || fail "no process of '$2' on $1"
    echo "$pid $(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f20)"
}

status_on()
{
    on "$1" runc state "$2" 2>/dev/null | jq -r .status
}

switches_of()
{
    local pid
    for pid in $(processes_of "$1" "$2"); do
        grep -h _ctxt_switches /proc/"$pid"/task/*/status
    done
}

# stands_still HOST NAME: none of its threads was on a processor for half a second. runc calls a restore that is held "running";
# redis wakes ten times in a second when it does.
stands_still()
{
    local before
    before=$(switches_of "$@")
    read -r -t 0.5 <> <(:) || true
    [ "$(switches_of "$@")" = "$before" ]
}

# assert_runs_only_on HOST NAME: there it runs and is not frozen, and the other host has no process of it.
assert_runs_only_on()
{
    local host=$1 name=$2 other=a
    [ "$host" = a ] && other=b
    [ "$(status_on "$host" "$name")" = running ] || fail "'$name' is '$(status_on "$host" "$name")' on $host"
    [ "$(freezer_of "$host" "$name")" = thawed ] || fail "'$name' stands still on $host"
    [ -z "$(processes_of "$other" "$name")" ] || fail "'$name' has processes on $other: $(processes_of "$other" "$name")"
}

# Its cgroup directories, in every hierarchy.
cgroups_of()
{
    compgen -G "/sys/fs/cgroup/fm-$cluster_prefix/$1/$2" || true
    compgen -G "/sys/fs/cgroup/*/fm-$cluster_prefix/$1/$2" || true
}

processes_of()
{
    local dir
    for dir in $(cgroups_of "$1" "$2"); do
        cat "$dir/cgroup.procs" 2>/dev/null || true
    done | sort -un | xargs
}

freezer_of()
{
    local dir frozen=thawed
    for dir in $(cgroups_of "$1" "$2"); do
        ! grep -qsx 'FROZEN\|FREEZING' "$dir/freezer.state" || frozen=frozen
        ! grep -qsx 'frozen 1' "$dir/cgroup.events" || frozen=frozen
    done
    echo $frozen
}

# --- what a host holds ---

# All programs on a host, without what is in a container.
helpers_on()
{
    local pid words
    for pid in $(cat "/sys/fs/cgroup/pids/fm-$cluster_prefix/host-$1/cgroup.procs" \
        "/sys/fs/cgroup/fm-$cluster_prefix/host-$1/cgroup.procs" 2>/dev/null); do
        { mapfile -d '' words <"/proc/$pid/cmdline"; } 2>/dev/null && echo "${words[*]}"
    done
}

# snapshot HOST: one line for each process, mount, namespace, device, FDB entry, cgroup, directory and file of
# the runtime that a migration could leave there.
snapshot()
{
    local host=$1
    {
        helpers_on "$host" | grep -E 'runc|criu|shim' | sed 's/^/process /' || true
        on "$host" sh -c '
            sed -n "/fleximigrate/s/^[^ ]* \([^ ]* [^ ]*\).*/mount \1/p" /proc/self/mounts
            find /run/fleximigrate/netns /run/netns -mindepth 1 -printf "netns %f\n" 2>/dev/null
            find /sys/class/net -mindepth 1 -printf "device %f\n"
            bridge fdb | sed -E "/^(33:33|01:00:5e)| self permanent/d; s/^/fdb /"
            find /run/fleximigrate /run/runc /var/lib/fleximigrate -xdev -type d ! -path "*/images/layers/*/*" \
                ! -path "*/containers/*/*/*" ! -path /run/fleximigrate/netns \
                ! -path /var/lib/fleximigrate/containers -printf "directory %p\n" 2>/dev/null
            find /var/lib/fleximigrate/migrations /var/lib/fleximigrate/images/layers -maxdepth 1 -mindepth 1 \
                -printf "entry %p\n" 2>/dev/null
            find /run /run/lock -maxdepth 1 -mindepth 1 -printf "file %p\n"'
        find "/sys/fs/cgroup/fm-$cluster_prefix/$host" /sys/fs/cgroup/*/"fm-$cluster_prefix/$host" \
            -mindepth 1 -maxdepth 1 -type d -printf 'cgroup %p\n' 2>/dev/null || true
    } | sort
}

# assert_nothing_new HOST FILE [REGEX]: the host holds nothing that it did not hold when `snapshot HOST >FILE` was
# taken, but for what matches. What ends a moment after an answer, such as a helper process, is waited for.
assert_nothing_new()
{
    local deadline=$((SECONDS + 5)) new
    while new=$(comm -13 "$2" <(snapshot "$1") | grep -vE "${3:-^$}") && [ -n "$new" ]; do
        if [ $SECONDS -ge $deadline ]; then
            fail "left on $1: $new" || return
        fi
        read -r -t 0.05 <> <(:) || true
    done
}

# assert_clean HOST NAME: nothing at all of that container is on the host, whatever was there before.
assert_clean()
{
    local host=$1 name=$2 deadline=$((SECONDS + 5)) left
    while left=$(remains "$host" "$name") && [ -n "$left" ]; do
        if [ $SECONDS -ge $deadline ]; then
            fail "of '$name' on $host: $left" || return
        fi
        read -r -t 0.05 <> <(:) || true
    done
}

# The veth of a container bears its owner's name; what points to another host is no remainder.
remains()
{
    local host=$1 name=$2
    cgroups_of "$host" "$name"
    helpers_on "$host" | grep -E "(runc|criu|shim)( |.*[ /])$name( |/|\$)" || true
    snapshot "$host" |
        grep -E "(/|^netns )$name( |/|\$)|^entry .*/migrations/|^device fmhold|^process .*criu" || true
    on "$host" ip -o -d link | grep -E "alias [^ ]*[ :=]$name( |:|\$)" || true
}

# --- one migration ---

# last_migration HOST: the newest that began there.
last_migration()
{
    cluster_cli "$1" --json migration list | jq -r '[.[] | select(.role != "destination")][0].id'
}

# transitions_of HOST ID: from the journal, as in "PENDING PLANNING FAILED ROLLBACK FAILED."
transitions_of()
{
    cluster_cli "$1" --json migration show "$2" | path_of
}

# logged_of HOST ID: this migration's lines of the log, from the first to the final one.
logged_of()
{
    sed -n "/\[MigrationManager\]: Migration $2 .* requested/,/Final State: /p" "$FM_WORK/$1.log"
}

# logged_transitions_of HOST ID: the same as transitions_of, from the log.
logged_transitions_of()
{
    logged_of "$1" "$2" | sed -nE \
        -e 's/.* Transitioning: ([A-Z]+ -> )?([A-Z]+)\.$/\2/p' \
        -e 's/.* Final State: ([A-Z]+)\.$/\1./p' | xargs
}

# reporters_of HOST ID: who said so, as in "MigrationManager:PENDING …", from the log.
reporters_of()
{
    logged_of "$1" "$2" | sed -nE \
        -e 's/^[A-Z]+ \[([A-Za-z]+)\]: .* Transitioning: ([A-Z]+ -> )?([A-Z]+)\.$/\1:\3/p' \
        -e 's/^[A-Z]+ \[([A-Za-z]+)\]: .* Final State: ([A-Z]+)\.$/\1:\2/p' | xargs
}

# assert_path HOST ID "STATE…": journal and log agree on the order, each line has the format, and each "from" is the
# state before it.
assert_path()
{
    local document journal logged bad
    document=$(cluster_cli "$1" --json migration show "$2")
    journal=$(path_of <<<"$document")
    logged=$(logged_transitions_of "$1" "$2")
    [ "$journal" = "$3" ] || fail "journal: $journal; expected: $3"
    [ "$logged" = "$3" ] || fail "log: $logged; expected: $3"
    bad=$(logged_of "$1" "$2" | grep -vE '^(DEBUG|INFO|WARN|ERROR) \[(MigrationManager|PolicyEnforcer|DecisionEngine|ResourceAllocator|ContainerManager|NetworkManager|StateSynchronizer|ResourceMonitor)\]: .*\.$' || true)
    [ -z "$bad" ] || fail "not the log's format: $bad"
    jq -e '[.transitions[].from] == [null] + [.transitions[:-1][].to]' <<<"$document" >/dev/null ||
        fail "the states do not follow each other"
}

path_of()
{
    jq -r '[.transitions[] | .to + (if .final then "." else "" end)] | join(" ")'
}

# assert_one_error_line: after `run --separate-stderr`.
assert_one_error_line()
{
    # shellcheck disable=SC2154  # bats sets them
    [ "${#stderr_lines[@]}" -eq 1 ] || fail "not one line on stderr: $stderr"
    [[ ${stderr_lines[0]} == fleximigrate:\ * ]] || fail "not our error line: $stderr"
}

# refused CODE HOST ARGUMENT…: the command ends with CODE and says why in one line.
refused()
{
    local code=$1
    shift
    run "-$code" --separate-stderr cluster_cli "$@"
    assert_one_error_line
}

# --- containers that the daemon did not start ---

# run_plain HOST NAME EDIT COMMAND…: `runc run --detach` behind the daemon's back, with busybox. EDIT is a jq filter
# that changes config.json. Its stdin, stdout and stderr are this call's.
run_plain()
{
    local host=$1 name=$2 edit=$3 dir=/var/lib/plain/$2
    shift 3
    on "$host" mkdir -p "$dir"
    on "$host" cp -a "$(root_of busybox)" "$dir/rootfs"
    on "$host" sh -c "cd $dir && rm -f config.json && runc spec"
    on "$host" cat "$dir/config.json" |
        jq --arg cgroup "/fm-$cluster_prefix/$host/$name" \
            --argjson command "$(printf '%s\0' "$@" | jq -Rs 'rtrimstr("\u0000") | split("\u0000")')" '
            .process.terminal = false | .process.args = $command | .root.readonly = false
            | .process.rlimits = [] | .linux.cgroupsPath = $cgroup | '"$edit" |
        on "$host" tee "$dir/config.json.new" >/dev/null
    on "$host" mv "$dir/config.json.new" "$dir/config.json"
    on "$host" runc run --detach --bundle "$dir" "$name" 3>&- 4>&-
}

remove_plain()
{
    local name host
    for name in "$@"; do
        for host in a b; do
            on "$host" runc delete --force "$name" 2>/dev/null || true
            on "$host" rm -rf "/var/lib/plain/$name"
        done
    done
}
