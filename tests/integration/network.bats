#!/usr/bin/env bats
# The network follows its container: nothing is lost between real daemons, to clients in the same network and to
# clients outside of it who only know a published port of a host. Times are tests/bench/network's business.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load migrate

ip=10.99.0.5 ip6=fd00:99::5
port=7000

# host c: a client's container in the network. Host d: outside.
setup_file()
{
    local host
    cluster_start 4 a b c
    for host in a b c d; do
        on "$host" ip addr add "fd00:97::$host/64" dev eth0 nodad
    done
    make_workload_root
    cluster_cli a -q network create blue --subnet 10.99.0.0/24 --gateway 10.99.0.1 \
        --subnet6 fd00:99::/64 --gateway6 fd00:99::1
    cluster_cli c -q run --name client --image "$FM_WORK/root-workload" --network blue -- sleep 100000
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    clients_kill
    remove_everywhere server
    until_true no_lease server
}

no_lease()
{
    cluster_cli c --json network show blue | jq -e --arg owner "$1" 'all(.leases[]; .owner != $owner)'
}

# serve MODE: probe's server as container `server` on a.
serve()
{
    cluster_cli a -q run --name server --image "$FM_WORK/root-workload" --network blue --ip "$ip" \
        --publish "$port:$port" --publish "$port:$port/udp" -- probe "$1" :: "$port"
}

# The next clients are in the container on c, or on d.
inside()
{
    client_host=c client_enter=(nsenter --net=/run/fleximigrate/netns/client)
}

outside()
{
    client_host=d client_enter=()
}

# move_among CLIENT…: there and back (or $hops), with these connected.
move_among()
{
    local name from=a to=b i
    for ((i = 0; i < ${hops:-2}; i++)); do
        for name in "$@"; do
            assert_client_runs "$name"
        done
        hop "$from" "$to" server
        moments "$from" >>"$FM_WORK/moments"
        [ $to = a ] && from=a to=b || from=b to=a
    done
}

probe_ends()
{
    local name
    for name in "$@"; do
        client_signal "$name" TERM
        client_result "$name" '.sent > 0 and .lost == 0 and .unsent == 0 and .connection_resets == 0 and
            .disorder == 0 and .corrupt == 0 and .duplicates == 0'
    done
}

# What ended a download was our signal, and all until then is right.
download_ends()
{
    client_signal "$1" TERM
    client_result "$1" '.stopped and .intact and .connection_resets == 0 and (.timed_out | not)'
    show "$1: $(client_figure "$1" '.bytes * 8 / .elapsed_s / 1000000 | round') Mbit/s," \
        "silent for $(client_figure "$1" .max_gap_ms) ms"
}

# moments HOST: when the last migration from HOST stopped the container, and when it ran again; epoch microseconds.
moments()
{
    local id
    id=$(last_migration "$1")
    on "$1" sqlite3 -readonly -separator ' ' /var/lib/fleximigrate/journal.db "
        SELECT at_us - CAST(1000 * json_extract(doc, '\$.stats.freeze_ms') AS INT), at_us
        FROM steps JOIN migrations ON id = migration WHERE id = '$id' AND step = 'switch'"
}

