# shellcheck shell=bash
# What the fault tests share: redis under a client, a migration during which something is struck at a fault point, and
# what must be true afterwards, whatever was struck.
#
# One cluster and one redis serve many cases; the container begins a case where the last one left it. "source" and
# "destination" are the roles of the case's first migration.

load ../integration/lib

# shellcheck disable=SC2154  # the library's
kill_one=$top/tests/fault/kill-one
ip=10.88.0.5
limits=()
daemons=(a b)
volume=/var/lib/fault-volume

faults_start()
{
    cluster_start 3
    root_of redis >/dev/null
}

# After a failure nothing of the cluster is trusted.
faults_teardown()
{
    client_kill || true
    [ -z "${BATS_TEST_COMPLETED:-}" ] || return 0
    tail -n 40 "$FM_WORK"/[ab].log || true
    cluster_renew
}

cluster_renew()
{
    cluster_down
    rm -rf "$FM_WORK/ca" "$FM_WORK/pki"
    cluster_up "$cluster_prefix" 3 3>&- 4>&-
}

# --- roles ---

other_of()
{
    [ "$1" = a ] && echo b || echo a
}

# ensure_redis: sets source and destination, as redis runs now; starts it where it does not.
ensure_redis()
{
    source=a
    [ "$(status_on b redis)" != running ] || source=b
    if [ "$(status_on $source redis)" != running ]; then
        on $source mkdir -p "$volume"
        start_redis $source
    fi
    destination=$(other_of $source)
}

# start_redis HOST: where the library is loaded this may be another one.
start_redis()
{
    run_redis "$1" redis "$ip" --volume "$volume:/volume"
}

# A role's host; a host's name stands for itself.
host_of()
{
    case $1 in
    source) echo "$source" ;;
    destination) echo "$destination" ;;
    *) echo "$1" ;;
    esac
}

# --- one struck migration ---

