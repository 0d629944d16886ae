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

# probe_during FROM TO MODE INTERVAL_US: a hop with a probe of this pace. Sets frozen_us and resumed_us.
probe_during()
{
    local from=$1 to=$2 mode=$3 interval_us=$4
    client probe probe "$mode" "$ip" 7000 --interval-us "$interval_us" --csv "$FM_WORK/probe.csv"
    hop "$from" "$to" echo
    client_signal probe TERM
    client_result probe '.connection_resets == 0 and .disorder == 0 and .corrupt == 0'
    resumed_us=$(resumed_us "$from")
    frozen_us=$((resumed_us - $(stat_of "$from" 'freeze_ms * 1000 | round')))
}

# assert_answered_at_once MODE INTERVAL_US SINCE_US: all that was sent since then, until the container ran again.
assert_answered_at_once()
{
    local report
    report=$("$FM_BUILD/tests/workloads/probe" report "$FM_WORK/probe.csv" "$3" "$resumed_us") || true
    show "$1 every $2 us: $report"
    jq -e ".sent_in_freeze > 0 and .lost == 0 and .last_answer_after_resume_ms < $bound_ms" <<<"$report"
}

# assert_held HOST: by the source, none dropped, all passed on.
assert_held()
{
    [ "$(stat_of "$1" held_frames)" -gt 0 ]
    [ "$(stat_of "$1" dropped_frames)" -eq 0 ]
    [ "$(stat_of "$1" forwarded_frames)" -ge "$(stat_of "$1" held_frames)" ]
}

# tcp_hop FROM TO INTERVAL_US
tcp_hop()
{
    probe_during "$1" "$2" tcp "$3"
    client_reported probe '.lost == 0'
    assert_answered_at_once tcp "$3" "$frozen_us"
    assert_held "$1"
}

# What waits in a UDP socket when the tasks are stopped, CRIU does not carry: only that may be missing, and the second half of
# the freeze is long past it.
udp_hop()
{
    probe_during "$1" "$2" udp "$3"
    client_reported probe '.lost <= 20'
    assert_answered_at_once udp "$3" $(((frozen_us + resumed_us) / 2))
    assert_held "$1"
}

@test "mid-freeze: a single TCP request is answered when the container resumes" {
    tcp_hop a b 15000
    tcp_hop b a 15000
}

@test "mid-freeze: a stream of TCP requests" {
    tcp_hop a b 1000
    tcp_hop b a 1000
}

@test "mid-freeze: datagrams" {
    udp_hop a b 1000
    udp_hop b a 1000
}
