# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034
# What those share who move containers with existing tools: an overlay as theirs would be (VXLAN, bridges
# that learn), a network namespace with the container's address on either host, and a bundle for runc.

peer_address=10.89.0.5
peer_dir=/run/peer

# Once for the hosts: a bridge on a and b, and the client's leg on c.
peer_network()
{
    local host other last=0
    for host in a b c; do
        on "$host" ip link add px0 type vxlan id 7441 dstport 4790 local "$(address_of "$host")"
        on "$host" ip link set px0 mtu 1450 up
        for other in a b c; do
            [ "$other" = "$host" ] ||
                on "$host" bridge fdb append 00:00:00:00:00:00 dev px0 dst "$(address_of "$other")"
        done
    done
    for host in a b; do
        on "$host" ip link add pb0 type bridge
        on "$host" ip link set pb0 mtu 1450 up
        on "$host" ip link set px0 master pb0
    done
    on c ip addr add 10.89.0.103/24 dev px0
}

# The same address on both hosts, and b's is connected when it is needed. It says nothing by itself, lest the overlay
# takes notice of it too early.
peer_netns()
{
    local host
    for host in a b; do
        on "$host" ip netns add peer
        on "$host" ip link add pv0 type veth peer name eth0 netns peer
        on "$host" ip link set pv0 addrgenmode none mtu 1450 master pb0
        on "$host" ip -n peer link set lo up
        on "$host" ip -n peer link set eth0 addrgenmode none address 02:00:00:00:89:05 mtu 1450 up
        on "$host" ip -n peer addr add "$peer_address/24" dev eth0
    done
    on a ip link set pv0 up
    on a ip netns exec peer arping -q -A -c 1 -I eth0 "$peer_address"
    address=$peer_address
}

peer_netns_remove()
{
    local host
    for host in a b; do
        on "$host" ip link del pv0 2>/dev/null || true
        on "$host" ip netns del peer 2>/dev/null || true
    done
}

# peer_bundle HOST: what `runc spec` gives, with our root, network namespace, cgroup and command.
peer_bundle()
{
    local host=$1
    on "$host" mkdir -p "$peer_dir/bundle"
    on "$host" cp -a "$container_root" "$peer_dir/bundle/rootfs"
    on "$host" runc spec --bundle "$peer_dir/bundle"
    on "$host" cat "$peer_dir/bundle/config.json" |
        jq --arg cgroup "/fm-$cluster_prefix/$host/peer" --arg command "$(printf '%s\n' "${container_args[@]}")" '
            .process.terminal = false | .process.args = ($command | split("\n")) | .root.readonly = false
            | .process.rlimits = [] | .linux.cgroupsPath = $cgroup
            | .linux.namespaces = [.linux.namespaces[] | select(.type != "cgroup")
                                   | if .type == "network" then .path = "/run/netns/peer" else . end]
              + [{type: "cgroup"}]' >"$FM_WORK/config.json"
    on "$host" cp "$FM_WORK/config.json" "$peer_dir/bundle/config.json"
}

# peer_runc_start: the container `peer` on a, and the bundle on b.
peer_runc_start()
{
    peer_netns
    peer_bundle a
    peer_bundle b
    on a mkdir -p "$peer_dir"/{images,log}
    on b mkdir -p "$peer_dir"/{images,log}
    tool a runc run --detach --bundle "$peer_dir/bundle" peer </dev/null >/dev/null 2>&1 ||
        peer_failed "runc run" "$FM_WORK/peer.log"
}

peer_runc_stop()
{
    local host
    for host in a b; do
        on "$host" runc delete --force peer >/dev/null 2>&1 || true
        on "$host" rm -rf "$peer_dir"
    done
    peer_netns_remove
}

# peer_move PORT…: runs the functions source_side on a and destination_side on b, each as one script of its own that needs
# nobody in between, once b listens on these ports. Their functions and variables are exported to them.
peer_move()
{
    local a b first port_of rc=0
    export peer_dir peer_address FM_WORK peer_a peer_b
    peer_a=$(address_of a) peer_b=$(address_of b)
    export -f stamp peer_leave peer_arrive peer_runc_checkpoint peer_runc_restore source_side destination_side
    rm -f "$FM_WORK"/stamp.*
    tool b timeout "$move_timeout" bash -c 'set -o pipefail; destination_side' </dev/null >"$FM_WORK/peer-b.log" 2>&1 &
    b=$!
    for port_of in "$@"; do
        until_true 10 peer_listens b "$port_of" || peer_failed "the destination does not listen" "$FM_WORK/peer-b.log" || return 1
    done
    tool a timeout "$move_timeout" bash -c 'set -o pipefail; source_side' </dev/null >"$FM_WORK/peer-a.log" 2>&1 &
    a=$!
    # When one of them fails the other would wait for ever.
    wait -n -p first "$a" "$b" && wait $((a + b - first)) || rc=1
    if [ $rc != 0 ]; then
        kill "$a" "$b" 2>/dev/null
        peer_reason
        return 1
    fi
    freeze_ms=$(($(cat "$FM_WORK/stamp.resumed") - $(cat "$FM_WORK/stamp.frozen")))
}

# peer_listens HOST PORT
peer_listens()
{
    on "$1" ss -Hltn "sport = :$2" | grep -q .
}

# --- what runs on the hosts ---

# stamp NAME: the time, in milliseconds
stamp()
{
    local now=${EPOCHREALTIME//[.,]/}
    echo "${now%???}" >"$FM_WORK/stamp.$1"
}

# On a: its copy of the address is gone.
peer_leave()
{
    ip link set pv0 down
}

# On b, after the restore: the overlay learns where the address is now. arping stays for a second.
peer_arrive()
{
    stamp resumed
    ip netns exec peer arping -q -A -c 1 -I eth0 "$peer_address" &
}

# peer_runc_checkpoint OPTION…: on a
peer_runc_checkpoint()
{
    stamp frozen
    runc checkpoint --tcp-established --image-path "$peer_dir/images" --work-path "$peer_dir/log" "$@" peer
}

# peer_runc_restore OPTION…: on b
peer_runc_restore()
{
    ip link set pv0 up &&
        runc restore --detach --tcp-established --image-path "$peer_dir/images" --work-path "$peer_dir/log" \
            --bundle "$peer_dir/bundle" "$@" peer </dev/null >/dev/null 2>&1
}

# --- reasons ---

# The reason of a failure, as CRIU said it first, or whoever said something last; always fails.
peer_reason()
{
    local host
    for host in a b; do
        on "$host" bash -c 'cat "$1"/log/*.log' - "$peer_dir" >"$FM_WORK/criu-$host.log" 2>/dev/null || true
    done
    note=$(grep -ah 'Error (' "$FM_WORK"/criu-[ab].log | grep -v rlimit | head -n 1 | sed 's/^([0-9.]*) *//' |
        tr -d '"\\' | cut -c 1-200)
    [ -n "$note" ] || note=$(last_line "$FM_WORK/peer-b.log" "$FM_WORK/peer-a.log")
    return 1
}

# peer_failed TEXT FILE…: the reason, with the last word of those logs.
peer_failed()
{
    local text=$1
    shift
    note="$text: $(last_line "$@")"
    return 1
}
