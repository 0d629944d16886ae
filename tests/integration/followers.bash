# shellcheck shell=bash
# shellcheck disable=SC2154  # variables of lib.bash
# What the tests of followers share, on top of lib.bash: servers of the test's own on its hosts, the followers' file of
# the daemons, and clients that ask through a load balancer.

# --- servers ---

# server_start NAME HOST COMMAND…: in the background, with its output in $FM_WORK/NAME.log.
server_start()
{
    local name=$1 host=$2
    shift 2
    # The job becomes the server, so that its pid is the server's.
    "$top/scripts/hosts" exec "$cluster_prefix" "$host" -- "$@" </dev/null >>"$FM_WORK/$name.log" 2>&1 3>&- 4>&- &
    echo $! >"$FM_WORK/$name.server"
    disown $!
}

server_signal()
{
    kill "-$2" "$(cat "$FM_WORK/$1.server")"
}

# server_kill NAME: succeeds when it is gone already.
server_kill()
{
    [ -e "$FM_WORK/$1.server" ] || return 0
    server_signal "$1" CONT 2>/dev/null || true
    server_signal "$1" KILL 2>/dev/null || true
    wait_gone "$(cat "$FM_WORK/$1.server")"
    rm "$FM_WORK/$1.server"
}

# --- the daemons' followers ---

# followers_are: the file, from stdin, on both hosts; both daemons read it.
followers_are()
{
    local host
    cat >"$FM_WORK/followers.yaml"
    for host in a b; do
        on "$host" tee /etc/fleximigrate/followers.yaml <"$FM_WORK/followers.yaml" >/dev/null
        daemon_restart "$host"
    done
}

# --- what the tests look at ---

# milliseconds_in HOST ID STATE: how long the migration was in a state.
milliseconds_in()
{
    cluster_cli "$1" --json migration show "$2" |
        jq --arg state "$3" '[.transitions[] | select(.from == $state)][0].duration_ms | round'
}

# assert_verified HOST…: the kernel of each is as its registry says, at the latest in a moment.
assert_verified()
{
    local host
    for host in "$@"; do
        until_true cluster_cli "$host" network verify ||
            fail "host $host: $(cluster_cli "$host" network verify)" || return 1
    done
}

# --- clients of a web server ---

# web_client ADDRESS PORT: on host c, without pause.
web_client()
{
    rm -f "$FM_WORK/web.ready"
    (exec "$top/scripts/hosts" exec "$cluster_prefix" c -- python3 "$top/tests/integration/http_client.py" "$1" "$2" \
        --ready-file "$FM_WORK/web.ready" >"$FM_WORK/web.out" 2>"$FM_WORK/web.err" 3>&- 4>&-) &
    echo $! >"$FM_WORK/web.pid"
    until_true test -e "$FM_WORK/web.ready"
}

# web_client_ends FILTER: what it reports satisfies the filter, and no request has failed.
web_client_ends()
{
    kill -TERM "$(cat "$FM_WORK/web.pid")"
    wait_gone "$(cat "$FM_WORK/web.pid")"
    rm "$FM_WORK/web.pid"
    jq -e ".failures == 0 and ($1)" "$FM_WORK/web.out" >/dev/null ||
        fail "the client reports $(cat "$FM_WORK/web.out" "$FM_WORK/web.err"), expected no failures and $1"
}
