#!/usr/bin/env bats
# Pre-copy of a container that writes less than its pages travel, as much, and more: rounds end, and what is done when they
# do not help is what was asked for. Every page is verified throughout.
# shellcheck disable=SC2154 # stderr is bats'

load lib
load migrate
load strategies

# Pages travel at 25 MB/s here, as they are; the calm container writes 2 MB/s, the wild one all of its memory several
# times in a round, which cannot travel in time. A busy machine's fixed costs are no reason.
slow_link=(--bandwidth 200Mbit --compress none --delta-cache 0 --max-downtime 200ms)
calm=(--mib 16 --rate 500 dirty)
wild=(--mib 12 --rate 40000 dirty)

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

# document HOST: of the last migration.
document()
{
    cluster_cli "$1" --json migration show "$(last_migration "$1")"
}

# assert_document HOST FILTER
assert_document()
{
    document "$1" >"$FM_WORK/document.json"
    jq -e "$2" "$FM_WORK/document.json" >/dev/null || fail "not so: $2
$(jq -c 'del(.transitions, .steps, .options, .freeze)' "$FM_WORK/document.json")"
}

show_rounds()
{
    show "$(document a | jq -r '.stats | "\(.rounds) rounds in \(.rounds_ms | round) ms, \(.dirty_rate) B/s written, "
        + "\(.throughput) B/s sent, \(.throttle_percent) % throttled, \(.last_bytes) B in a freeze of "
        + "\(.freeze_ms | round) ms"')"
}

# move_by_precopy OPTION…: from a to b.
move_by_precopy()
{
    migrate_at_last a mem --to host-b --strategy pre-copy "$@" || fail "it did not move" || return
    show_rounds
    assert_runs_only_on b mem || return
    assert_memcheck b mem
}

# begin OPTION…: the same, without waiting for its end.
begin()
{
    cluster_cli a -q migrate mem --to host-b --strategy pre-copy --detach "$@" >"$FM_WORK/id"
}

ended()
{
    document a | jq -e .final
}

# quota_on HOST: of the container's processor time, in µs of a period; -1 or max: unlimited.
quota_on()
{
    local dir
    for dir in $(cgroups_of "$1" mem); do
        cat "$dir/cpu.cfs_quota_us" "$dir/cpu.max" 2>/dev/null || true
    done | head -n 1
}

is_throttled()
{
    [[ $(quota_on a) =~ ^[0-9] ]]
}

assert_unlimited()
{
    [[ $(quota_on "$1") =~ ^(-1|max) ]] || fail "its quota on $1 is '$(quota_on "$1")'"
}

# --- how much is written ---

@test "convergence: nothing is written: few rounds, and almost nothing to send in the freeze" {
    memcheck_start mem --mib 16 --rate 1 dirty
    move_by_precopy "${slow_link[@]}"
    assert_document a '.strategy == "pre-copy" and .stats.rounds <= 3 and .stats.last_bytes < 400000
        and .stats.expected_downtime_ms <= 200'
}

# bats test_tags=slow
@test "convergence: less is written than travels: the freeze is expected to be as short as was asked for" {
    memcheck_start mem "${calm[@]}"
    move_by_precopy "${slow_link[@]}"
    assert_document a '.strategy == "pre-copy" and .stats.rounds < 30 and .stats.throttle_percent == 0
        and .stats.expected_downtime_ms <= 200 and .stats.last_bytes < 4000000'
    assert_document a '.stats.dirty_rate > 500000 and .stats.dirty_rate < 10000000'
}

# bats test_tags=slow
@test "convergence: as much is written as travels: it ends within the rounds that were allowed" {
    memcheck_start mem --mib 16 --rate 6000 dirty
    move_by_precopy "${slow_link[@]}" --max-rounds 4
    # These, and up to four short ones while runtime and CRIU get ready.
    assert_document a '.strategy == "pre-copy" and .stats.rounds <= 8'
}

# --- more is written than travels ---

