#!/usr/bin/env bats
# Large files that change a little all the time: only what changed travels in the freeze.
# shellcheck disable=SC2154 # variables of bats and of the library

load lib
load migrate

mib=256

setup_file()
{
    cluster_start 3 a b
    "$top/scripts/make-rootfs" busybox "$FM_WORK/root-files" "$FM_BUILD/tests/workloads/filecheck"
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    remove_everywhere files
}

# figure HOST NAME: of the last line of status.
figure()
{
    cluster_cli "$1" container logs files --tail 1 | sed -n "s/^status .*\b$2=\([0-9]*\).*/\1/p"
}

figure_passed()
{
    [ "$(figure "$1" "$2")" -gt "$3" ]
}

# assert_files_are_right HOST: all of both files was read and compared since now, and is written to.
assert_files_are_right()
{
    # shellcheck disable=SC2034  # of until_true
    local wait_seconds=60 rounds written
    until_true figure_passed "$1" written 0
    rounds=$(figure "$1" rounds) written=$(figure "$1" written)
    until_true figure_passed "$1" rounds $((rounds + 1)) || true
    ! cluster_cli "$1" container logs files | grep ^FAIL || return 1
    figure_passed "$1" rounds $((rounds + 1))
    figure_passed "$1" written "$written"
}

# Of the file bytes of the last migration, a tenth of one file at most lay in its freeze.
assert_little_in_the_freeze()
{
    local total last
    total=$(stat_of "$1" file_bytes) last=$(stat_of "$1" last_file_bytes)
    show "$2: $((total >> 20)) MiB in $(stat_of "$1" file_passes) passes, $((last >> 10)) KiB of it in the freeze"
    [ "$total" -gt $((2 * mib << 20)) ] || fail "only $total bytes of files have travelled"
    [ "$last" -gt 0 ] || fail "nothing was written in the end"
    [ "$last" -lt $(((mib << 20) / 10)) ] || fail "$last bytes of files travelled in the freeze"
}

@test "files: large ones that are rewritten in place, in a volume and in the writable layer" {
    on a mkdir -p /var/lib/volumes/files
    cluster_cli a -q run --name files --image "$FM_WORK/root-files" --volume /var/lib/volumes/files:/data \
        -- filecheck --mib $mib --rate 50 /data/db /root/db
    assert_files_are_right a
    hop a b files
    assert_little_in_the_freeze a "a -> b"
    assert_files_are_right b
    hop b a files
    assert_little_in_the_freeze b "b -> a"
    assert_files_are_right a
}
