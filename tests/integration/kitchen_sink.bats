#!/usr/bin/env bats
# A program that holds one of everything moves to the other host and back: listening, established, half-closed and
# UDP sockets, timers, an unlinked open file, locks, shared memory, threads, processes. It verifies itself.

load lib
load migrate

ip=10.88.0.8

setup_file()
{
    cluster_start 3
    make_workload_root
}

teardown_file()
{
    cluster_stop
}

setup()
{
    run_workload sink "$ip" kitchen_sink
    until_true sink_says_ok check
}

teardown()
{
    clients_kill
    remove_everywhere sink
}

# sink_answer COMMAND
sink_answer()
{
    # shellcheck disable=SC2016  # the host's shell expands it
    on c timeout 10 bash -c 'exec 9<>"/dev/tcp/$0/7001" && echo "$1" >&9 && read -r -t 8 line <&9 && echo "$line"' "$ip" "$1"
}

# sink_says_ok COMMAND
sink_says_ok()
{
    local answer
    answer=$(sink_answer "$1") || true
    [[ $answer == ok* ]] || fail "kitchen_sink says: '$answer'"
}

@test "kitchen sink: sockets in every state, files, locks, memory, threads and timers" {
    client peer sockpeer "$ip" 7000 --in 4 --out 4 --half 2 --udp 1
    hop a b sink
    sink_says_ok check
    assert_client_runs peer
    hop b a sink
    sink_says_ok check
    client_signal peer TERM
    client_result peer '.ok and .connection_resets == 0 and .wrong_frames == 0 and .lost_frames == 0 and .stalled == 0 and (.sink | startswith("ok "))'
    assert_no_timeout "$(client_figure peer '[.echo, .outgoing, .udp | .max_gap_ms] | max')"
    show "longest silence of an echo $(client_figure peer .echo.max_gap_ms) ms; $(client_figure peer .sink)"
}

@test "kitchen sink: it would notice what is lost" {
    hop a b sink
    sink_says_ok 'corrupt unlinked'
    [[ $(sink_answer check) == FAIL* ]]
}

# expired_timers HOST: how many periodic timerfds of the main process have expired and were not read.
expired_timers()
{
    local pid
    pid=$(on "$1" runc state sink | jq .pid)
    cat "/proc/$pid/fdinfo/"* 2>/dev/null | awk '
        $1 == "ticks:" { ticks = $2 }
        $1 == "it_value:" { due = ($2 == "(0," && $3 == "0)") }
        $1 == "it_interval:" && due && ticks > 0 && !($2 == "(0," && $3 == "0)") { n++ }
        END { print n + 0 }'
}

has_expired_timer()
{
    [ "$(expired_timers "$1")" -gt 0 ]
}

# CRIU by itself would restore such a timer disarmed. Stopped, nobody reads it.
@test "kitchen sink: a periodic timer that has expired but was not read ticks again" {
    local pid
    pid=$(on a runc state sink | jq .pid)
    kill -STOP "$pid"
    until_true has_expired_timer a
    hop a b sink
    kill -CONT "$(on b runc state sink | jq .pid)"
    sink_says_ok check
}
