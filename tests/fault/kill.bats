#!/usr/bin/env bats
# kill -9 of each program at each journal step. A line is a case: where redis runs in the end, the side and the step at
# which it happens, and who is struck. A runtime, CRIU or interposer that is not in the list does not exist then.

# bats file_tags=slow

load faults

setup_file()
{
    faults_start
}

teardown_file()
{
    cluster_stop
}

teardown()
{
    faults_teardown
}

# Points that are passed on the way back only, or by no migration of these (step.follow: network.bats).
elsewhere=(step.return step.relay step.lease step.follow step.throttle criu.held criu.request criu.result criu.other criu.pre-dump criu.query-ext-files)

@test "somebody dies at each fault point" {
    local point step
    for point in $("$FM_BUILD/src/daemon/fleximigrated" --fault-points); do
        step=${point#step.}
        [[ " ${elsewhere[*]} " == *" $point "* ]] ||
            grep -Eq "^(stays|moves)~? (source|destination) ${step//./\\.} .*kill:" "$BATS_TEST_FILENAME" ||
            fail "nobody dies at $point"
    done
}

@test "the source's daemon dies at each step of the source" {
    each_case <<END
stays source prepare kill:daemon@source
stays source rounds kill:daemon@source
stays source hold kill:daemon@source
stays source dump kill:daemon@source
stays source arm kill:daemon@source
stays source freeze kill:daemon@source
stays source dumped kill:daemon@source
stays source decide kill:daemon@source
moves source commit kill:daemon@source
moves source switch kill:daemon@source
moves source destroy kill:daemon@source
moves source clean-up kill:daemon@source
END
}

@test "the destination's daemon dies at each step of the destination" {
    each_case <<END
stays destination reserve kill:daemon@destination
stays destination stage-network kill:daemon@destination
stays destination stage-layer kill:daemon@destination
stays destination stage-bundle kill:daemon@destination
stays destination stage-volume kill:daemon@destination
stays destination stage-pages kill:daemon@destination
stays destination pager kill:daemon@destination
stays destination restore kill:daemon@destination
stays destination ready kill:daemon@destination
moves destination run kill:daemon@destination
moves destination release kill:daemon@destination
moves destination register kill:daemon@destination
stays destination discard also:step.ready=fail kill:daemon@destination
END
}

@test "the destination's daemon dies at each step of the source" {
    each_case <<END
stays source prepare kill:daemon@destination
stays source hold kill:daemon@destination
stays source dump kill:daemon@destination
stays source arm kill:daemon@destination
stays source freeze kill:daemon@destination
either source dumped kill:daemon@destination
moves source decide kill:daemon@destination
moves source commit kill:daemon@destination
moves source switch kill:daemon@destination
moves source destroy kill:daemon@destination
moves source clean-up kill:daemon@destination
END
}

@test "the source's daemon dies at each step of the destination" {
    each_case <<END
stays destination reserve kill:daemon@source
stays destination stage-network kill:daemon@source
stays destination stage-layer kill:daemon@source
stays destination stage-bundle kill:daemon@source
stays destination restore kill:daemon@source
stays destination ready kill:daemon@source
moves destination run kill:daemon@source
moves destination release kill:daemon@source
moves destination register kill:daemon@source
END
}

@test "both daemons die at once" {
    each_case <<END
stays source prepare kill:daemon@destination kill:daemon@source
stays source freeze kill:daemon@destination kill:daemon@source
either source dumped kill:daemon@destination kill:daemon@source
stays source decide kill:daemon@destination kill:daemon@source
moves source commit kill:daemon@destination kill:daemon@source
moves source switch kill:daemon@destination kill:daemon@source
moves source destroy kill:daemon@destination kill:daemon@source
stays destination ready kill:daemon@source kill:daemon@destination
moves destination run kill:daemon@source kill:daemon@destination
moves destination release kill:daemon@source kill:daemon@destination
END
}

@test "the source's runc dies" {
    each_case <<END
stays source arm kill:runc@source
stays source freeze kill:runc@source
moves source dumped kill:runc@source
moves source decide kill:runc@source
moves source commit kill:runc@source
moves source switch kill:runc@source
moves source destroy kill:runc@source
moves destination ready kill:runc@source
moves destination run kill:runc@source
moves destination release kill:runc@source
END
}

@test "the source's interposer dies" {
    each_case <<END
stays source arm kill:interposer@source
stays source freeze kill:interposer@source
moves source dumped kill:interposer@source
moves source decide kill:interposer@source
moves source commit kill:interposer@source
moves source switch kill:interposer@source
moves source destroy kill:interposer@source
moves destination ready kill:interposer@source
moves destination run kill:interposer@source
moves destination release kill:interposer@source
END
}

@test "the source's CRIU dies" {
    each_case <<END
moves source dumped kill:criu@source
moves source decide kill:criu@source
moves source commit kill:criu@source
moves source switch kill:criu@source
moves source destroy kill:criu@source
moves destination ready kill:criu@source
moves destination run kill:criu@source
moves destination release kill:criu@source
END
}

@test "the destination's runc dies" {
    each_case <<END
stays source freeze kill:runc@destination
either source dumped kill:runc@destination
moves source decide kill:runc@destination
moves source commit kill:runc@destination
moves destination ready kill:runc@destination
moves destination run kill:runc@destination
moves destination release kill:runc@destination
END
}

@test "the destination's interposer dies" {
    each_case <<END
stays source freeze kill:interposer@destination
either source dumped kill:interposer@destination
moves source decide kill:interposer@destination
moves source commit kill:interposer@destination
moves destination ready kill:interposer@destination
moves destination run kill:interposer@destination
moves destination release kill:interposer@destination
END
}

@test "the destination's CRIU dies" {
    each_case <<END
moves source decide kill:criu@destination
moves source commit kill:criu@destination
moves destination ready kill:criu@destination
moves destination run kill:criu@destination
moves destination release kill:criu@destination
END
}

@test "the source's programs die while CRIU dumps" {
    each_case <<END
stays source criu.network-lock kill:daemon@source
stays source criu.network-lock kill:runc@source
stays source criu.network-lock kill:interposer@source
stays source criu.network-lock kill:criu@source
stays source criu.network-lock kill:daemon@destination
stays source criu.post-dump kill:daemon@source
stays source criu.post-dump kill:runc@source
stays source criu.post-dump kill:interposer@source
stays~ source criu.post-dump kill:criu@source
stays source criu.post-dump kill:daemon@destination
END
}

@test "the destination's programs die while CRIU restores" {
    each_case <<END
stays destination criu.pre-restore kill:daemon@destination
stays destination criu.pre-restore kill:runc@destination
stays destination criu.pre-restore kill:interposer@destination
stays destination criu.pre-restore kill:criu@destination
stays destination criu.setup-namespaces kill:criu@destination
stays destination criu.post-setup-namespaces kill:criu@destination
stays destination criu.post-restore kill:daemon@destination
moves destination criu.post-restore kill:runc@destination
moves destination criu.post-restore kill:interposer@destination
moves destination criu.post-restore kill:criu@destination
END
}

@test "the destination's programs die while the tasks are let go" {
    each_case <<END
moves destination criu.network-unlock kill:daemon@destination
moves destination criu.network-unlock kill:runc@destination
moves destination criu.network-unlock kill:interposer@destination
moves destination criu.network-unlock kill:criu@destination
moves destination criu.pre-resume kill:daemon@destination
moves destination criu.pre-resume kill:runc@destination
moves destination criu.pre-resume kill:interposer@destination
moves destination criu.pre-resume kill:criu@destination
moves destination criu.post-resume kill:daemon@destination
moves destination criu.post-resume kill:runc@destination
moves destination criu.post-resume kill:interposer@destination
moves destination criu.post-resume kill:criu@destination
END
}

@test "the container's shim dies" {
    each_case <<END
moves source prepare kill:shim@source
moves source dumped kill:shim@source
moves destination ready kill:shim@destination
moves destination release kill:shim@destination
END
}

@test "everything of the source dies but the container" {
    each_case <<END
stays source freeze kill:runc@source kill:interposer@source kill:daemon@source
stays source dumped kill:criu@source kill:interposer@source kill:runc@source kill:daemon@source
stays source decide kill:criu@source kill:interposer@source kill:runc@source kill:daemon@source
moves source commit kill:criu@source kill:interposer@source kill:runc@source kill:daemon@source
END
}

@test "everything of the destination dies" {
    each_case <<END
stays destination ready kill:criu@destination kill:interposer@destination kill:runc@destination kill:daemon@destination
moves destination run kill:criu@destination kill:interposer@destination kill:runc@destination kill:daemon@destination
moves destination release kill:criu@destination kill:interposer@destination kill:runc@destination kill:daemon@destination
END
}
