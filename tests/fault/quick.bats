#!/usr/bin/env bats
# One case of each kind; all of them are in kill.bats and interrupt.bats.

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

@test "killed before the decision: the container runs on where it was" {
    each_case <<END
stays source dumped kill:daemon@source
stays source criu.post-dump kill:interposer@source
stays destination ready kill:daemon@destination
stays source decide kill:daemon@destination kill:daemon@source
END
}

@test "killed after the decision: the container runs on the destination" {
    each_case <<END
moves source commit kill:daemon@source
moves source commit kill:daemon@destination kill:daemon@source
moves source commit kill:criu@destination
moves destination run kill:daemon@destination
moves destination criu.pre-resume kill:runc@destination
END
}

@test "cancelled with the container frozen" {
    each_case <<END
stays source dumped cancel:it@source
END
}
