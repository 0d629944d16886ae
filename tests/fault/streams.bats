#!/usr/bin/env bats
# Page streams that are cut, pagers that are killed, and sources that vanish, while a container moves that verifies every page:
# it runs once, on the right host, and never sees a page that is not its own.

load streams

setup_file()
{
    streams_start
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    streams_teardown
}

small=(--mib 16 --rate 1000 dirty)

# --- page streams ---

# bats test_tags=slow
@test "a page stream is reset in a round: rolled back" {
    memcheck_start mem "${small[@]}"
    armed a pages.send reset:page1@a
    begin pre-copy --bandwidth 100Mbit
    wait_struck
    stays
}

# bats test_tags=slow
@test "the other page stream is reset in a round of hybrid: rolled back" {
    memcheck_start mem "${small[@]}"
    armed a pages.send reset:page2@a
    begin hybrid --bandwidth 100Mbit
    wait_struck
    stays
}

# bats test_tags=slow
@test "page streams are reset in a later round: rolled back" {
    memcheck_start mem --mib 16 --rate 40000 dirty
    begin pre-copy --bandwidth 100Mbit
    until_true document_is a '.stats.rounds >= 2'
    strike_now a reset:pages@a
    stays
}

# bats test_tags=slow
@test "a page stream is reset before the last pages travel: rolled back" {
    memcheck_start mem "${small[@]}"
    armed a criu.network-lock reset:page1@a
    begin pre-copy
    wait_struck
    stays
}

# bats test_tags=slow
@test "a page stream is reset in the freeze of hybrid and of post-copy: rolled back" {
    local strategy
    for strategy in hybrid post-copy; do
        memcheck_start mem "${small[@]}"
        armed a criu.network-lock reset:page2@a
        begin $strategy
        wait_struck
        stays
        remove_everywhere mem
    done
}

# CRIU itself needs pages that do not come any more: it must not wait for them until the time is up.
# bats test_tags=slow
@test "a page stream is reset with the first page of post-copy: rolled back at once, or served again" {
    local rate
    for rate in 10mbit 1gbit; do
        memcheck_start mem "${small[@]}"
        slow_wire $rate
        armed a pages.send reset:page1@a
        begin post-copy
        wait_struck
        wait_seconds=20 until_true all_final
        stays_or_moves
        remove_everywhere mem
    done
}

stays_or_moves()
{
    settle_all
    show "$(document a | jq -r '.result')"
    if document_is a '.result == "completed"' >/dev/null; then moves; else stays; fi
}

# bats test_tags=slow
@test "page streams are reset in post-copy: made again, and the rest travels" {
    memcheck_start mem --mib 24 --rate 1000 dirty
    begin_lazily post-copy
    strike_now a reset:pages@a
    moves
}

# bats test_tags=slow
@test "one page stream is reset in post-copy and hybrid: made again, and the rest travels" {
    local stream
    for stream in page1 page2; do
        memcheck_start mem --mib 24 --rate 1000 dirty
        begin_lazily post-copy
        strike_now a reset:$stream@a
        moves
        remove_everywhere mem
    done
    memcheck_start mem --mib 16 --rate 40000 dirty
    begin_lazily hybrid --max-rounds 2
    strike_now a reset:page1@a
    moves
}

@test "damaged, swapped and foreign pages: refused, and nothing stays of them" {
    local cases=(pages-alone pages-unknown-migration pages-of-cold pages-flipped pages-swapped pages-repeated pages-garbage
        pages-process pages-no-process pages-address pages-last-address pages-unaligned pages-sync pages-other
        pages-cut)
    snapshot b >"$FM_WORK/before"
    run -0 on a python3 "$top/tests/integration/wire_abuse.py" "$(address_of b)" 7441 "$FM_WORK/pki" host-a "${cases[@]}"
    diff <(sed 's/^\([^ ]*\) FAILED \([A-Z_]*\) .*/\1 \2/' <<<"$output") - <<END || fail "$output"
pages-alone: PROTOCOL
pages-unknown-migration: NOT_FOUND
pages-of-cold: PROTOCOL
pages-flipped: CHECKSUM
pages-swapped: PROTOCOL
pages-repeated: PROTOCOL
pages-garbage: PROTOCOL
pages-process: PROTOCOL
pages-no-process: PROTOCOL
pages-address: PROTOCOL
pages-last-address: PROTOCOL
pages-unaligned: PROTOCOL
pages-sync: PROTOCOL
pages-other: PROTOCOL
pages-cut: left
END
    until_true all_final
    assert_no_pages
    assert_nothing_new b "$FM_WORK/before"
    assert_clean b evil
}

