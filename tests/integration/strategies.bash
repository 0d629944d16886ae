# shellcheck shell=bash
# shellcheck disable=SC2154  # variables of lib.bash
# What the tests of the strategies share, on top of lib.bash and migrate.bash: the container that verifies its own
# memory, and hops by a given strategy.

# strategies: those that this build offers, but "auto"; FM_STRATEGIES="cold pre-copy" names others.
strategies()
{
    if [ -n "${FM_STRATEGIES:-}" ]; then
        echo "$FM_STRATEGIES"
        return
    fi
    "$FM_BUILD/src/cli/fleximigrate" migrate --help | grep -e '--strategy STRATEGY' |
        grep -oE 'cold|pre-copy|post-copy|hybrid' | xargs
}

# hop_by STRATEGY FROM TO NAME [OPTION…]: one migration, and by that strategy, not by one that took its place.
hop_by()
{
    local strategy=$1 from=$2 to=$3 name=$4 used
    shift 4
    migrate_at_last "$from" "$name" --to "host-$to" --strategy "$strategy" "$@" ||
        fail "'$name' did not move from $from to $to by $strategy" || return
    used=$(cluster_cli "$from" --json migration show "$(last_migration "$from")" | jq -r .strategy)
    [ "$used" = "$strategy" ] || fail "moved by $used instead of $strategy" || return
    assert_runs_only_on "$to" "$name" || return
    show "$name $from -> $to by $strategy${*:+ $*}: freeze $(stat_of "$from" freeze_ms) ms, total $(stat_of "$from" total_ms) ms"
}

# migrate_at_last HOST ARGUMENT…: as a user who is told to try again does.
migrate_at_last()
{
    local host=$1 tries=0
    shift
    until cluster_cli "$host" -q migrate "$@" 2>"$FM_WORK/migrate.err"; do
        if ! grep -q 'try again' "$FM_WORK/migrate.err" || [ $((tries += 1)) -ge 5 ]; then
            cat "$FM_WORK/migrate.err" >&2
            cluster_cli "$host" container logs "$1" 2>/dev/null | grep -E '^(FAIL|SKIPPED)' >&2 || true
            return 1
        fi
        show "tried again: $(cat "$FM_WORK/migrate.err")"
    done
}

# to_and_fro STRATEGY NAME CHECK [ARGUMENT…]: a → b → a, where CHECK HOST [ARGUMENT…] must hold after each.
# FM_HOPS: so many instead of two.
to_and_fro()
{
    local strategy=$1 name=$2 hosts=(a b) i from to
    shift 2
    for ((i = 0; i < ${FM_HOPS:-2}; i++)); do
        from=${hosts[i % 2]} to=${hosts[(i + 1) % 2]}
        hop_by "$strategy" "$from" "$to" "$name" || return
        "$1" "$to" "${@:2}" || return
    done
    # Back where it began, as the next strategy expects it.
    if ((i % 2)); then
        hop_by "$strategy" b a "$name"
    fi
}

# strategies_start N: a cluster that strategies_teardown can make again.
strategies_start()
{
    echo "$1" >"$FM_WORK/hosts"
    cluster_start "$1"
}

# strategies_teardown NAME: after a failure with what the daemons said, and a new cluster: the next test shall not suffer.
strategies_teardown()
{
    if [ -n "${BATS_TEST_COMPLETED:-}" ]; then
        remove_everywhere "$1"
        return
    fi
    grep -HE '^(WARN|ERROR)' "$FM_WORK/a.log" "$FM_WORK/b.log" | sed "s|^$FM_WORK/||" | grep -v iptables | tail -n 20 >&2
    cluster_down
    rm -rf "$FM_WORK"/?.log "$FM_WORK/ca" "$FM_WORK/pki"
    cluster_up "$cluster_prefix" "$(cat "$FM_WORK/hosts")" 3>&- 4>&-
}

# --- memcheck ---

make_memcheck_root()
{
    "$top/scripts/make-rootfs" busybox "$FM_WORK/root-memcheck" "$FM_BUILD/tests/workloads/memcheck"
}

# memcheck_start NAME [ARGUMENT…]: a container on a, in which every page was verified once.
memcheck_start()
{
    local name=$1
    shift
    cluster_cli a -q run --name "$name" --image "$FM_WORK/root-memcheck" -- memcheck "$@"
    assert_memcheck a "$name" || return
}

# memcheck_rounds HOST NAME: how often all of its memory was verified.
memcheck_rounds()
{
    cluster_cli "$1" container logs "$2" --tail 3 |
        sed -n 's/^status rounds=\([0-9]*\).*/\1/p' | tail -n 1
}

# assert_memcheck HOST NAME: all memory is verified twice from now on, without a difference: a round may have begun
# before. Fails at once when it has ended.
assert_memcheck()
{
    local host=$1 name=$2 deadline=$((SECONDS + 30)) before now
    before=$(memcheck_rounds "$host" "$name")
    while now=$(memcheck_rounds "$host" "$name") && [ "${now:-0}" -lt $((${before:-0} + 2)) ]; do
        if [ "$(status_on "$host" "$name")" != running ] || [ $SECONDS -ge $deadline ]; then
            memcheck_failure "$host" "$name" || return
        fi
        read -r -t 0.1 <> <(:) || true
    done
    ! cluster_cli "$host" container logs "$name" | grep -q ^FAIL || memcheck_failure "$host" "$name"
}

memcheck_failure()
{
    cluster_cli "$1" container logs "$2" | grep -v ^status | tail -n 20 >&2
    fail "'$2' on $1 found a difference or stands still: $(cluster_cli "$1" container logs "$2" --tail 1)"
}

# memcheck_skipped HOST NAME: the modes that said that they cannot run here.
memcheck_skipped()
{
    cluster_cli "$1" container logs "$2" | grep '^SKIPPED' || true
}
