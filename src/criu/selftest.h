/* Self-test: does a dump with the page filter work on this host? */
#ifndef FM_CRIU_SELFTEST_H
#define FM_CRIU_SELFTEST_H

#define FM_SELFTEST_COMMAND "fleximigrate-selftest"

/* Dumps a child with `criu`, whose files go to `dir`. Returns an exit status; says on stderr what
 * is wrong. */
int fm_selftest(const char *criu, const char *dir);

#endif
