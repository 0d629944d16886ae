load faults
setup_file() { faults_start; }
teardown_file() { cluster_stop; }
teardown() { faults_teardown; }
@test "one" { each_case <<END
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
stays source freeze kill:daemon@destination
END
}
