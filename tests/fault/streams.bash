# shellcheck shell=bash
# shellcheck disable=SC2154  # variables of lib.bash and faults.bash
# What the tests of struck page streams and pagers share: a container on a that verifies its memory, a migration to b of which
# something is struck, and what must be true afterwards.

load faults
load ../integration/migrate
load ../integration/strategies

# What goes from a to b needs seconds, so that there is time to strike.
slow_wire()
{
    on a tc qdisc replace dev eth0 root tbf rate "$1" burst 64k latency 20ms
}

streams_start()
{
    strategies_start 2
    make_memcheck_root
}

streams_teardown()
{
    local host
    for host in a b; do
        on $host tc qdisc del dev eth0 root 2>/dev/null || true
        kill -CONT "$(daemon_pid $host)" 2>/dev/null || true
    done
    mend 2>/dev/null || true
    revive_daemons
    strategies_teardown mem
}

# armed HOST POINT WORD…: HOST's daemon strikes at POINT, as kill-one says.
armed()
{
    local host=$1 point=$2
    shift 2
    daemon_restart "$host" "FLEXIMIGRATE_FAULT=$point=run:$kill_one" "FM_STRIKE=$*" "FM_STRUCK=$FM_WORK/struck" \
        "FM_FABRIC=$(fabric_pid)"
}

fabric_pid()
{
    "$top/scripts/hosts" pid "$cluster_prefix" fabric
}

# strike_now HOST WORD…: seen from there. struck_us is when.
strike_now()
{
    local host=$1
    shift
    struck_us=${EPOCHREALTIME//[.,]/}
    struck_line=$(wc -l <"$FM_WORK/b.log")
    on "$host" env "FM_STRIKE=$*" "FM_STRUCK=$FM_WORK/struck" "FM_FABRIC=$(fabric_pid)" "$kill_one" now
    wait_struck
}

# begin STRATEGY [OPTION…]: from a to b; `id` is the migration's.
begin()
{
    local strategy=$1
    shift
    rm -f "$FM_WORK/struck"
    identity=$(identity_of a mem)
    id=$(cluster_cli a -q migrate mem --to host-b --strategy "$strategy" --detach "$@")
}

# document HOST
document()
{
    cluster_cli "$1" --json migration show "$id"
}

# document_is HOST FILTER
document_is()
{
    document "$1" | jq -e "$2"
}

runs_on_b()
{
    [ "$(status_on b mem)" = running ]
}

# begin_lazily STRATEGY [OPTION…]: the container runs on b, and its memory, or some of it, is still on a.
begin_lazily()
{
    slow_wire 40mbit
    begin "$@"
    wait_seconds=40 until_true runs_on_b
}

# filling: the source has been told how far that is.
filling()
{
    until_true document_is a '.stats.faults > 0 and .stats.dirty_bytes > 0'
}

# struck_while_filling STRATEGY VICTIMS: the container runs on b, some of its memory is not there yet, and nobody brings it.
struck_while_filling()
{
    daemon_restart b FLEXIMIGRATE_FAULT=pager.push=stop:24
    begin "$1"
    wait_seconds=40 until_true worker_stands
    until_true runs_on_b
    identity=$(identity_of b mem)
    strike_now a "kill:$2@b"
    # Its processes come to pages that are missing.
    read -r -t 0.3 <> <(:) || true
}

worker_stands()
{
    local pid
    for pid in $(cat /sys/fs/cgroup/{,pids/}"fm-$cluster_prefix/host-b/cgroup.procs" 2>/dev/null); do
        ! grep -qs '(fm-pager) T ' "/proc/$pid/stat" || return 0
    done
    return 1
}

# assert_keeps_nothing HOST: no process of the container has a descriptor that it had not opened itself.
assert_keeps_nothing()
{
    local pid kept
    for pid in $(processes_of "$1" mem); do
        kept=$(find "/proc/$pid/fd" -lname "socket:*" -o -lname "*userfaultfd*" 2>/dev/null) || continue
        [ -z "$kept" ] || fail "process $pid still has $kept" || return
    done
}

# goes_on: revived, it is the same process on b, with all of its memory.
goes_on()
{
    revive_daemons
    moves || return
    grep -q 'another one goes on with what the container has kept' "$FM_WORK/b.log" || fail "no pager went on: $(tail -n 5 "$FM_WORK/b.log")"
    [ "$(identity_of b mem)" = "$identity" ] || fail "it was started once more"
}

# --- afterwards ---

assert_no_pages()
{
    local host
    for host in a b; do
        [ -z "$(on $host find /run/fleximigrate/pages -mindepth 1 ! -path '*/pages/scattered')" ] || fail "pages are left on $host"
    done
}

settle_all()
{
    on a tc qdisc del dev eth0 root 2>/dev/null || true
    settle || fail "it does not come to an end: $(cat "$FM_WORK"/[ab].log | grep -v '^INFO' | tail -n 10)"
}

# stays [TEXT]: rolled back, for that reason: the original runs on on a, nothing is on b, and it can move.
stays()
{
    settle_all || return
    document_is a '.result == "failed"' >/dev/null || fail "not rolled back: $(document a | jq -c .result)"
    [ -z "${1:-}" ] || document a | jq -r '.transitions[].message' | grep -q "$1" ||
        fail "not for that reason: $(document a | jq -c '[.transitions[].message]')"
    assert_runs_only_on a mem || return
    [ "$(identity_of a mem)" = "$identity" ] || fail "it is another process"
    assert_clean b mem || return
    no_leftovers || return
    assert_no_pages || return
    assert_memcheck a mem || return
    hop_by pre-copy a b mem || return
    assert_memcheck b mem
}

# moves: it runs on b and only there, with all of its memory.
moves()
{
    settle_all || return
    document_is a '.result == "completed" and (.needs_attention | not)' >/dev/null ||
        fail "not completed: $(document a | jq -c '{result, needs_attention}')"
    assert_runs_only_on b mem || return
    assert_memcheck b mem || return
    assert_clean a mem || return
    no_leftovers || return
    assert_no_pages
}

# assert_noticed MS: b says, so soon after the strike, that the source is lost, and what that means.
assert_noticed()
{
    local deadline=$((SECONDS + 20)) ms
    until tail -n +$((struck_line + 1)) "$FM_WORK/b.log" |
        grep -q '^ERROR .*: Source host-a of mem is lost after the commit: [0-9]* MiB of its memory are still there'; do
        [ $SECONDS -lt $deadline ] || fail "not noticed at all: $(tail -n 5 "$FM_WORK/b.log")" || return
        read -r -t 0.01 <> <(:) || true
    done
    ms=$(((${EPOCHREALTIME//[.,]/} - struck_us) / 1000))
    show "noticed after $ms ms"
    [ $ms -le "$1" ] || fail "noticed after $ms ms only" || return
    until_true document_is b .needs_attention
}

# assert_no_difference HOST: so far; it may stand still.
assert_no_difference()
{
    ! cluster_cli "$1" container logs mem | grep -q ^FAIL || memcheck_failure "$1" mem
}
