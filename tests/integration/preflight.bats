#!/usr/bin/env bats
# The preflight check: each reason against a migration is found and comes with its cure, and a migration that
# fails it never touches the container.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib

setup_file()
{
    cluster_start 3 a b
    cc -static -o "$FM_WORK/uring" -x c - <<'END'
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void)
{
    char params[120];
    memset(params, 0, sizeof(params));
    if (syscall(SYS_io_uring_setup, 8, params) < 0)
        return 1;
    pause();
}
END
    "$top/scripts/make-rootfs" busybox "$FM_WORK/root-busybox" "$FM_WORK/uring"
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    remove_everywhere web other
    remove_plain plain
}

# assert_finds NAME CHECK TEXT CURE: `check` says so, and `migrate` refuses in PLANNING without a step taken: the
# container is the process that it was, and was never stopped.
assert_finds()
{
    local name=$1 check=$2 text=$3 cure=$4 before id document
    before=$(identity_of a "$name")
    document=$(cluster_cli a check "$name" --to host-b --json) || [ $? -eq 4 ]
    jq -e --arg check "$check" --arg text "$text" --arg cure "$cure" '
        (.ok | not) and ([.findings[] | select(.ok | not) | select(.severity == "error") | select(.check == $check)
         | select(.message | contains($text)) | select(.cure | contains($cure))] | length >= 1)' <<<"$document" >/dev/null ||
        fail "not found: $check: $text ($cure) in $(jq -c '.findings[] | select(.ok | not)' <<<"$document")"
    run -4 cluster_cli a check "$name" --to host-b
    [[ $output == *"error    $check"*"→ "*"$cure"*"cannot move to 'host-b'"* ]]

    snapshot b >"$FM_WORK/b.before"
    refused 4 a migrate "$name" --to host-b
    [[ $stderr == *"'$name' does not move: "*"$text"*"$cure"* ]]
    id=$(last_migration a)
    assert_path a "$id" "PENDING PLANNING FAILED ROLLBACK FAILED."
    cluster_cli a --json migration show "$id" | jq -e '.steps == []' >/dev/null || fail "steps were taken"
    logged_of a "$id" | grep -q "^WARN \[DecisionEngine\]: Preflight $check: .*$text"
    [ "$(identity_of a "$name")" = "$before" ] || fail "it is another process now"
    [ "$(freezer_of a "$name")" = thawed ]
    assert_nothing_new b "$FM_WORK/b.before"
}

@test "nothing against it" {
    run_ticker a web --ip 10.88.0.5
    local before
    before=$(identity_of a web)
    snapshot b >"$FM_WORK/b.before"
    run -0 cluster_cli a check web --to host-b
    [[ ${lines[-1]} == "'web' can move to 'host-b'" ]]
    [[ $output != *$'\n'error\ * ]]
    run -0 cluster_cli a check web --to host-b --json
    jq -e '.ok and ([.findings[].check] | contains(["policy", "name", "address", "architecture", "cpu-features", "cpu-xsave",
        "kernel", "criu-version", "criu-check", "runtime", "lsm", "cgroup", "memory", "disk", "mounts", "devices",
        "checkpoint"]))' <<<"$output"
    run -0 cluster_cli a migrate web --to host-b --dry-run
    [ "$(cluster_cli a --json migration list)" = "[]" ]
    [ "$(identity_of a web)" = "$before" ]
    assert_nothing_new b "$FM_WORK/b.before"
}

@test "a shared directory that the destination does not have" {
    on a mkdir -p /var/lib/only-here
    run_ticker a web --volume /var/lib/only-here:/data:shared
    assert_finds web mounts /var/lib/only-here ""
    on b mkdir -p /var/lib/only-here
    run -0 cluster_cli a check web --to host-b
}

@test "the name is taken on the destination" {
    run_ticker a web
    run_ticker b web
    local other
    other=$(identity_of b web)
    assert_finds web name web ""
    [ "$(identity_of b web)" = "$other" ]
}

# Only hosts that do not hear each other give an address away twice.
@test "the address is taken on the destination" {
    daemon_stop b
    run_ticker a web --ip 10.88.0.5
    daemon_stop a
    daemon_start b 3>&- 4>&-
    run_ticker b other --ip 10.88.0.5
    daemon_start a 3>&- 4>&-
    assert_finds web address 10.88.0.5 "remove what uses it"
}

@test "not enough memory on the destination" {
    run_ticker a web
    on b mkdir -p /etc/fleximigrate/conf.d
    on b tee /etc/fleximigrate/conf.d/memory.yaml <<<'limits: {memory_reserve: 100TiB}' >/dev/null
    daemon_restart b
    local before
    before=$(identity_of a web)
    run --separate-stderr cluster_cli a migrate web --to host-b
    on b rm /etc/fleximigrate/conf.d/memory.yaml
    daemon_restart b
    [ "$status" -ne 0 ] || fail "it was moved"
    [[ $stderr == *memory* ]]
    [ "$(identity_of a web)" = "$before" ]
}

@test "a program that uses io_uring" {
    # FlexiMigrate's own containers cannot use it at all
    cluster_cli a -q run --name web --image "$(root_of busybox)" -- uring
    until_true ended_on a web
    run_plain a plain . uring </dev/null >/dev/null 2>&1
    until_true uses_io_uring a plain
    assert_finds plain io-uring io_uring "switch io_uring off"
}

ended_on()
{
    [[ $(status_on "$1" "$2") =~ ^(stopped)?$ ]]
}

uses_io_uring()
{
    local pid
    for pid in $(processes_of "$1" "$2"); do
        find "/proc/$pid/fd" -lname '*io_uring*' | grep -q . && return 0
    done
    return 1
}

@test "output that goes to a file of the host" {
    run_plain a plain . sleep 1000 </dev/null >"$FM_WORK/output" 2>&1
    assert_finds plain external-stdio "$FM_WORK/output" "pipes or /dev/null"
}

@test "the network of the host" {
    run_plain a plain '.linux.namespaces |= map(select(.type != "network"))' sleep 1000 </dev/null >/dev/null 2>&1
    assert_finds plain host-network network ""
}

@test "a container that does not run" {
    run_ticker a web
    cluster_cli a -q container stop web --timeout 100ms
    refused 4 a check web --to host-b
    refused 4 a migrate web --to host-b
    [[ $stderr == *"is stopped: only a running one can be migrated"* ]]
    on a runc list
}
