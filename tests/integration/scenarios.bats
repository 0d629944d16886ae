#!/usr/bin/env bats
# The six scenarios: a migration that succeeds, and one that fails in each state, by real causes, with a client of
# redis on a third host.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib

ip=10.88.0.5
database=10.88.0.6

setup_file()
{
    cluster_start 4 a b
    root_of redis >/dev/null
    root_of busybox >/dev/null
    # shellcheck disable=SC2154  # of the library
    on a mkdir -p /var/lib/shared
    on b mkdir -p /var/lib/shared
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    client_kill
    remove_everywhere redis web database
}

# begin [OPTION…]: redis on host a, a client, and what the destination holds before.
begin()
{
    run_redis a redis "$ip" "$@"
    client_start "$ip"
    before=$(identity_of a redis)
    snapshot b >"$FM_WORK/b.before"
}

# begin_checked TARGET: the same with a health check that is asked once, by a command. The shared directory is
# another one on each host.
begin_checked()
{
    on a curl -sf --unix-socket /run/fleximigrate/fleximigrated.sock -o /dev/null \
        http://localhost/v1/containers -d "$(jq -n --arg image "$(root_of redis)" --arg ip "$ip" --arg target "$1" '
            {name: "redis", $image, $ip, command: ["redis-server", "/etc/redis.conf"],
             volumes: ["/var/lib/shared:/shared:ro:shared"],
             health: {kind: "command", $target, attempts: 1, interval_ms: 100, timeout_ms: 1000}}')"
    until_true answers "$ip"
    client_start "$ip"
    snapshot b >"$FM_WORK/b.before"
}

# assert_stayed ID: as every failure before the commit ends. The very process that ran before runs on.
assert_stayed()
{
    assert_runs_only_on a redis
    [ "$(identity_of a redis)" = "$before" ] || fail "not the process that ran before"
    assert_client_unharmed
    assert_nothing_new b "$FM_WORK/b.before"
    assert_clean b redis
    run -3 cluster_cli b container show redis
    cluster_cli a --json migration show "$1" | jq -e '.final and .result == "failed" and (.needs_attention | not)'
}

@test "success: redis moves to the other host and back under its client" {
    begin
    local there kind # what assert_clean looks for is there while it runs
    there=$(remains a redis)
    for kind in '^/sys/fs/cgroup' '^process .*shim' '^mount .*overlay' '^mount .*nsfs' '^netns' '^directory' 'alias'; do
        grep -q "$kind" <<<"$there" || fail "assert_clean does not see: $kind"
    done
    run -0 --separate-stderr cluster_cli a migrate redis --to host-b
    [ "$(printf '%s\n' "${lines[@]:0:6}" | cut -d' ' -f1 | xargs)" = \
        "PENDING PLANNING PREPARATION EXECUTION VERIFICATION COMPLETED" ]
    local id
    id=$(last_migration a)
    assert_path a "$id" "PENDING PLANNING PREPARATION EXECUTION VERIFICATION COMPLETED."
    [ "$(reporters_of a "$id")" = "MigrationManager:PENDING MigrationManager:PLANNING DecisionEngine:PREPARATION NetworkManager:EXECUTION StateSynchronizer:VERIFICATION MigrationManager:COMPLETED" ]
    assert_runs_only_on b redis
    assert_clean a redis
    assert_client_served

    run -0 cluster_cli b migrate redis --to host-a
    assert_path b "$(last_migration b)" "PENDING PLANNING PREPARATION EXECUTION VERIFICATION COMPLETED."
    assert_runs_only_on a redis
    assert_clean b redis
    assert_client_unharmed
}