@test "more pages than the host has room for: refused, and nothing stays of them" {
    local available
    available=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
    FM_CONFIG_EXTRA=$'limits:\n  memory_reserve: '$((available - 150))MiB write_config b
    daemon_restart b
    write_config b
    snapshot b >"$FM_WORK/before"
    run -0 on a python3 "$top/tests/integration/wire_abuse.py" "$(address_of b)" 7441 "$FM_WORK/pki" host-a pages-too-many
    [[ $output == "pages-too-many: FAILED NO_SPACE 'evil' has grown to "* ]] || fail "$output"
    until_true all_final
    assert_no_pages
    assert_nothing_new b "$FM_WORK/before"
    assert_clean b evil
    daemon_restart b
}

# --- the pager ---

# bats test_tags=slow
@test "the pager's worker, or its keeper, is killed in post-copy: another one goes on" {
    local victim
    for victim in worker keeper; do
        memcheck_start mem --mib 24 --rate 1000 dirty
        begin_lazily post-copy
        strike_now a kill:$victim@b
        moves
        remove_everywhere mem
    done
}

@test "keeper and worker are killed at once in post-copy: the daemon starts another pager" {
    memcheck_start mem --mib 24 --rate 1000 dirty
    begin_lazily post-copy
    strike_now a kill:pager@b
    moves
}

# bats test_tags=slow
@test "keeper and worker are killed in hybrid, again and again" {
    local i
    memcheck_start mem --mib 16 --rate 40000 dirty
    begin_lazily hybrid --max-rounds 2
    for i in 1 2 3; do
        strike_now a kill:pager@b
        rm "$FM_WORK/struck"
        until_true pager_is_back
    done
    moves
}

pager_is_back()
{
    [ "$(helpers_on b | grep -c fleximigrate-pager)" = 2 ]
}

# bats test_tags=slow
@test "the pager is killed while CRIU restores: rolled back or restored, but whole" {
    local point
    for point in criu.pre-restore criu.post-restore criu.network-unlock; do
        memcheck_start mem "${small[@]}"
        armed b $point kill:pager@b
        begin pre-copy
        wait_struck
        stays_or_moves
        remove_everywhere mem
    done
}

# bats test_tags=slow
@test "the destination's daemon is killed in post-copy: the pager goes on, and the next daemon finds it" {
    memcheck_start mem --mib 24 --rate 1000 dirty
    begin_lazily post-copy
    strike_now a kill:daemon@b
    revive_daemons
    moves
}

# The one that is left holds all userfaultfds.
# bats test_tags=slow
@test "the destination's daemon and a half of its pager are killed at once in post-copy: the other half goes on" {
    local half
    for half in worker keeper; do
        memcheck_start mem --mib 24 --rate 1000 dirty
        begin_lazily post-copy
        strike_now a kill:daemon@b kill:$half@b
        revive_daemons
        moves
        remove_everywhere mem
    done
}

# --- nobody is left who holds a userfaultfd, but the container itself ---

@test "daemon, pager and keeper are killed in the same instant while memory is filled: it stands still, and another pager goes on" {
    memcheck_start mem --mib 48 --rate 1000 dirty
    struck_while_filling pre-copy daemon+pager
    goes_on
}

# bats test_tags=slow
@test "daemon, pager and keeper are killed in the same instant in post-copy: another pager goes on" {
    memcheck_start mem --mib 24 --rate 1000 dirty
    begin_lazily post-copy
    identity=$(identity_of b mem)
    strike_now a kill:daemon+pager@b
    goes_on
}

# All that bears our name, as pkill would.
# bats test_tags=slow
@test "the shim is killed with them: no page of zeroes, and the container runs" {
    memcheck_start mem --mib 48 --rate 1000 dirty
    struck_while_filling pre-copy daemon+pager+shim
    revive_daemons
    settle_all
    show "$(grep -oE 'another one goes on with what|restored once more from its' "$FM_WORK/b.log" | tail -n 1)"
    assert_no_difference b
    assert_runs_only_on b mem
    assert_clean a mem
    assert_no_pages
}