# bats test_tags=slow
@test "no convergence, freeze: it moves by a longer freeze, and the log says so" {
    memcheck_start mem "${wild[@]}"
    move_by_precopy "${slow_link[@]}" --on-no-convergence freeze
    # All of it is written in a round, so all of it travels in the freeze.
    assert_document a '.strategy == "pre-copy" and .stats.rounds <= 10 and .stats.expected_downtime_ms > 200
        and .stats.freeze_ms > 300 and .stats.last_bytes > 10000000 and .stats.missing_bytes == 0'
    grep -q 'WARN .*mem writes .*/s, its pages travel at .*/s: a freeze of ' "$FM_WORK/a.log"
}

# bats test_tags=slow
@test "no convergence, fail: rolled back, said why, and the container runs on as if nothing had been" {
    local identity
    memcheck_start mem "${wild[@]}"
    snapshot b >"$FM_WORK/before"
    identity=$(identity_of a mem)
    refused 5 a migrate mem --to host-b --strategy pre-copy "${slow_link[@]}" --on-no-convergence fail
    [[ $stderr =~ "'mem' writes ".*"/s, its pages travel at ".*"/s: a freeze would take " ]] || fail "$stderr"
    show_rounds
    assert_path a "$(last_migration a)" "PENDING PLANNING PREPARATION EXECUTION FAILED ROLLBACK FAILED."
    # It was never frozen.
    assert_document a '.strategy == "pre-copy" and .stats.freeze_ms == 0 and .stats.downtime_rollback_ms == 0'
    [ "$(identity_of a mem)" = "$identity" ] || fail "it is another process"
    assert_runs_only_on a mem
    assert_unlimited a
    assert_memcheck a mem
    assert_nothing_new b "$FM_WORK/before" 'images/layers'
}

# bats test_tags=slow
@test "no convergence, hybrid: the rest follows after the commit, and the document and the report say hybrid" {
    memcheck_start mem "${wild[@]}"
    move_by_precopy "${slow_link[@]}" --on-no-convergence hybrid
    assert_document a '.strategy == "hybrid" and .options.strategy == "pre-copy" and .stats.missing_bytes > 10000000
        and .stats.last_bytes == 0 and .stats.freeze_ms < 300 and .stats.faults > 0'
    cluster_cli a migration report "$(last_migration a)" | grep -q 'strategy hybrid'
    grep -q 'INFO .*mem writes .*/s, its pages travel at .*/s: strategy hybrid\.' "$FM_WORK/a.log"
}

# bats test_tags=slow
@test "no convergence: a deadline ends it, too" {
    local began=$SECONDS
    memcheck_start mem "${wild[@]}"
    refused 5 a migrate mem --to host-b --strategy pre-copy --bandwidth 20Mbit --compress none --delta-cache 0 \
        --timeout 2s
    [[ $stderr == *"rolled back"*"took longer than the request allows"* ]] || fail "$stderr"
    [ $((SECONDS - began)) -lt 20 ] || fail "after $((SECONDS - began)) s"
    assert_runs_only_on a mem
    assert_memcheck a mem
}

# --- auto-converge ---

# bats test_tags=slow
@test "auto-converge: less and less processor time until it moves, all of it again on the destination" {
    memcheck_start mem --mib 8 --rate 20000 dirty
    assert_unlimited a
    begin "${slow_link[@]}" --auto-converge --max-rounds 80
    until_true is_throttled
    wait_seconds=60 until_true ended
    show_rounds
    # It helps, also where the container uses a small part of the processors only.
    assert_document a '.result == "completed" and .strategy == "pre-copy" and .stats.throttle_percent >= 20
        and .stats.rounds < 80 and .stats.dirty_rate < .stats.throughput'
    ! logged_of a "$(cat "$FM_WORK/id")" | grep -q 'its pages travel at .*: a freeze of' || fail "it did not converge"
    assert_runs_only_on b mem
    assert_unlimited b
    assert_clean a mem
    assert_memcheck b mem
}