@test "PENDING fails: the source is unknown, or offline" {
    begin
    refused 3 a migrate redis --to host-b --from nowhere
    [[ $stderr == *"'nowhere' is not known"* ]]
    assert_path a "$(last_migration a)" "PENDING FAILED ROLLBACK FAILED."
    assert_nothing_new b "$FM_WORK/b.before"

    cluster_cli a -q host add host-d "$(address_of d)" 2>/dev/null # has no daemon
    refused 1 a migrate redis --to host-b --from host-d
    [[ $stderr == *"source: host 'host-d' is offline"* ]]
    cluster_cli a -q host remove host-d
    local id
    id=$(last_migration a)
    assert_path a "$id" "PENDING FAILED ROLLBACK FAILED."
    [ "$(reporters_of a "$id")" = "MigrationManager:PENDING MigrationManager:FAILED MigrationManager:ROLLBACK MigrationManager:FAILED" ]
    assert_stayed "$id"
}

@test "PENDING fails: the destination is offline" {
    begin
    cluster_cli a -q host add host-d "$(address_of d)" 2>/dev/null # has no daemon
    refused 1 a migrate redis --to host-d
    [[ $stderr == *"host 'host-d' is offline"* ]]
    cluster_cli a -q host remove host-d
    assert_path a "$(last_migration a)" "PENDING FAILED ROLLBACK FAILED."
    assert_stayed "$(last_migration a)"
}

@test "PLANNING fails: the container is labelled immovable" {
    begin --label fleximigrate.immovable=true
    refused 4 a migrate redis --to host-b
    [[ $stderr == *"labelled fleximigrate.immovable"* ]]
    local id
    id=$(last_migration a)
    assert_path a "$id" "PENDING PLANNING FAILED ROLLBACK FAILED."
    logged_of a "$id" | grep -q '^ERROR \[PolicyEnforcer\]: .*immovable'
    assert_stayed "$id"
}

@test "PLANNING fails: the destination is cordoned" {
    begin
    cluster_cli b -q host cordon host-b
    refused 4 a migrate redis --to host-b
    cluster_cli b -q host uncordon host-b
    [[ $stderr == *"host 'host-b' is cordoned"* ]]
    assert_path a "$(last_migration a)" "PENDING PLANNING FAILED ROLLBACK FAILED."
    assert_stayed "$(last_migration a)"
}

@test "PREPARATION fails: a device that is not ours stands in the way on the destination" {
    begin
    local device
    device=$(on a ip -o link | grep -o 'fm[0-9a-f]\{8\}' | head -n 1)
    on b ip link add "$device" type bridge
    snapshot b >"$FM_WORK/b.before"
    refused 5 a migrate redis --to host-b
    on b ip link show "$device" # is left alone
    on b ip link del "$device"
    [[ $stderr == *"rolled back from PREPARATION"*"cannot stage the network"*"$device"*"is not ours"* ]]
    local id
    id=$(last_migration a)
    assert_path a "$id" "PENDING PLANNING PREPARATION FAILED ROLLBACK FAILED."
    [ "$(reporters_of a "$id" | cut -d' ' -f4-)" = "NetworkManager:FAILED MigrationManager:ROLLBACK MigrationManager:FAILED" ]
    assert_stayed "$id"
}

@test "PREPARATION fails: the destination has lost its bridge" {
    begin
    on b ip link del fmbr0
    snapshot b >"$FM_WORK/b.before"
    refused 5 a migrate redis --to host-b
    [[ $stderr == *"rolled back from PREPARATION"*"bridge fmbr0 is gone; restart fleximigrated"* ]]
    assert_path a "$(last_migration a)" "PENDING PLANNING PREPARATION FAILED ROLLBACK FAILED."
    assert_stayed "$(last_migration a)"
    daemon_restart b # as the message says
    run -0 cluster_cli a migrate redis --to host-b
    assert_runs_only_on b redis
}

