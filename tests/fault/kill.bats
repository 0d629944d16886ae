#!/usr/bin/env bats
# kill -9 of each program at each journal step. A line is a case: where redis runs in the end, the side and the step at which
# it happens, and who is struck.

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

@test "the source's daemon dies at each step of the source" {
    each_case <<END
stays source prepare kill:daemon@source
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
