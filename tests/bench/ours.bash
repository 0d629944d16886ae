# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034
# FlexiMigrate with the strategy $strategy, and ${migrate_options[@]}.

migrate_options=()

# The image is on both hosts, as it is for the others: a container that has ended holds it on b.
keep_image()
{
    local name=image-$protocol
    cluster_cli b container show "$name" >/dev/null 2>&1 ||
        cluster_cli b -q run --name "$name" --image "$container_root" -- /bin/true >"$FM_WORK/run.log" 2>&1 || true
}

method_start()
{
    address=10.88.0.5
    keep_image
    cluster_cli a -q run --name bench --image "$container_root" --ip "$address" -- "${container_args[@]}" \
        >"$FM_WORK/run.log" 2>&1 || peer_failed "fleximigrate run" "$FM_WORK/run.log"
}

method_move()
{
    local rc=0
    tool a timeout "$move_timeout" "$FM_BUILD/src/cli/fleximigrate" -q migrate bench --to host-b --strategy "$strategy" "${migrate_options[@]}" \
        >"$FM_WORK/migrate.log" 2>&1 || rc=$?
    moved_at=$(now_ms)
    if [ $rc != 0 ]; then
        note=$(last_line "$FM_WORK/migrate.log")
        [ $rc != 124 ] || note="no end within $move_timeout s"
        # 2 and 4: it was refused, and nothing was done.
        [[ $rc != [24] ]] || note="unavailable: $note"
        return 1
    fi
    cluster_cli a --json migration show "$(cluster_cli a --json migration list | jq -r '.[0].id')" >"$FM_WORK/migration.json"
    freeze_ms=$(jq .stats.freeze_ms "$FM_WORK/migration.json")
}

method_stop()
{
    local host
    for host in a b; do
        cluster_cli "$host" -q container stop bench >/dev/null 2>&1 || true
        cluster_cli "$host" -q container remove bench >/dev/null 2>&1 || true
    done
}