@test "EXECUTION fails: a batch of pages arrives damaged" {
    begin
    run -0 cluster_cli a -q migrate redis --to host-b # from now on it has the layers
    run -0 cluster_cli b -q migrate redis --to host-a
    before=$(identity_of a redis)
    snapshot b >"$FM_WORK/b.before"
    daemon_restart a FLEXIMIGRATE_FAULT=wire.corrupt-pages=fail:5
    refused 5 a migrate redis --to host-b
    daemon_restart a
    [[ $stderr == *"rolled back from EXECUTION"*"checksum mismatch"* ]]
    local id
    id=$(last_migration a)
    assert_path a "$id" "PENDING PLANNING PREPARATION EXECUTION FAILED ROLLBACK FAILED."
    [ "$(reporters_of a "$id" | cut -d' ' -f5-)" = "StateSynchronizer:FAILED MigrationManager:ROLLBACK MigrationManager:FAILED" ]
    grep -q 'WARN .*damaged (checksum mismatch)' "$FM_WORK/b.log"
    assert_stayed "$id"
}

@test "VERIFICATION fails: the health check does, and redis comes back live" {
    on a sh -c 'echo good >/var/lib/shared/health'
    on b sh -c 'echo bad >/var/lib/shared/health'
    begin_checked 'grep -q good /shared/health'
    on c redis-cli -h "$ip" set before migration
    refused 5 a migrate redis --to host-b
    [[ $stderr == *"rolled back from VERIFICATION"*"health check"*"exits with 1"* ]]
    local id
    id=$(last_migration a)
    assert_path a "$id" "PENDING PLANNING PREPARATION EXECUTION VERIFICATION FAILED ROLLBACK FAILED."
    [ "$(reporters_of a "$id" | cut -d' ' -f6-)" = "ContainerManager:FAILED MigrationManager:ROLLBACK MigrationManager:FAILED" ]
    logged_of a "$id" | grep -q 'Migrated back to host-a\. Final State: FAILED'
    # the way back is a migration of its own
    assert_path b "$(last_migration b)" "PENDING PLANNING PREPARATION EXECUTION VERIFICATION COMPLETED."
    assert_runs_only_on a redis
    [ "$(on c redis-cli -h "$ip" get before)" = migration ]
    assert_client_unharmed
    assert_nothing_new b "$FM_WORK/b.before" '^fdb .* dev fmvx0 ' # it points to where redis is
    assert_clean b redis
}

@test "VERIFICATION fails: a health check that fails everywhere does not send it to and fro" {
    begin_checked false
    refused 5 a migrate redis --to host-b
    assert_path a "$(last_migration a)" "PENDING PLANNING PREPARATION EXECUTION VERIFICATION FAILED ROLLBACK FAILED."
    assert_runs_only_on a redis
    assert_client_unharmed
    assert_clean b redis
}

# web_root: a web server whose health is what /shared/code says, and which is slow to tell it is ready.
web_root()
{
    local root=$FM_WORK/root-web
    if [ ! -d "$root" ]; then
        "$top/scripts/make-rootfs" busybox "$root"
        mkdir -p "$root/www/cgi-bin"
        # shellcheck disable=SC2016
        printf '#!/bin/sh\nread -r code </shared/code\nprintf "Status: $code .\\r\\n\\r\\n$code\\n"\n' >"$root/www/cgi-bin/health"
        printf '#!/bin/sh\nsleep 0.8\nprintf "\\r\\nready\\n"\n' >"$root/www/cgi-bin/ready"
        chmod 755 "$root/www/cgi-bin/health" "$root/www/cgi-bin/ready"
    fi
    echo "$root"
}

# begin_web CODE [OPTION…]: web on host a, where it is healthy; on host b its health is CODE. And the database that it
# needs, also on host a.
begin_web()
{
    local root code=$1
    shift
    root=$(web_root)
    on a sh -c 'echo 200 >/var/lib/shared/code'
    on b sh -c "echo $code >/var/lib/shared/code"
    cluster_cli a -q run --name database --image "$root" --ip "$database" -- httpd -f -p 80 -h /www
    cluster_cli a -q run --name web --image "$root" --ip "$ip" --volume /var/lib/shared:/shared:ro:shared \
        --health http://:80/cgi-bin/health "$@" -- httpd -f -p 80 -h /www
    until_true on c curl -sf "http://$ip/cgi-bin/health"
    until_true on c curl -sf "http://$database/cgi-bin/ready"
}

