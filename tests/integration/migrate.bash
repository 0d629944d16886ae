# shellcheck shell=bash
# shellcheck disable=SC2154  # variables of lib.bash
# What the migration tests share, on top of lib.bash: hops between a and b, and clients on c.

# hop FROM TO NAME: one migration. Afterwards the container runs there, and only there. longest_freeze is of all hops
# of a test, in whole milliseconds.
hop()
{
    local from=$1 to=$2 name=$3 freeze
    cluster_cli "$from" -q migrate "$name" --to "host-$to" || fail "$name did not move from $from to $to"
    assert_runs_only_on "$to" "$name"
    assert_clean "$from" "$name"
    freeze=$(stat_of "$from" freeze_ms)
    show "$name $from -> $to: freeze $freeze ms, total $(stat_of "$from" total_ms) ms"
    [ "${freeze%.*}" -le "${longest_freeze:-0}" ] || longest_freeze=${freeze%.*}
}

# assert_no_timeout MS: a client's silence is the freeze and little more. A lost packet would cost a retransmission
# timeout on top, 200 ms at least.
assert_no_timeout()
{
    [ "${1%.*}" -lt $((longest_freeze + 170)) ] || fail "silent for $1 ms, but frozen for $longest_freeze ms"
}

# stat_of HOST NAME: of the last migration that HOST was the source of.
stat_of()
{
    cluster_cli "$1" --json migration show "$(last_migration "$1")" |
        jq ".stats.$2 * 10 | round / 10"
}

# show TEXT: a measured figure, among the results.
show()
{
    echo "# $*" >&3
}

# client NAME PROGRAM ARGUMENT…: a workload on host c (or $client_host, there behind the command client_enter), whose
# output is $FM_WORK/NAME.out. Waits until its traffic flows; the programs take --ready-file.
client()
{
    local name=$1 program=$2
    shift 2
    rm -f "$FM_WORK/$name.ready"
    (exec "$top/scripts/hosts" exec "$cluster_prefix" "${client_host:-c}" -- "${client_enter[@]}" \
        "$FM_BUILD/tests/workloads/$program" "$@" \
        --ready-file "$FM_WORK/$name.ready" >"$FM_WORK/$name.out" 2>"$FM_WORK/$name.err" 3>&- 4>&-) &
    echo $! >"$FM_WORK/$name.pid"
    until_true test -e "$FM_WORK/$name.ready"
}

# client_signal NAME SIGNAL
client_signal()
{
    kill "-$2" "$(cat "$FM_WORK/$1.pid")"
}

# assert_client_runs NAME: it has neither finished nor failed.
assert_client_runs()
{
    ! is_gone "$(cat "$FM_WORK/$1.pid")" || fail "client '$1' has ended: $(cat "$FM_WORK/$1.out" "$FM_WORK/$1.err")"
}

# client_result NAME FILTER: waits for its end; its JSON report must satisfy the filter.
client_result()
{
    wait_gone "$(cat "$FM_WORK/$1.pid")"
    rm -f "$FM_WORK/$1.pid"
    client_reported "$1" "$2"
}

# client_reported NAME FILTER
client_reported()
{
    jq -e "$2" "$FM_WORK/$1.out" >/dev/null || fail "client '$1' reports $(cat "$FM_WORK/$1.out" "$FM_WORK/$1.err")"
}

# client_figure NAME FILTER
client_figure()
{
    jq "$2" "$FM_WORK/$1.out"
}

# clients_kill: for teardown.
clients_kill()
{
    local file
    for file in "$FM_WORK"/*.pid; do
        case ${file##*/} in
        [a-h].pid) ;; # the daemons
        *)
            kill -KILL "$(cat "$file")" 2>/dev/null || true
            rm -f "$file"
            ;;
        esac
    done
}

# run_workload NAME IP COMMAND…: a container on a from a root of busybox and the workloads that run inside.
run_workload()
{
    local name=$1 ip=$2
    shift 2
    cluster_cli a -q run --name "$name" --image "$FM_WORK/root-workload" --ip "$ip" -- "$@"
}

# make_workload_root: once for a file.
make_workload_root()
{
    local programs=$FM_BUILD/tests/workloads
    "$top/scripts/make-rootfs" busybox "$FM_WORK/root-workload" "$programs/kitchen_sink" "$programs/probe"
    install -m 755 "$top/tests/workloads/shelltree.sh" "$FM_WORK/root-workload/bin/shelltree.sh"
}
