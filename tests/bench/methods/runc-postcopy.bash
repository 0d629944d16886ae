# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034
# runc's and CRIU's lazy migration: the checkpoint stays as a page server, the destination restores without
# memory and fetches it over the network.

method_start()
{
    peer_runc_start
}

source_side()
{
    local checkpoint
    mkfifo "$peer_dir/status"
    exec 8<>"$peer_dir/status"
    peer_runc_checkpoint --lazy-pages --page-server "$peer_a:7778" --status-fd 7 7>"$peer_dir/status" &
    checkpoint=$!
    # A zero byte says that the page server is ready.
    until [ "$(timeout 0.1 head -c 1 <&8 | wc -c)" = 1 ]; do
        kill -0 "$checkpoint" 2>/dev/null || return 1
    done
    peer_leave &&
        tar -c -C "$peer_dir/images" . | nc -N "$peer_b" 7777 &&
        wait "$checkpoint"
}

destination_side()
{
    nc -l -N "$peer_b" 7777 | tar -x -C "$peer_dir/images" || return 1
    criu lazy-pages --images-dir "$peer_dir/images" --work-dir "$peer_dir/log" --page-server --address "$peer_a" \
        --port 7778 --log-file lazy-pages.log &
    until [ -S "$peer_dir/log/lazy-pages.socket" ]; do
        kill -0 $! 2>/dev/null && sleep 0.005 || return 1
    done
    peer_runc_restore --lazy-pages &&
        peer_arrive &&
        wait $!
}

method_move()
{
    peer_move 7777
}

method_stop()
{
    peer_runc_stop
}
