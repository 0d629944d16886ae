#!/usr/bin/env bats
# Programs that people run move to the other host and back, with their clients connected: PostgreSQL under pgbench,
# memcached, a Node.js server, python3 with threads, and a Java virtual machine. nginx and redis have files of their
# own. Needs `scripts/install-deps programs`, which the first test calls.

load lib
load migrate
load strategies

ip=10.88.0.20
sources=$BATS_TEST_DIRNAME/../workloads/programs

setup_file()
{
    "$top/scripts/install-deps" programs >&2
    strategies_start 3
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    clients_kill
    strategies_teardown program
}

# run_program KIND ARGUMENT…: from a root directory of that kind; waits until its port answers.
run_program()
{
    local kind=$1 port=$2
    shift 2
    cluster_cli a -q run --name program --image "$(root_of "$kind")" --ip "$ip" "$@"
    wait_seconds=30 until_true answers_at "$port"
}

answers_at()
{
    on c timeout 1 bash -c "exec 9<>/dev/tcp/$ip/$1"
}

# judge KIND PORT: a client with 40 connections on host c.
judge()
{
    rm -f "$FM_WORK/judge.ready"
    (exec "$top/scripts/hosts" exec "$cluster_prefix" c -- /usr/bin/python3 "$sources/client.py" "$1" "$ip" "$2" \
        --connections 40 --ready-file "$FM_WORK/judge.ready" >"$FM_WORK/judge.out" 2>"$FM_WORK/judge.err" 3>&- 4>&-) &
    echo $! >"$FM_WORK/judge.pid"
    until_true test -e "$FM_WORK/judge.ready"
}

assert_judge_content()
{
    client_signal judge TERM
    client_result judge '.ok and .answers > 500 and .connection_resets == 0'
    show "$(client_figure judge .answers) answers, longest silence $(client_figure judge .max_gap_ms) ms"
}

# heap_intact: the server verifies what it holds.
heap_intact()
{
    local answer
    # shellcheck disable=SC2016  # the host's shell expands it
    answer=$(on c timeout 20 bash -c 'exec 9<>"/dev/tcp/$0/7000" && echo check >&9 && read -r -t 18 line <&9 && echo "$line"' "$ip")
    [[ $answer == ok* ]] || fail "the server says '$answer'"
}

# three_hops CHECK: by each strategy, with the client connected; CHECK must hold after each hop.
three_hops()
{
    local strategy
    for strategy in $(strategies); do
        FM_HOPS=3 to_and_fro "$strategy" program "$@"
    done
}

server_serves()
{
    assert_client_runs judge && heap_intact
}

# bats test_tags=slow
@test "a Node.js server with open connections" {
    cp "$sources/server.js" "$(root_of node)/"
    run_program node 7000 -- node /server.js
    judge numbers 7000
    three_hops server_serves
    assert_judge_content
}

# bats test_tags=slow
@test "python3 with threads" {
    cp "$sources/server.py" "$(root_of python)/"
    run_program python 7000 -- python3 /server.py
    judge numbers 7000
    three_hops server_serves
    assert_judge_content
}

# bats test_tags=slow
@test "a Java virtual machine" {
    javac -d "$(root_of java)" "$sources/Server.java"
    run_program java 7000 -- /usr/lib/java/bin/java -Xmx128m -cp / Server
    judge numbers 7000
    three_hops server_serves
    assert_judge_content
}

# bats test_tags=slow
@test "memcached: every value is right" {
    run_program memcached 11211 -- memcached -u root -m 64
    judge memcached 11211
    three_hops assert_client_runs_on judge
    assert_judge_content
}

# assert_client_runs_on HOST NAME
assert_client_runs_on()
{
    assert_client_runs "$2"
}

# --- PostgreSQL ---

postgres_bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | tail -n 1)

sql()
{
    on c "$postgres_bin/psql" -h "$ip" -U postgres -d postgres -XAtq -c "$1"
}

postgres_serves()
{
    assert_client_runs pgbench && [ "$(sql 'select count(*) from pgbench_branches')" = 1 ]
}

database_ready()
{
    sql 'select 1'
}

# bats test_tags=slow
@test "PostgreSQL under pgbench: no failed transaction" {
    local sums
    run_program postgres 5432 --user 70:70 -- /bin/start-postgres -c shared_buffers=32MB
    wait_seconds=30 until_true database_ready
    on c "$postgres_bin/pgbench" -h "$ip" -U postgres -i -q -s 1 postgres >"$FM_WORK/pgbench.init" 2>&1
    (exec "$top/scripts/hosts" exec "$cluster_prefix" c -- "$postgres_bin/pgbench" -h "$ip" -U postgres -n -c 4 -j 2 \
        -T 600 -P 1 --rate 100 postgres >"$FM_WORK/pgbench.out" 2>"$FM_WORK/pgbench.err" 3>&- 4>&-) &
    echo $! >"$FM_WORK/pgbench.pid"
    until_true grep -q progress "$FM_WORK/pgbench.err"
    three_hops postgres_serves
    client_signal pgbench TERM # a shell starts what runs behind it with SIGINT ignored
    wait_gone "$(cat "$FM_WORK/pgbench.pid")"
    rm "$FM_WORK/pgbench.pid"
    show "$(tail -n 1 "$FM_WORK/pgbench.err")"
    ! grep -iE 'error|fatal|aborted|lost|closed' "$FM_WORK/pgbench.err" "$FM_WORK/pgbench.out" || fail "pgbench complains"
    ! grep -q 'progress.* [1-9][0-9]* failed' "$FM_WORK/pgbench.err" || fail "transactions failed"
    # Each transaction adds the same amount to four tables: nothing of it was lost or doubled.
    sums=$(sql 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
        and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)
        and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
        and (select count(*) from pgbench_history) > 100')
    [ "$sums" = t ] || fail "the tables do not add up"
}
