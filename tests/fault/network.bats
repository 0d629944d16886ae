#!/usr/bin/env bats
# kill -9 between any two steps of the network's part in a migration. redis is in a network of its own with IPv4 and
# IPv6, its port is published, and its client comes to that port on a third host, over the one connection that it
# began with. Afterwards every host is as the registry says, and the follower knows where redis is. A line is a case, as
# in kill.bats; network-* and hold-* are fault points of the kernel's part, follower.* phases of the command.

load faults
load network

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

@test "killed between two network steps: the hosts are as the registry says" {
    each_case <<END
stays destination network-stage kill:daemon@destination
stays source follow kill:daemon@source
moves destination network-activate kill:daemon@destination
moves source follower.switch kill:daemon@source
moves source switch kill:daemon@d
END
}

# bats test_tags=slow
@test "the source dies at each of its network steps" {
    each_case <<END
stays source hold kill:daemon@source
stays source hold-prepare kill:daemon@source
stays source follow kill:daemon@source
stays source follower.prepare kill:daemon@source
stays source hold-engage kill:daemon@source
moves source commit kill:daemon@source
moves source switch kill:daemon@source
moves source hold-forward kill:daemon@source
moves source follower.switch kill:daemon@source
moves source destroy kill:daemon@source
moves source clean-up kill:daemon@source
moves source follower.finish kill:daemon@source
END
}

# bats test_tags=slow
@test "the destination dies at each of its network steps" {
    each_case <<END
stays destination stage-network kill:daemon@destination
stays destination network-stage kill:daemon@destination
stays destination ready kill:daemon@destination
moves destination run kill:daemon@destination
moves destination release kill:daemon@destination
moves destination network-activate kill:daemon@destination
moves destination register kill:daemon@destination
END
}

# bats test_tags=slow
@test "the destination dies at the source's network steps" {
    each_case <<END
stays source hold kill:daemon@destination
stays source follow kill:daemon@destination
stays source follower.prepare kill:daemon@destination
stays source hold-engage kill:daemon@destination
moves source switch kill:daemon@destination
moves source hold-forward kill:daemon@destination
moves source follower.switch kill:daemon@destination
moves source follower.finish kill:daemon@destination
END
}

# bats test_tags=slow
@test "both die, or the source dies at the destination's network steps" {
    each_case <<END
stays destination network-stage kill:daemon@source
stays destination network-stage kill:daemon@source kill:daemon@destination
moves destination network-activate kill:daemon@source
moves destination network-activate kill:daemon@source kill:daemon@destination
moves source switch kill:daemon@source kill:daemon@destination
moves source follower.switch kill:daemon@source kill:daemon@destination
END
}

# bats test_tags=slow
@test "on the way back: the followers are undone all the same" {
    each_case <<END
stays source follower.undo also:step.dumped=fail kill:daemon@source
stays destination discard also:step.ready=fail kill:daemon@destination
END
}

# bats test_tags=slow
@test "a third host dies at the steps that it is told of, or not, and learns of them when it is back" {
    each_case <<END
moves source hold kill:daemon@d
moves source commit kill:daemon@d
moves source switch kill:daemon@d
moves source clean-up kill:daemon@d
moves destination network-activate kill:daemon@d
stays source dumped kill:daemon@d kill:daemon@source
END
}
