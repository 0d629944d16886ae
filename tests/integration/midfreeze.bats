#!/usr/bin/env bats
# What a client sends while the container stands still is neither lost nor left to a retransmission timeout (200 ms):
# it waits on the source, and is answered as soon as the container runs again.

load lib
load migrate

ip=10.88.0.9
# Aim: 20 ms. The bound tells a held request from a retransmitted one, also on a busy machine.
bound_ms=150

setup_file()
{
    cluster_start 3
    make_workload_root
    run_workload echo "$ip" probe serve 0.0.0.0 7000
    until_true listens
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    clients_kill
}

listens()
{
    on c bash -c "exec 9<>/dev/tcp/$ip/7000"
}

# resumed_us HOST: when the container ran again, from the journal of the source; milliseconds there.
resumed_us()
{
    date -d "$(cluster_cli "$1" --json migration show "$(last_migration "$1")" |
        jq -r '.steps[] | select(.step == "switch").at')" +%s%6N
}

# assert_answered_at_once FROM TO MODE INTERVAL_US: a hop with a probe of this pace.
assert_answered_at_once()
{
    local from=$1 to=$2 mode=$3 interval_us=$4 resumed freeze_us report
    client probe probe "$mode" "$ip" 7000 --interval-us "$interval_us" --csv "$FM_WORK/probe.csv"
    hop "$from" "$to" echo
    client_signal probe TERM
    client_result probe '.lost == 0 and .connection_resets == 0 and .disorder == 0 and .corrupt == 0'

    resumed=$(resumed_us "$from")
    freeze_us=$(stat_of "$from" 'freeze_ms * 1000 | round')
    report=$("$FM_BUILD/tests/workloads/probe" report "$FM_WORK/probe.csv" $((resumed - freeze_us)) "$resumed")
    show "$mode every $interval_us us: $report"
    jq -e ".sent_in_freeze > 0 and .lost == 0 and .last_answer_after_resume_ms < $bound_ms" <<<"$report"
    [ "$(stat_of "$from" held_frames)" -gt 0 ]
    [ "$(stat_of "$from" dropped_frames)" -eq 0 ]
    [ "$(stat_of "$from" forwarded_frames)" -ge "$(stat_of "$from" held_frames)" ]
}

@test "mid-freeze: a single TCP request is answered when the container resumes" {
    assert_answered_at_once a b tcp 60000
    assert_answered_at_once b a tcp 60000
}

@test "mid-freeze: a stream of TCP requests" {
    assert_answered_at_once a b tcp 1000
    assert_answered_at_once b a tcp 1000
}

@test "mid-freeze: datagrams" {
    assert_answered_at_once a b udp 1000
    assert_answered_at_once b a udp 1000
}