# bats test_tags=slow
@test "auto-converge: taken back when the migration is cancelled" {
    memcheck_start mem "${wild[@]}"
    begin "${slow_link[@]}" --auto-converge
    until_true is_throttled
    cluster_cli a -q migration cancel "$(cat "$FM_WORK/id")"
    until_true ended
    assert_document a '.result == "cancelled" or .result == "failed"'
    assert_unlimited a
    assert_runs_only_on a mem
    assert_memcheck a mem
}

# bats test_tags=slow
@test "auto-converge: taken back by the next daemon when this one is killed" {
    local pid
    memcheck_start mem "${wild[@]}"
    begin "${slow_link[@]}" --auto-converge
    until_true is_throttled
    pid=$(daemon_pid a)
    kill -KILL "$pid"
    wait_gone "$pid"
    is_throttled || fail "it was not throttled when its daemon died"
    daemon_start a 3>&- 4>&-
    until_true ended
    assert_unlimited a
    assert_runs_only_on a mem
    assert_memcheck a mem
    assert_clean b mem
}

# --- what can be seen of it ---

# sample: until it runs on the destination, a line "microsecond, bytes that host a has sent, rounds, dirty rate, page bytes".
sample()
{
    local now sent line
    while now=${EPOCHREALTIME//[.,]/} sent=$(on a cat /sys/class/net/eth0/statistics/tx_bytes) &&
        line=$(cluster_cli a --json migration show "$(cat "$FM_WORK/id")" |
            jq -r 'if .state == "PENDING" or .state == "PLANNING" or .state == "PREPARATION" then "wait"
                elif .state != "EXECUTION" then "over"
                else .stats | "\(.rounds) \(.dirty_rate) \(.page_bytes) \(.dirty_bytes) \(.throughput)" end') &&
        [ "$line" != over ]; do
        [ "$line" = wait ] || echo "$now $sent $line"
        read -r -t 0.1 <> <(:) || true
    done
}

# different COLUMN: so many values of it.
different()
{
    awk -v column="$1" '{ print $column }' "$FM_WORK/samples" | sort -u | wc -l
}

# bats test_tags=slow
@test "a limited bandwidth is kept to, and the status tells how far it is" {
    local limit=10000000 # bytes per second: 80Mbit
    memcheck_start mem --mib 24 --rate 700 dirty
    # The layers, which the limit is not for, are there then.
    hop_by cold a b mem
    hop_by cold b a mem
    begin --bandwidth 80Mbit --compress none --delta-cache 0 --max-rounds 6 --max-downtime 1ms
    sample >"$FM_WORK/samples"
    wait_seconds=60 until_true ended
    show_rounds
    assert_document a '.result == "completed"'
    # From the first page on; of whole seconds, so that a burst does not count.
    awk -v limit=$limit '$5 > 0 { if (!begin) { begin = $1; sent = $2 } end = $1; last = $2 }
        END { seconds = (end - begin) / 1e6; rate = seconds ? (last - sent) / seconds : 0
              printf "# %d bytes per second on the wire for %.1f s\n", rate, seconds
              exit !(seconds > 1.5 && rate < 1.15 * limit && rate > limit / 2) }' "$FM_WORK/samples" >&3 ||
        fail "$(cat "$FM_WORK/samples")"
    [ "$(different 3)" -ge 3 ] || fail "rounds: $(cat "$FM_WORK/samples")"
    [ "$(different 4)" -ge 2 ] || fail "dirty rate: $(cat "$FM_WORK/samples")"
    [ "$(different 5)" -ge 6 ] || fail "bytes: $(cat "$FM_WORK/samples")"
    [ "$(different 7)" -ge 2 ] || fail "throughput: $(cat "$FM_WORK/samples")"
    # Never less than before.
    awk '$3 < rounds || $5 < bytes { exit 1 } { rounds = $3; bytes = $5 }' "$FM_WORK/samples"
    assert_memcheck b mem
}
