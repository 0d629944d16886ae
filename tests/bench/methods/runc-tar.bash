# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034
# runc checkpoint, its images as a tar stream over TCP, runc restore.

method_start()
{
    peer_runc_start
}

source_side()
{
    peer_runc_checkpoint &&
        peer_leave &&
        tar -c -C "$peer_dir/images" . | nc -N "$peer_b" 7777
}

destination_side()
{
    nc -l -N "$peer_b" 7777 | tar -x -C "$peer_dir/images" &&
        peer_runc_restore &&
        peer_arrive
}

method_move()
{
    peer_move 7777
}

method_stop()
{
    peer_runc_stop
}
