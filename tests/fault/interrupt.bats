#!/usr/bin/env bats
# What is not a death: a wire that is cut, a daemon that stands still, a cancel; and a death on the way back.

# bats file_tags=slow

load faults

setup_file()
{
    faults_start
}

teardown_file()
{
    mend || true
    cluster_stop
}

teardown()
{
    faults_teardown
}

nobody_runs()
{
    [ "$(freezer_of "$source" redis)" = frozen ] || fail "it runs on the source"
    stands_still "$destination" redis || fail "it runs on the destination"
}

# final_on ROLE RESULT
final_on()
{
    cluster_cli "$(host_of "$1")" --json migration list | jq -e --arg result "$2" '.[0] | .final and .result == $result'
}

@test "the wire is cut in READY: the source rolls back, the destination learns of it when the wire is mended" {
    limits=(execution_timeout_ms=1500)
    begin_struck destination ready cut:wire@destination
    until_true final_on source failed
    assert_undisturbed
    ! final_on destination failed || fail "the destination has discarded on its own"
    mend
    ends stays
}

@test "the wire is cut before the commit is told: nobody runs until it is mended, then the destination does" {
    begin_struck source commit cut:wire@destination
    wait_seconds=40 until_true grep -q 'Commit of .* not acknowledged yet' "$FM_WORK/$source.log"
    nobody_runs
    mend
    ends moves
}

@test "the wire is cut when the destination has the commit: it runs, and the source learns of it later" {
    begin_struck destination run cut:wire@destination
    until_true eval '[ "$(status_on "$destination" redis)" = running ]'
    [ "$(freezer_of "$source" redis)" = frozen ]
    mend
    ends moves
}

@test "the wire is cut in PREPARATION and while the images travel" {
    limits=(preparation_timeout_ms=1500 execution_timeout_ms=1500)
    begin_struck destination stage-bundle cut:wire@destination
    until_true final_on source failed
    mend
    ends stays
    begin_struck source criu.network-lock cut:wire@destination
    until_true final_on source failed
    assert_client_served
    mend
    ends stays
}

@test "both daemons die while the wire is cut" {
    begin_struck source commit cut:wire@destination kill:daemon@destination kill:daemon@source
    revive_daemons
    nobody_runs
    mend
    ends moves
}

# stopped_until_rolled_back STEP
stopped_until_rolled_back()
{
    begin_struck source "$1" stop:daemon@destination
    until_true final_on source failed
    assert_undisturbed
    kill -CONT "$(daemon_pid "$destination")"
    ends stays
}

@test "the destination's daemon stands still: the source rolls back in time" {
    limits=(preparation_timeout_ms=1500 execution_timeout_ms=1500)
    stopped_until_rolled_back prepare
    stopped_until_rolled_back freeze
    stopped_until_rolled_back criu.post-dump # later it may be ready already, and then it moves
}

@test "the destination's daemon stands still after the decision: the commit waits for it" {
    begin_struck source commit stop:daemon@destination
    nobody_runs
    kill -CONT "$(daemon_pid "$destination")"
    ends moves
}

@test "the source's daemon stands still: nothing is decided meanwhile" {
    begin_struck source decide stop:daemon@source
    nobody_runs
    kill -CONT "$(daemon_pid "$source")"
    ends moves
}

@test "cancelled at each step" {
    each_case <<END
stays source prepare cancel:it@source
stays source hold cancel:it@source
stays source dump cancel:it@source
stays source arm cancel:it@source
stays source freeze cancel:it@source
stays source criu.network-lock cancel:it@source
stays source dumped cancel:it@source
stays source decide cancel:it@source
moves source commit cancel:it@source
moves source switch cancel:it@source
moves source clean-up cancel:it@source
END
}

# returns AT STEP WORD…: VERIFICATION fails on the destination, and the migration is struck on the way back.
returns()
{
    local good=/var/lib/shared/good
    remove_everywhere redis
    on a sh -c "mkdir -p /var/lib/shared; touch $good"
    on b sh -c "mkdir -p /var/lib/shared; rm -f $good"
    run_redis a redis "$ip" --volume /var/lib/shared:/shared:ro:shared --health 'cmd:test -e /shared/good'
    begin_struck "$@"
    revive_daemons
    settle
    assert_sound a
    on b touch "$good"
    ends stays
    remove_everywhere redis
}

@test "the source's daemon dies on the way back" {
    returns source return kill:daemon@source
}

@test "the destination's daemon dies on the way back" {
    returns source return kill:daemon@destination
}
