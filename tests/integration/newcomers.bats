#!/usr/bin/env bats
# Clients that connect anew all the time: a server moves under them, and no connection fails. What nobody accepts cannot
# move along, and is named.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load migrate
load followers

ip=10.88.0.5

setup_file()
{
    cluster_start 3
    local host i=0 root=$FM_WORK/root-web
    for host in a b c; do
        on $host ip -6 addr add "fd00:97::1$((i += 1))/64" dev eth0 nodad
    done
    "$top/scripts/make-rootfs" busybox "$root"
    mkdir "$root/www"
    echo web >"$root/www/index.html"
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    [ ! -e "$FM_WORK/web.pid" ] || kill -KILL "$(cat "$FM_WORK/web.pid")" 2>/dev/null || true
    rm -f "$FM_WORK/web.pid"
    remove_everywhere web
    cluster_cli a -q network remove blue >/dev/null 2>&1 || true
}

# run_web OPTION…
run_web()
{
    # shellcheck disable=SC2016 # the container's shell expands it
    cluster_cli a -q run --name web --image "$FM_WORK/root-web" --health tcp://:80 "$@" \
        -- sh -c 'httpd -f -p 80 -h /www & echo $! >/tmp/httpd; wait'
}

# hops N: to and fro.
hops()
{
    local i from=a to=b
    for ((i = 0; i < $1; i++)); do
        hop $from $to web
        from=$to
        [ $to = a ] && to=b || to=a
    done
}

@test "new connections all the time, none fails" {
    run_web --ip "$ip"
    until_true on c curl -sf -o /dev/null "http://$ip/"
    web_client "$ip" 80
    hops 6
    web_client_ends '.answers.web > 100'
    show "longest answer $(jq .longest_ms "$FM_WORK/web.out") ms of $(jq .answers.web "$FM_WORK/web.out")"
    assert_verified a b
}

@test "the same by IPv6, at a published port of another host" {
    cluster_cli a -q network create blue --subnet 10.99.0.0/24 --gateway 10.99.0.1 --subnet6 fd00:99::/64 --gateway6 fd00:99::1
    run_web --network blue --publish 8080:80
    until_true on c curl -sf -o /dev/null "http://[fd00:97::12]:8080/"
    web_client fd00:97::12 8080
    hops 4
    web_client_ends '.answers.web > 100'
    assert_verified a b
}

# in_web COMMAND: in the container, on host a.
in_web()
{
    cluster_cli a container exec web -- sh -c "$1"
}

@test "a server that accepts nothing stays, with its connections, and says so" {
    run_web --ip "$ip"
    until_true on c curl -sf -o /dev/null "http://$ip/"
    # shellcheck disable=SC2016
    in_web 'kill -STOP $(cat /tmp/httpd)'
    on c curl -s -m 20 "http://$ip/" >"$FM_WORK/answer" 3>&- 4>&- &
    local curl=$!
    until_true waits_in_backlog
    refused 5 a migrate web --to host-b
    [[ $stderr == *"rolled back from EXECUTION"*"connections to port 80 wait to be accepted by the container (1 after 500 ms)"* ]] ||
        fail "$stderr"
    assert_runs_only_on a web
    # shellcheck disable=SC2016
    in_web 'kill -CONT $(cat /tmp/httpd)'
    wait $curl || fail "the waiting client got no answer"
    [ "$(cat "$FM_WORK/answer")" = web ]
    hop a b web
}

waits_in_backlog()
{
    local netns
    netns=$(on a runc state web | jq .pid)
    nsenter -t "$netns" --net ss -Hltn | awk '$2 > 0' | grep -q :80
}
