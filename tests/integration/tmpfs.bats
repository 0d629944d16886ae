#!/usr/bin/env bats
# What a container keeps on its tmpfs mounts moves along, whatever it is and whoever mounted it: in /dev, in
# /dev/shm, in mounts of its own, in mounts upon mounts.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load migrate

setup_file()
{
    cluster_start 3 a b
    root_of busybox >/dev/null
    install -m 755 "$FM_BUILD/tests/workloads/tmpfs_keeper" "$FM_WORK/root-busybox/bin"
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    remove_everywhere plain web
    remove_plain plain
}

# The mounts of a plain container on top of runc's own: sizes, modes, a mount in a mount, one that covers another,
# one that is read-only.
mounts='.mounts += [
    {type: "tmpfs", source: "tmpfs", destination: "/run", options: ["nosuid", "size=2m", "mode=711", "nr_inodes=300"]},
    {type: "tmpfs", source: "tmpfs", destination: "/run/inner", options: ["size=1m", "uid=7", "gid=8"]},
    {type: "tmpfs", source: "tmpfs", destination: "/srv", options: ["mode=700"]},
    {type: "tmpfs", source: "tmpfs", destination: "/srv", options: ["mode=755"]},
    {type: "tmpfs", source: "tmpfs", destination: "/mnt", options: ["ro", "noexec", "mode=555"]}]
    | .process.capabilities[] += ["CAP_MKNOD", "CAP_CHOWN", "CAP_FSETID", "CAP_FOWNER"]'

# shellcheck disable=SC2016  # the container's shell expands it
keepers='for dir in /dev/k /dev/shm/k /run/k /run/inner/k /srv/k /k; do
        case $dir in
        /dev/k) options=--no-pipe ;;
        /dev/shm/k) options=--no-dev ;;
        /srv/k) options="--no-dev --no-pipe --no-ns" ;;
        /k) options="--no-dev --no-pipe --no-watch --no-size" ;;
        *) options="--no-dev --no-pipe" ;;
        esac
        tmpfs_keeper $dir $options >/root/keeper.$(echo $dir | tr / .) 2>&1 &
    done
    wait'

start_keepers()
{
    # shellcheck disable=SC2016
    run_plain a plain "$mounts" sh -c "$keepers" </dev/null >/dev/null 2>&1
    until_true keepers_go_on a 5
}

# keepers_go_on HOST ROUNDS: all of them have done so many rounds more, and nothing was wrong.
keepers_go_on()
{
    local host=$1 rounds=$2
    # shellcheck disable=SC2016
    on "$host" runc exec plain sh -c '
        before=$(cat /root/keeper.* | grep -c ^ok)
        for i in 1 2 3 4 5 6 7 8 9; do usleep 30000; done
        grep -h -v "^ok" /root/keeper.* && exit 1
        [ "$(cat /root/keeper.* | grep -c ^ok)" -gt $((before + 6 * '"$rounds"')) ] &&
        [ "$(ls /root/keeper.* | wc -l)" = 6 ] && [ "$(pidof tmpfs_keeper | wc -w)" = 6 ]'
}

# What a process in the container sees of its mounts, but for numbers that differ on every host.
mounts_on()
{
    on "$1" runc exec plain sh -c "grep ' tmpfs ' /proc/self/mounts | grep -v -e ' / ' -e ' /proc/[kt]' | sort; stat -c '%n %a %u %g' /dev /dev/shm /run /run/inner /mnt /srv /dev/pts; ls -A /proc/acpi /sys/firmware; cat /proc/keys" |
        sed 's/inode64,*//'
}

@test "tmpfs: files in every state, mappings, locks, watches, sockets; there and back" {
    start_keepers
    mounts_on a >"$FM_WORK/mounts.a"
    cluster_cli a -q migrate plain --to host-b
    assert_runs_only_on b plain
    keepers_go_on b 5
    mounts_on b | diff "$FM_WORK/mounts.a" -
    assert_clean a plain
    assert_no_mounts a
    assert_no_mounts b
    cluster_cli b -q migrate plain --to host-a
    assert_runs_only_on a plain
    keepers_go_on a 5
    mounts_on a | diff "$FM_WORK/mounts.a" -
    cluster_cli a -q migrate plain --to host-b
    keepers_go_on b 5
    assert_no_mounts a
    assert_no_mounts b
}

# Nothing of a migration is mounted any more.
assert_no_mounts()
{
    until_true none_mounted "$1"
}

none_mounted()
{
    ! on "$1" grep /migrations/ /proc/self/mountinfo
}

@test "tmpfs: a migration that is rolled back has not touched it" {
    start_keepers
    daemon_restart b FLEXIMIGRATE_FAULT=step.ready=fail
    run ! --separate-stderr cluster_cli a -q migrate plain --to host-b
    [[ $stderr == *"rolled back from EXECUTION: fault injected"* ]]
    daemon_restart b
    assert_runs_only_on a plain
    keepers_go_on a 5
    assert_no_mounts a
    assert_no_mounts b
}

@test "tmpfs: dead on the destination, it comes back with what it kept" {
    start_keepers
    printf '#!/bin/sh\nrunc kill plain KILL\nuntil runc state plain | grep -q stopped; do sleep 0.02; done\n' >"$FM_WORK/kill"
    chmod 755 "$FM_WORK/kill"
    daemon_restart b "FLEXIMIGRATE_FAULT=step.register=run:$FM_WORK/kill"
    run ! --separate-stderr cluster_cli a -q migrate plain --to host-b
    [[ $stderr == *"rolled back from VERIFICATION"* ]]
    daemon_restart b
    assert_runs_only_on a plain
    keepers_go_on a 5
    assert_no_mounts a
    assert_no_mounts b
}

@test "tmpfs: the destination restores again after its daemon has died in READY" {
    start_keepers
    daemon_restart b FLEXIMIGRATE_FAULT=step.run=kill
    cluster_cli a -q migrate plain --to host-b --strategy pre-copy --on-no-convergence freeze &
    local pid=$!
    until_true is_gone "$(daemon_pid b)"
    daemon_restart b
    wait "$pid"
    assert_runs_only_on b plain
    keepers_go_on b 5
    assert_no_mounts a
    assert_no_mounts b
}