# assert_answered NAME: in each freeze something was sent, and it was answered before the container moved on: by the host
# to which it had moved, that is.
assert_answered()
{
    local frozen resumed last=
    while read -r frozen resumed; do
        [ -z "$last" ] || answered_within "$1" $last "$frozen" || return
        last="$frozen $resumed"
    done <"$FM_WORK/moments"
    answered_within "$1" $last $((${last#* } + wait_seconds * 1000000))
}

# answered_within NAME FROZEN RESUMED DEADLINE
answered_within()
{
    "$FM_BUILD/tests/workloads/probe" report "$FM_WORK/$1.csv" "$2" "$3" >"$FM_WORK/freeze.json" &&
        jq -e ".last_answer_after_resume_ms < ($4 - $3) / 1000" "$FM_WORK/freeze.json" >/dev/null ||
        fail "$1: $(cat "$FM_WORK/freeze.json")"
}

# one_connection NAME ADDRESS
one_connection()
{
    client "$1" probe tcp "$2" "$port" --csv "$FM_WORK/$1.csv"
}

@test "from a container of the network: no request is lost, in either family" {
    serve serve
    rm -f "$FM_WORK/moments"
    inside
    one_connection tcp4 "$ip"
    one_connection tcp6 "$ip6"
    move_among tcp4 tcp6
    probe_ends tcp4 tcp6
    assert_answered tcp4
    assert_answered tcp6
}

@test "through the published port of a third host: no request is lost, in either family" {
    serve serve
    rm -f "$FM_WORK/moments"
    outside
    one_connection tcp4 "$(address_of c)"
    one_connection tcp6 fd00:97::c
    move_among tcp4 tcp6
    probe_ends tcp4 tcp6
    assert_answered tcp4
    assert_answered tcp6
}

@test "through the published ports of the old and the new host: no request is lost" {
    serve serve
    rm -f "$FM_WORK/moments"
    outside
    one_connection old "$(address_of a)"
    one_connection new "$(address_of b)"
    one_connection old6 fd00:97::a
    one_connection new6 fd00:97::b
    move_among old new old6 new6
    probe_ends old new old6 new6
    assert_answered old
    assert_answered new6
}

# What waits unread in a socket when the tasks are stopped, CRIU does not carry. All that comes later is held.
assert_only_unread_missing()
{
    local missing
    missing=$(awk -F, '
        NR == FNR { split($0, at, " "); frozen[NR] = at[1]; n = NR; next }
        FNR == 1 || $3 != 0 { next }
        { unread = 0
          for (i = 1; i <= n; i++)
              if ($2 >= frozen[i] - 20000 && $2 <= frozen[i] + 5000) unread = 1
          if (unread) count++; else bad++ }
        END { print bad + 0; print count + 0, "unread" >"/dev/stderr"; exit bad > 0 }' \
        "$FM_WORK/moments" "$FM_WORK/$1.csv" 2>"$FM_WORK/unread") ||
        fail "$1: $missing of $(client_figure "$1" .sent) lost while it ran, or while they were held" || return
    show "$1: $(client_figure "$1" .sent) datagrams, $(cat "$FM_WORK/unread") at the freeze"
    [ "$(cut -d ' ' -f 1 "$FM_WORK/unread")" -le $((20 * $(wc -l <"$FM_WORK/moments"))) ]
}

# silent NAME ADDRESS ADDRESS-INSIDE FAMILY: the client's side knows the container for good; it has no reason to send.
silent()
{
    local mac device enter=(on c "${client_enter[@]}")
    serve sink
    rm -f "$FM_WORK/moments"
    mac=$(cluster_cli a --json container show server | jq -r .mac)
    device=$("${enter[@]}" ip -j "-$4" route get "$3" | jq -r '.[0].dev')
    "${enter[@]}" ip "-$4" neigh replace "$3" lladdr "$mac" nud permanent dev "$device"
    client "$1" probe oneway "$2" "$port" --csv "$FM_WORK/$1.csv"
    move_among "$1"
    client_signal "$1" TERM
    client_result "$1" '.sent > 0 and .unsent == 0 and .corrupt == 0 and .duplicates == 0'
    "${enter[@]}" ip "-$4" neigh del "$3" dev "$device"
    assert_only_unread_missing "$1"
}

@test "a silent container loses nothing that came after the freeze began" {
    inside
    silent direct4 "$ip" "$ip" 4
}

# bats test_tags=slow
@test "a silent container in IPv6, and behind a published port" {
    inside
    silent direct6 "$ip6" "$ip6" 6
    teardown
    outside
    silent published4 "$(address_of c)" "$ip" 4
    teardown
    silent published6 fd00:97::c "$ip6" 6
}

# crowd ADDRESS: 64 connections, and 200 Mbit/s beside them.
crowd()
{
    serve serve
    rm -f "$FM_WORK/moments"
    client many probe tcp "$1" "$port" --connections 64 --interval-us 500 --csv "$FM_WORK/many.csv"
    client download slowdownload "$1" "$port" /1000000000000 --rate 25000000
    hops=6 move_among many download
    probe_ends many
    assert_download_flows download
    download_ends download
    assert_answered many
    teardown
}

# assert_download_flows NAME: also after the last move. A connection that has come to a standstill is as bad as a reset.
assert_download_flows()
{
    local before
    before=$(received)
    until_true received_more_than "$before"
}

received()
{
    on "$client_host" "${client_enter[@]}" ss -tiHn "dport = :$port" | grep -o 'bytes_received:[0-9]*' | cut -d : -f 2 |
        sort -n | tail -n 1
}

received_more_than()
{
    [ "$(received)" -gt "$1" ]
}

# bats test_tags=slow
@test "64 connections and a download, from a container of the network" {
    inside
    crowd "$ip"
    crowd "$ip6"
}

# bats test_tags=slow
@test "64 connections and a download, through the published port of a third host" {
    outside
    crowd "$(address_of c)"
    crowd fd00:97::c
}
