#!/usr/bin/env bats
# A tree of shells and pipes moves to the other host and back, and goes on counting.

load lib
load migrate

setup_file()
{
    cluster_start 2
    make_workload_root
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    remove_everywhere tree
}

# lines_of HOST: how far it has come.
lines_of()
{
    cluster_cli "$1" container logs tree | awk '$1 == "line" { n = $2 } END { print n + 0 }'
}

counted_past()
{
    [ "$(lines_of "$1")" -gt "$2" ]
}

# goes_on HOST: it counts there, from now on.
goes_on()
{
    until_true counted_past "$1" $(($(lines_of "$1") + 10))
}

# assert_log_whole HOST: both pipelines' lines from the first on, each once and in order.
assert_log_whole()
{
    cluster_cli "$1" container logs tree >"$FM_WORK/tree.log"
    awk '
        ($1 != "line" && $1 != "side") || $2 != ++last[$1] { print "line " NR ": " $0; exit bad = 1 }
        END { exit bad || last["line"] < 30 || last["side"] < 30 }' "$FM_WORK/tree.log" ||
        fail "a gap or a repetition in the log: $(tail -n 3 "$FM_WORK/tree.log")"
}

@test "shell tree: no line is lost or doubled, in the pipes or in the log" {
    run_workload tree 10.88.0.7 sh /bin/shelltree.sh 0.01
    goes_on a
    local before
    before=$(processes_of a tree | wc -w)
    [ "$before" -ge 8 ]
    hop a b tree
    goes_on b
    assert_log_whole b
    hop b a tree
    goes_on a
    assert_log_whole a
    show "$(processes_of a tree | wc -w) processes, $(lines_of a) lines"
}