# bats test_tags=slow
@test "they are killed while processes fork, or move their memory about: no page of zeroes" {
    local mode
    for mode in tree forkstorm cow remap user seccomp; do
        memcheck_start mem --mib 16 --rate 1000 $mode dirty
        struck_while_filling pre-copy daemon+pager
        goes_on
        remove_everywhere mem
    done
}

# What the container kept must not be in its way afterwards.
# bats test_tags=slow
@test "they are killed in one migration after the other, and nothing piles up in the container" {
    local i
    memcheck_start mem --mib 16 --rate 1000 tree dirty
    for i in 1 2; do
        struck_while_filling pre-copy daemon+pager
        goes_on
        assert_keeps_nothing b
        hop_by pre-copy b a mem
        assert_keeps_nothing a
    done
}

# --- the source is lost ---

# bats test_tags=slow
@test "the source's daemon is killed in post-copy: noticed within a second, the rest travels when it is back" {
    memcheck_start mem --mib 24 --rate 1000 dirty
    begin_lazily post-copy
    strike_now b kill:daemon@a
    assert_noticed 1000
    assert_no_difference b
    revive_daemons
    moves
}

@test "the wire is cut in post-copy: noticed within a second, the rest travels when it is mended" {
    memcheck_start mem --mib 24 --rate 1000 dirty
    begin_lazily post-copy
    filling
    strike_now b cut:wire@a
    assert_noticed 1000
    until_true document_is a .needs_attention
    assert_no_difference b
    mend
    moves
}

# bats test_tags=slow
@test "the wire is cut in hybrid: noticed within a second, the rest travels when it is mended" {
    memcheck_start mem --mib 24 --rate 40000 dirty
    begin_lazily hybrid --max-rounds 2
    strike_now b cut:wire@a
    assert_noticed 1000
    assert_no_difference b
    mend
    moves
}

# bats test_tags=slow
@test "the source's daemon stands still in post-copy and in hybrid: noticed within a second, and it goes on" {
    local strategy
    for strategy in post-copy hybrid; do
        memcheck_start mem --mib 24 --rate 40000 dirty
        begin_lazily $strategy --max-rounds 2
        strike_now b stop:daemon@a
        assert_noticed 1000
        kill -CONT "$(daemon_pid a)"
        moves
        remove_everywhere mem
    done
}

# --- no room ---

# bats test_tags=slow
@test "the destination has no room for a page: rolled back" {
    memcheck_start mem "${small[@]}"
    snapshot b >"$FM_WORK/before"
    daemon_restart b FLEXIMIGRATE_FAULT=pages.store=fail:5
    begin pre-copy
    settle_all
    assert_nothing_new b "$FM_WORK/before" images/layers
    stays 'no room'
}

# bats test_tags=slow
@test "the destination's page store is full: rolled back" {
    local strategy
    memcheck_start mem "${small[@]}"
    for strategy in pre-copy hybrid; do
        on b mount -o remount,size=4m /run/fleximigrate/pages
        begin $strategy
        settle_all
        document_is a '.result == "failed"' >/dev/null || fail "it was not full"
        document a | jq -c '[.transitions[].message]' >&3
        on b mount -o remount,size=50% /run/fleximigrate/pages
        assert_runs_only_on a mem
        [ "$(identity_of a mem)" = "$identity" ]
        assert_clean b mem
        assert_no_pages
        assert_memcheck a mem
    done
}

# --- for ever ---

# The last one: its migration needs attention for ever.
# bats test_tags=slow
@test "the source's host is lost for ever in post-copy: what lacks memory stands still, and nothing is made up" {
    memcheck_start mem --mib 24 --rate 1000 dirty
    begin_lazily post-copy
    strike_now b cut:wire@a
    "$top/scripts/hosts" kill "$cluster_prefix" a
    assert_noticed 1000
    mend
    on a tc qdisc del dev eth0 root
    daemon_start a 3>&- 4>&-
    wait_seconds=30 until_true document_is a '.final and .needs_attention and .result == "failed"' ||
        fail "$(document a | jq -c '{state, final, needs_attention, result, reason}')"
    document_is a '.reason.message | test("of the original has gone, and its memory with it")' >/dev/null ||
        fail "$(document a | jq -c .reason)"
    document_is b '.needs_attention' >/dev/null || fail "the destination needs no attention"
    [ "$(status_on b mem)" = running ] || fail "it is '$(status_on b mem)' on b"
    assert_no_difference b
    [ -z "$(processes_of a mem)" ] || fail "it runs on a"
}