# assert_web_is_back ID: rolled back from VERIFICATION, and served by the source.
assert_web_is_back()
{
    assert_path a "$1" "PENDING PLANNING PREPARATION EXECUTION VERIFICATION FAILED ROLLBACK FAILED."
    assert_runs_only_on a web
    [ "$(on c curl -sf "http://$ip/cgi-bin/health")" = 200 ]
    assert_clean b web
}

@test "VERIFICATION fails: the service answers 503 on the destination" {
    begin_web 503
    refused 5 a migrate web --to host-b
    [[ $stderr == *"rolled back from VERIFICATION"*"answered 503"*"(3 attempts)"* ]]
    assert_web_is_back "$(last_migration a)"
}

@test "VERIFICATION fails: a dependency is slower than it may be" {
    begin_web 200 --depends "tcp://$database:80,500ms" --depends "http://$database/cgi-bin/ready,500ms"
    refused 5 a migrate web --to host-b
    [[ $stderr =~ "rolled back from VERIFICATION".*"dependency http://$database/cgi-bin/ready answers in "[89][0-9][0-9]" ms, allowed 500 ms (3 attempts)" ]]
    [[ $stderr != *tcp://* ]]
    local id
    id=$(last_migration a)
    assert_web_is_back "$id"
    run -0 cluster_cli a migration report "$id"
    [[ $output == *"dependency http://$database/cgi-bin/ready answers in"* ]]
}

@test "VERIFICATION fails: 503 three times, and a dependency that is too slow: both are told" {
    begin_web 503 --depends "http://$database/cgi-bin/ready,500ms"
    refused 5 a migrate web --to host-b
    [[ $stderr == *"rolled back from VERIFICATION"*"/cgi-bin/health answered 503"*"(3 attempts); dependency http://$database/"*", allowed 500 ms (3 attempts)"* ]]
    assert_web_is_back "$(last_migration a)"
}

@test "VERIFICATION: dependencies that answer in time, from the new host as well" {
    begin_web 200 --depends "tcp://$database:80,500ms" --depends "http://$database/cgi-bin/ready,3s"
    run -0 cluster_cli a migrate web --to host-b
    assert_runs_only_on b web
    grep -q "Dependency of web: tcp://$database:80 connected in" "$FM_WORK/b.log"
    run -0 cluster_cli b migrate web --to host-a # the list has come along
    grep -q "Dependency of web: http://$database/cgi-bin/ready answered 200 in" "$FM_WORK/a.log"
}

@test "VERIFICATION fails: killed on the destination, restored on the source from the checkpoint" {
    run_redis a redis "$ip"
    on c redis-cli -h "$ip" set before migration
    cat >"$FM_WORK/kill-redis" <<'END'
#!/bin/sh
runc kill redis KILL
while runc state redis | grep -q '"status": "running"'; do sleep 0.01; done # a busy machine takes its time
END
    chmod 755 "$FM_WORK/kill-redis"
    daemon_restart b "FLEXIMIGRATE_FAULT=step.register=run:$FM_WORK/kill-redis"
    snapshot b >"$FM_WORK/b.before"
    refused 5 a migrate redis --to host-b
    daemon_restart b
    [[ $stderr == *"rolled back from VERIFICATION"*"does not run"* ]]
    local id
    id=$(last_migration a)
    assert_path a "$id" "PENDING PLANNING PREPARATION EXECUTION VERIFICATION FAILED ROLLBACK FAILED."
    logged_of a "$id" | grep -Eq 'Restored on host-a from a checkpoint that is [0-9]+ ms old\. Final State: FAILED'
    run -0 cluster_cli a migration report "$id"
    [[ $output =~ "checkpoint that is "[0-9]+" ms old" ]]
    assert_runs_only_on a redis
    [ "$(on c redis-cli -h "$ip" get before)" = migration ]
    assert_nothing_new b "$FM_WORK/b.before"
    assert_clean b redis
}
