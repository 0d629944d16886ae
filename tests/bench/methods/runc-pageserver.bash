# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034
# As runc-tar, but memory goes straight to a page server of CRIU's on the destination.

method_start()
{
    peer_runc_start
}

source_side()
{
    peer_runc_checkpoint --page-server "$peer_b:7778" &&
        peer_leave &&
        tar -c -C "$peer_dir/images" . | nc -N "$peer_b" 7777
}

destination_side()
{
    criu page-server --images-dir "$peer_dir/images" --address "$peer_b" --port 7778 -v0 &
    nc -l -N "$peer_b" 7777 | tar -x -C "$peer_dir/images" &&
        wait $! &&
        peer_runc_restore &&
        peer_arrive
}

method_move()
{
    peer_move 7777 7778
}

method_stop()
{
    peer_runc_stop
}
