#!/usr/bin/env bats
# Memory of every kind moves to the other host and back, by every strategy, and each page is verified afterwards.
# FM_STRATEGIES="cold pre-copy" limits the strategies, FM_MODES="dirty tree" the kinds of memory.

load lib
load migrate
load strategies

huge_pages=/proc/sys/vm/nr_hugepages

setup_file()
{
    strategies_start 2
    make_memcheck_root
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    strategies_teardown mem
    if [ -e "$FM_WORK/huge_pages" ]; then
        cat "$FM_WORK/huge_pages" >$huge_pages
        rm "$FM_WORK/huge_pages"
    fi
}

@test "memcheck: it would notice a flipped bit" {
    cluster_cli a -q run --name mem --image "$FM_WORK/root-memcheck" -- memcheck --break cow cow dirty
    until_true has_ended a mem
    cluster_cli a container logs mem | grep -q '^FAIL cow, process [0-9]*: at 0x.* expected .* found '
}

has_ended()
{
    [ "$(status_on "$1" "$2")" = stopped ]
}

# Every kind at once: some 90 processes.
everything=(dirty tree threads cow forkstorm user privileges seccomp remap reuse brk stack shared memfd sysv files
    tmpfs kernel mlock protnone idle)

@test "memory: everything at once, a hop by each strategy" {
    local strategy from=a to=b other
    memcheck_start mem "${everything[@]}"
    for strategy in $(strategies); do
        hop_by "$strategy" $from $to mem
        assert_memcheck $to mem
        other=$from from=$to to=$other
    done
}

# each_strategy MODE [ARGUMENT…]: a container of its own for that mode, hops by each strategy in turn.
each_strategy()
{
    local strategy
    [[ -z ${FM_MODES:-} || " $FM_MODES " == *" ${*: -1} "* ]] || skip "not among FM_MODES"
    memcheck_start mem "$@"
    skip_if_unavailable
    for strategy in $(strategies); do
        to_and_fro "$strategy" mem assert_memcheck mem
    done
}

skip_if_unavailable()
{
    local why
    why=$(memcheck_skipped a mem)
    [ -z "$why" ] || skip "$why"
}

# bats test_tags=slow
@test "memory: a calm process" {
    each_strategy --mib 64 --rate 100 dirty
}

# bats test_tags=slow
@test "memory: a process that dirties its memory faster than it can move" {
    each_strategy --mib 32 --rate 40000 dirty
}

# bats test_tags=slow
@test "memory: a tree of 50 processes" {
    each_strategy tree
}

# bats test_tags=slow
@test "memory: threads" {
    each_strategy threads
}

# bats test_tags=slow
@test "memory: copy on write after fork" {
    each_strategy cow
}

# bats test_tags=slow
@test "memory: fork storms" {
    each_strategy forkstorm
}

# bats test_tags=slow
@test "memory: another user" {
    each_strategy user
}

# bats test_tags=slow
@test "memory: no new privileges" {
    each_strategy privileges
}

# bats test_tags=slow
@test "memory: a seccomp filter that kills" {
    each_strategy seccomp
}

# bats test_tags=slow
@test "memory: random mmap, munmap, mremap, mprotect and madvise" {
    each_strategy remap
}

# bats test_tags=slow
@test "memory: memory unmapped and mapped again" {
    each_strategy reuse
}

# bats test_tags=slow
@test "memory: a growing heap" {
    each_strategy brk
}

# bats test_tags=slow
@test "memory: a growing stack" {
    each_strategy stack
}

# bats test_tags=slow
@test "memory: shared anonymous memory" {
    each_strategy shared
}

# bats test_tags=slow
@test "memory: memfd" {
    each_strategy memfd
}

# bats test_tags=slow
@test "memory: System V shared memory" {
    each_strategy sysv
}

# bats test_tags=slow
@test "memory: mapped files" {
    each_strategy files
}

# bats test_tags=slow
@test "memory: tmpfs and /dev/shm" {
    each_strategy tmpfs
}

# bats test_tags=slow
@test "memory: memory written by the kernel" {
    each_strategy kernel
}

# bats test_tags=slow
@test "memory: locked memory" {
    each_strategy mlock
}

# bats test_tags=slow
@test "memory: content behind PROT_NONE" {
    each_strategy protnone
}

# bats test_tags=slow
@test "memory: an idle container" {
    each_strategy --status-ms 1000 idle
}

# bats test_tags=slow
@test "memory: huge pages" {
    # Lent for this test: some 6 are mapped on one host while the other one restores as many.
    cat $huge_pages >"$FM_WORK/huge_pages"
    echo $(($(cat $huge_pages) + 24)) >$huge_pages || skip "this machine lends no huge pages"
    each_strategy hugetlb
}
