#!/usr/bin/env bats
# A container that grows while its memory is on its way: the destination promises more, as far as it has more.
# shellcheck disable=SC2154 # stderr is bats'

load lib
load migrate
load strategies

# 64 MiB take some 0.4 s here. What is added then is several times that, and faster than it travels.
first_mib=64
more_mib=288
link=(--bandwidth 1200Mbit --compress none --delta-cache 0)

setup_file()
{
    strategies_start 2
    make_memcheck_root
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    strategies_teardown mem
}

# start_migration STRATEGY STATE: of a container that grows from that state on.
start_migration()
{
    local strategy=$1 state=$2 pid
    memcheck_start mem --mib $first_mib --grow $more_mib --rate 60000 grow
    pid=$(identity_of a mem)
    : >"$FM_WORK/a.log"
    cluster_cli a -q migrate mem --to host-b --strategy "$strategy" --detach "${link[@]}" >"$FM_WORK/id"
    until_true grep -q " -> $state" "$FM_WORK/a.log"
    touch "/proc/${pid% *}/root/tmp/grow"
}

document()
{
    cluster_cli a --json migration show "$(cat "$FM_WORK/id")"
}

ended()
{
    document | jq -e .final
}

mib_of()
{
    local pid
    for pid in $(processes_of "$1" mem); do
        sed -n 's/^RssAnon:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$pid/status"
    done | awk '{ kib += $1 } END { print int(kib / 1024) }'
}

@test "growth: a container that grows by much more than a margin during its pre-copy arrives, each page of it" {
    start_migration pre-copy EXECUTION
    wait_seconds=30 until_true ended
    document | jq -e '.result == "completed" and .strategy == "pre-copy"' >/dev/null || fail "$(document | jq -c .reason)"
    # All but a bit of that came before the freeze.
    document | jq -e --argjson mib $((first_mib + more_mib)) '.stats.memory_bytes > 0.95 * $mib * 1048576' >/dev/null ||
        fail "it was small when it was frozen: $(document | jq -c .stats)"
    assert_runs_only_on b mem
    assert_memcheck b mem
    [ "$(mib_of b)" -ge $((first_mib + more_mib)) ] || fail "$(mib_of b) MiB"
    show "$(document | jq -r '.stats | "\(.rounds) rounds, \(.memory_bytes / 1048576 | round) MiB, freeze \(.freeze_ms | round) ms"')"
}

# bats test_tags=slow
@test "growth: what stays on the source for now has a place, too" {
    start_migration post-copy PREPARATION
    wait_seconds=30 until_true ended
    # More than was promised at first.
    document | jq -e --argjson mib $first_mib '.result == "completed" and .strategy == "post-copy" and
        .stats.missing_bytes > 1.1 * $mib * 1048576' >/dev/null || fail "$(document | jq -c '{reason, stats}')"
    show "$(document | jq -r '.stats | "\(.missing_bytes / 1048576 | round) MiB were missing"')"
    assert_runs_only_on b mem
    assert_memcheck b mem
}

@test "growth: where limits.memory_reserve forbids it, the container stays where it is, and is told why" {
    local identity available
    available=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
    # The original grows in the same memory, so what is left is soon less than nothing.
    FM_CONFIG_EXTRA=$'limits:\n  memory_reserve: '$((available - first_mib - 300))MiB write_config b
    daemon_restart b
    write_config b
    start_migration pre-copy EXECUTION
    identity=$(identity_of a mem)
    wait_seconds=30 until_true ended
    document | jq -e '.result == "failed"' >/dev/null || fail "$(document | jq -c '{result, stats}')"
    document | jq -r .reason | grep -qE "'mem' has grown to [0-9.]+ MiB of memory on its way, and host-b has no room for that: .* is promised to it, .* more is free \(limits\.memory_reserve keeps [0-9.]+ GiB\); free memory there or choose another host" ||
        fail "$(document | jq -c .reason)"
    assert_path a "$(cat "$FM_WORK/id")" "PENDING PLANNING PREPARATION EXECUTION FAILED ROLLBACK FAILED."
    [ "$(identity_of a mem)" = "$identity" ] || fail "it is another process"
    assert_runs_only_on a mem
    assert_clean b mem
    assert_memcheck a mem
    daemon_restart b
}
