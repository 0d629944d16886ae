#!/usr/bin/env bats
# What the strategies have in common: rare things move by each of them, and what no strategy can move is refused by name
# before anything is done.
# shellcheck disable=SC2154 # stderr is bats'

load lib
load migrate
load strategies

setup_file()
{
    strategies_start 2
    "$top/scripts/make-rootfs" busybox "$FM_WORK/root-oddities" "$FM_BUILD/tests/workloads/oddities"
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    strategies_teardown odd
}

# oddities_start [CASE,…]
oddities_start()
{
    cluster_cli a -q run --name odd --image "$FM_WORK/root-oddities" -- oddities "$@"
}

checked()
{
    cluster_cli "$1" container logs odd --tail 1 | sed -n 's/^ok //p'
}

checked_past()
{
    [ "$(checked "$1")" -gt "$2" ]
}

# oddities_hold HOST: all of them were verified there from now on.
oddities_hold()
{
    local before
    before=$(checked "$1")
    until_true checked_past "$1" $((${before:-0} + 10)) ||
        fail "$(cluster_cli "$1" container logs odd | grep -v ^ok | tail -n 5)"
}

@test "oddities: unusual mappings, files, queues and processes move by each strategy" {
    local strategy
    oddities_start
    oddities_hold a
    for strategy in $(strategies); do
        FM_HOPS=2 to_and_fro "$strategy" odd oddities_hold
    done
}

# assert_refused CHECK TEXT: by each strategy, before anything was done.
assert_refused()
{
    local strategy identity document
    identity=$(identity_of a odd)
    for strategy in $(strategies); do
        run -4 --separate-stderr cluster_cli a -q migrate odd --to host-b --strategy "$strategy"
        [[ $stderr == *"'odd' does not move: "*"$2"* ]] || fail "$strategy: $stderr"
        cluster_cli a --json migration show "$(last_migration a)" | jq -e '.steps == []' >/dev/null
    done
    document=$(cluster_cli a check odd --to host-b --json) || [ $? -eq 4 ]
    jq -e --arg check "$1" \
        '[.findings[] | select(.check == $check and (.ok | not))] | length > 0' <<<"$document" >/dev/null ||
        fail "not found: $1"
    [ "$(identity_of a odd)" = "$identity" ]
}

@test "refused by name: a message queue, a process without its main thread" {
    oddities_start queue,leader
    until_true has_queue
    assert_refused message-queue "the POSIX message queue /oddities exists, which CRIU cannot dump"
    cluster_cli a container exec odd rm /dev/mqueue/oddities
    assert_refused main-thread "(oddities) has ended before its others, which CRIU cannot dump"
}

has_queue()
{
    cluster_cli a container exec odd test -e /dev/mqueue/oddities
}

# bats test_tags=slow
@test "warned of: sealed memory moves, but is not sealed any more" {
    oddities_start mseal
    oddities_hold a
    [ -z "$(cluster_cli a container logs odd | grep SKIPPED)" ] || skip "this kernel has no mseal"
    cluster_cli a check odd --to host-b --json | jq -e '.ok and ([.findings[]
        | select(.check == "sealed-memory" and .severity == "warning")] | length == 1)' >/dev/null
    hop a b odd
    oddities_hold b
}
