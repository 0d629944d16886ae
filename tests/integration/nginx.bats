#!/usr/bin/env bats
# nginx moves to the other host and back in the midst of a download.

load lib
load migrate

ip=10.88.0.6
size_mib=32

setup_file()
{
    cluster_start 3
    "$FM_BUILD/tests/workloads/slowdownload" --gen "$(root_of nginx)/srv/www/data" ${size_mib}m
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    clients_kill
    remove_everywhere web
}

@test "nginx: a slow download goes on over its one connection, every byte right" {
    cluster_cli a -q run --name web --image "$(root_of nginx)" --ip "$ip" --health tcp://:80 \
        -- nginx -c /etc/nginx.conf
    client slow slowdownload "$ip" 80 /data --rate 1m
    assert_client_runs slow
    hop a b web
    assert_client_runs slow
    hop b a web
    assert_client_runs slow
    client_signal slow USR1
    client_result slow ".ok and .intact and .connection_resets == 0 and .bytes == $((size_mib << 20))"
    show "longest silence $(client_figure slow .max_gap_ms) ms in $(client_figure slow .elapsed_s) s"
}
