# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034  # variables of the runner and of scripts/cluster
# What the runner and the methods share: the hosts, what is counted on them, and the client.
#
# A method is a file in methods/ that defines
#   method_available   fails, with the reason in $note, when it cannot be tried at all; optional
#   method_start       the container $container_args of image $container_root runs on host a, at $address
#   method_move        moves it to host b; sets freeze_ms. Fails with the reason in $note
#   method_stop        nothing of it is left on either host, wherever it stopped

bench_bin=${FM_BENCH_BIN:-$FM_BUILD/tests/bench}

now_ms()
{
    local now=${EPOCHREALTIME//[.,]/}
    echo "${now%???}"
}

pause_s()
{
    read -r -t "$1" <> <(:) || true
}

# until_true SECONDS COMMAND…: waits on a condition.
until_true()
{
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        pause_s 0.02
    done
}

# last_line FILE…: for the reason of a failure, without the marks of log formats.
last_line()
{
    cat "$@" 2>/dev/null | grep -v '^$' | tail -n 1 | tr -d '"' | cut -c 1-300
}

# --- the hosts ---

# cgroup_roots: where the hosts' processes are accounted, and the names of the two files.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    memory_root=/sys/fs/cgroup memory_file=memory.current
    cpu_root=/sys/fs/cgroup
else
    memory_root=/sys/fs/cgroup/memory memory_file=memory.usage_in_bytes
    cpu_root=/sys/fs/cgroup/cpuacct
fi

# enter_accounts HOST PID: what it and its children use from now on is counted as HOST's.
enter_accounts()
{
    local root
    [ ! -e /sys/fs/cgroup/cgroup.controllers ] || return 0 # hosts exec has done that
    for root in "$memory_root" "$cpu_root"; do
        mkdir -p "$root/fm-$cluster_prefix/host-$1"
        echo "$2" >"$root/fm-$cluster_prefix/host-$1/cgroup.procs"
    done
}

# tool HOST COMMAND…: as `on`, but accounted for, as a method's own command.
tool()
{
    local host=$1
    shift
    (enter_accounts "$host" "$BASHPID" && exec "$cluster_top/scripts/hosts" exec "$cluster_prefix" "$host" -- "$@")
}

# Nanoseconds that the two hosts have used so far, with all that ran on them.
cpu_ns()
{
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        cat "$cpu_root/fm-$cluster_prefix"/{host-a,host-b,a,b}/cpu.stat 2>/dev/null |
            awk '$1 == "usage_usec" { sum += $2 } END { printf "%.0f\n", sum * 1000 }'
    else
        cat "$cpu_root/fm-$cluster_prefix/cpuacct.usage"
    fi
}

# What the container's processes have in memory.
resident_bytes()
{
    local pids
    pids=$(find "$memory_root/fm-$cluster_prefix"/{a,podman} -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u)
    for pid in $pids; do
        cat "/proc/$pid/status" 2>/dev/null
    done | awk '/^Rss(Anon|Shmem):/ { sum += $2 } END { printf "%.0f\n", sum * 1024 }'
}

meter_start()
{
    local dir=$memory_root/fm-$cluster_prefix
    "$bench_bin/bench_meter" "a=$dir/a/$memory_file,$dir/host-a/$memory_file" \
        "b=$dir/b/$memory_file,$dir/host-b/$memory_file" "podman=$dir/podman/$memory_file" >"$FM_WORK/meter.json" &
    meter_pid=$!
}

meter_stop()
{
    kill -TERM "$meter_pid"
    wait "$meter_pid" || true
}

# Bytes of IP packets between the two hosts, either way.
wire_start()
{
    on a nft -f - <<EOF
table inet bench {
    counter wire { }
    chain out { type filter hook output priority 0; ip daddr $(address_of b) counter name wire; }
    chain in { type filter hook input priority 0; ip saddr $(address_of b) counter name wire; }
}
EOF
}

wire_bytes()
{
    on a nft -j list counter inet bench wire | jq '[.nftables[].counter.bytes | numbers] | add'
}

# link_shape unshaped|1gbit: both directions of the wire between the hosts.
link_shape()
{
    local host
    for host in a b; do
        on "$host" tc qdisc del dev eth0 root 2>/dev/null || true
        [ "$1" = unshaped ] || on "$host" tc qdisc add dev eth0 root tbf rate "$1" burst 256k latency 20ms
    done
}

# The same hosts serve all runs, until one fails and leaves who knows what. CRIU finds out once what the kernel can do.
hosts_ensure()
{
    local host
    [ -z "${hosts_up:-}" ] || return 0
    rm -rf "$FM_WORK/ca" "$FM_WORK/pki"
    cluster_up "$cluster_prefix" 3 || return 1
    hosts_up=yes
    for host in a b; do
        enter_accounts "$host" "$(daemon_pid "$host")"
        on "$host" criu check >/dev/null 2>&1 || true
    done
    wire_start
    peer_network
}

hosts_drop()
{
    cluster_down
    hosts_up=
}

# --- the client ---

# client_start MIB: fills redis, or waits for the memory workload; then the load begins.
client_start()
{
    coproc CLIENT {
        exec "$cluster_top/scripts/hosts" exec "$cluster_prefix" c -- "$bench_bin/bench_client" \
            "$address" "$port" "$protocol" --mib "$1" --rate "$rate" --outstanding 64 2>"$FM_WORK/client.err"
    }
    client_pid=$CLIENT_PID
    client_reply 300
}

# client_reply SECONDS: one line of the client's, in $reply.
client_reply()
{
    reply=
    read -r -t "$1" reply <&"${CLIENT[0]}" && return 0
    note="the client does not answer: $(last_line "$FM_WORK/client.err")"
    return 1
}

client_ask()
{
    echo "$1" >&"${CLIENT[1]}" && client_reply "${2:-60}"
}

client_stop()
{
    [ -n "${client_pid:-}" ] || return 0
    kill -KILL "$client_pid" 2>/dev/null || true
    wait "$client_pid" 2>/dev/null || true
    client_pid=
}

# A checksum of all of redis' data, while nothing writes.
digest()
{
    on c redis-cli -h "$address" -p "$port" debug digest
}