# strike AT STEP WORD…: what happens when the daemon on AT comes to STEP (of the journal, or a whole fault point, or
# follower.PHASE); WORD is as in kill-one with a role in place of the host, or also:POINT=ACTION for one more fault there.
strike()
{
    local at step=$2 word fault words=()
    at=$(host_of "$1")
    [ "$step" != stage-layer ] || forget_layers "$destination"
    shift 2
    rm -f "$FM_WORK/struck"
    case $step in
    follower.*) echo "${step#follower.}" >"$FM_WORK/strike-phase" ;;
    criu.* | network-* | hold-*) ;;
    *) step=step.$step ;;
    esac
    fault=$step=run:$kill_one
    for word in "$@"; do
        case $word in
        also:*) fault+=,${word#also:} ;;
        *) words+=("${word%@*}@$(host_of "${word#*@}")") ;;
        esac
    done
    daemon_restart "$at" "FLEXIMIGRATE_FAULT=$fault" "FM_STRIKE=${words[*]}" \
        "FM_STRUCK=$FM_WORK/struck" "FM_FABRIC=$("$top/scripts/hosts" pid "$cluster_prefix" fabric)"
}

# A layer moves once; from then on the destination has it.
forget_layers()
{
    on "$1" sh -c 'rm -rf /var/lib/fleximigrate/images/layers/*'
}

# begin_migration [NAME=VALUE…]: with fields of the request.
begin_migration()
{
    local request="\"container\": \"redis\", \"destination\": \"host-$destination\"" field
    request+=${FM_STRATEGY:+", \"strategy\": \"$FM_STRATEGY\""}
    for field in "$@"; do
        request+=", \"${field%%=*}\": ${field#*=}"
    done
    on "$source" curl -sf --unix-socket /run/fleximigrate/fleximigrated.sock -d "{$request}" \
        http://localhost/v1/migrations >"$FM_WORK/migration.json"
}

# The wire that was cut is mended.
mend()
{
    local host
    for host in a b; do
        on fabric ip link set "host-$host" up
    done
}

wait_struck()
{
    until_true test -e "$FM_WORK/struck" || return 1
    ! grep '^missed' "$FM_WORK/struck" || fail "the victim was not there: $(cat "$FM_WORK/struck")"
}

revive_daemons()
{
    local host
    for host in "${daemons[@]}"; do
        ! is_gone "$(daemon_pid $host)" || daemon_start $host 3>&- 4>&-
    done
}

# all_final: neither side has anything left to do, nor calls for help.
all_final()
{
    local host
    for host in a b; do
        cluster_cli $host --json migration list >"$FM_WORK/$host.migrations" || return 1
        jq -e 'all(.[]; .final and (.needs_attention | not))' "$FM_WORK/$host.migrations" || return 1
    done
}

settle()
{
    wait_seconds=60 until_true all_final || {
        for host in a b; do
            jq -c '.[] | select((.final | not) or .needs_attention)' "$FM_WORK/$host.migrations"
        done
        return 1
    }
}

# --- afterwards ---

# leftovers HOST: programs of a migration, packets held, images; of no migration in particular.
leftovers()
{
    {
        helpers_on "$1" | grep -E 'runc|criu' | grep -v -- '--exit=' || true
        snapshot "$1" | grep -E '^entry .*/migrations/|^device fmhold' || true
    } | sed "s/^/$1: /"
}

no_leftovers()
{
    local deadline=$((SECONDS + 5)) left
    while left=$(leftovers a; leftovers b) && [ -n "$left" ]; do
        [ $SECONDS -lt $deadline ] || fail "left: $left"
        read -r -t 0.05 <> <(:) || true
    done
}

# assert_undisturbed: redis runs on on the source, whatever the destination still holds.
assert_undisturbed()
{
    [ "$(status_on "$source" redis)" = running ] || fail "redis is '$(status_on "$source" redis)'"
    [ "$(freezer_of "$source" redis)" = thawed ] || fail "redis stands still"
    stands_still "$destination" redis || fail "redis runs on the destination, too"
    assert_client_served
}

# assert_sound HOST: redis runs there and nowhere else, answers, and nothing else is left of any migration.
assert_sound()
{
    local host=$1 other
    other=$(other_of "$host")
    assert_runs_only_on "$host" redis
    [ -z "$(status_on "$other" redis)" ] || fail "'redis' is '$(status_on "$other" redis)' on $other"
    assert_clean "$other" redis
    no_leftovers
    [ "$(on c redis-cli -h "$ip" ping)" = PONG ] || fail "redis does not answer"
    assert_client_served
    assert_more "$host"
}

# assert_more HOST: for those who load the library.
assert_more()
{
    true
}

client_renew()
{
    client_kill
    [ "$(on c redis-cli -h "$ip" get before)" = "$before" ] || fail "redis has forgotten what it had acknowledged"
    client_start "$ip"
}

where_it_runs()
{
    [ "$(status_on a redis)" = running ] && echo a && return
    [ "$(status_on b redis)" = running ] && echo b
}

# ends EXPECTED: the case is over; redis "stays" or "moves", or "either". With a ~ behind it the client's connection may have
# been lost (docs/handover.md says when), but not redis, nor what it had acknowledged. A migration as any other follows.
ends()
{
    local now
    settle
    [[ $1 != *~ ]] || client_renew
    case ${1%\~} in
    stays) now=$source ;;
    moves) now=$destination ;;
    either) now=$(where_it_runs) || fail "redis runs nowhere" ;;
    esac
    assert_sound "$now"
    run -0 cluster_cli "$now" -q migrate redis --to "host-$(other_of "$now")"
    assert_sound "$(other_of "$now")"
    assert_client_unharmed
    [ -s "$FM_WORK/client.json" ] || fail "the client died"
}

# begin_struck AT STEP WORD…: redis under a client, and a migration that has been struck. `limits` are fields of the request.
begin_struck()
{
    ensure_redis
    before=$EPOCHREALTIME
    on c redis-cli -h "$ip" set before "$before" >/dev/null
    client_start "$ip"
    strike "$@"
    begin_migration "${limits[@]}"
    wait_struck
}

# struck EXPECTED AT STEP WORD…: one whole case.
struck()
{
    local expected=$1
    shift
    begin_struck "$@"
    revive_daemons
    ends "$expected"
}

# each_case: runs the cases on stdin, a line "EXPECTED AT STEP WORD…" each; reports every one, fails if one did. After a
# failed one the others get a new cluster.
each_case()
{
    local line failed=0 began rest
    while read -r -u 9 line; do
        [ -n "$line" ] || continue
        began=${EPOCHREALTIME//[.,]/}
        # In the background `set -e` holds, which it would not as a condition.
        # shellcheck disable=SC2086  # words
        (trap - ERR DEBUG; set -e; struck $line) </dev/null >"$FM_WORK/case.log" 2>&1 &
        if wait $!; then
            rest=ok
        else
            rest="FAILED: $(grep -v '^+' "$FM_WORK/case.log" | tail -n 1)"
            failed=$((failed + 1))
            echo "=== $line"
            cat "$FM_WORK/case.log"
            tail -n 25 "$FM_WORK"/[ab].log
            client_kill || true
            cluster_renew
        fi
        printf '# %-70s %5d ms  %s\n' "$line" $(((${EPOCHREALTIME//[.,]/} - began) / 1000)) "$rest" >&3
    done 9<&0
    [ $failed -eq 0 ]
}
