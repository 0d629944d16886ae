# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034
# podman container checkpoint --export, a copy over TCP, podman container restore --import. Both hosts have the image.

# Podman keeps to directories of the host's own /run, and its locks too: elsewhere they would be the machine's.
podman_on()
{
    local host=$1
    shift
    tool "$host" env CONTAINERS_CONF="$FM_WORK/containers.conf" CONTAINERS_STORAGE_CONF="$FM_WORK/storage.conf" podman "$@"
}

method_start()
{
    local host
    printf '[engine]\ncgroup_manager="cgroupfs"\nevents_logger="none"\nlock_type="file"\nruntime="runc"\n' \
        >"$FM_WORK/containers.conf"
    printf '[storage]\ndriver="overlay"\ngraphroot="/run/podman/storage"\nrunroot="/run/podman/run"\n' >"$FM_WORK/storage.conf"
    peer_netns
    for host in a b; do
        on "$host" mkdir -p "$peer_dir"
    done
    { tar -c -C "$container_root" . | podman_on a import -q - peer &&
        podman_on a save -q peer | podman_on b load -q; } >"$FM_WORK/peer.log" 2>&1 ||
        peer_failed "podman import" "$FM_WORK/peer.log" || return 1
    podman_on a run --detach --name peer --network ns:/run/netns/peer --cgroupns private \
        --cgroup-parent "/fm-$cluster_prefix/podman" --ulimit nofile=1024:4096 --ulimit nproc=4096:8192 peer \
        "${container_args[@]}" </dev/null >"$FM_WORK/peer.log" 2>&1 || peer_failed "podman run" "$FM_WORK/peer.log"
}

source_side()
{
    stamp frozen
    podman container checkpoint --tcp-established --compress none --export "$peer_dir/peer.tar" peer &&
        peer_leave &&
        nc -N "$peer_b" 7777 <"$peer_dir/peer.tar"
}

destination_side()
{
    nc -l -N "$peer_b" 7777 >"$peer_dir/peer.tar" &&
        ip link set pv0 up &&
        podman container restore --tcp-established --import "$peer_dir/peer.tar" &&
        peer_arrive
}

method_move()
{
    local rc=0
    export CONTAINERS_CONF=$FM_WORK/containers.conf CONTAINERS_STORAGE_CONF=$FM_WORK/storage.conf
    peer_move 7777 || rc=1
    unset CONTAINERS_CONF CONTAINERS_STORAGE_CONF
    return $rc
}

method_stop()
{
    local host
    for host in a b; do
        podman_on "$host" rm --force --time 1 peer >/dev/null 2>&1 || true
        podman_on "$host" rmi --force peer >/dev/null 2>&1 || true
        on "$host" umount /run/podman/storage/overlay 2>/dev/null || true
        on "$host" rm -rf "$peer_dir" /run/podman
    done
    peer_netns_remove
}
