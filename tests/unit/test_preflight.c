#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "migration/preflight.h"

/* ---- two hosts and a container that fit ---- */

struct move {
    struct fm_container container;
    json_t *needs, *source, *destination, *state;
};

static json_t *load(const char *text)
{
    json_error_t error;
    json_t *doc = json_loads(text, 0, &error);

    if (!doc)
        fail_msg("%s at column %d", error.text, error.column);
    return doc;
}

static json_t *host(const char *name)
{
    json_t *doc = load(
        "{\"arch\":\"x86_64\",\"kernel\":\"6.1.0-18-amd64\",\"cpu\":{\"flags\":[\"fpu\",\"sse2\","
        "\"avx2\",\"constant_tsc\",\"vmx\"],\"xsave_bytes\":832,\"xfeatures\":7,\"model\":\"x\"},"
        "\"criu\":{\"version\":\"4.1.1\",\"check\":\"ok\"},\"runtime\":{\"name\":\"runc\","
        "\"version\":\"1.1.5\"},\"lsm\":[\"capability\",\"apparmor\"],\"apparmor_profiles\":["
        "\"web\"]"
        ",\"cgroup\":\"v2\",\"time_ns\":true,\"memory_bytes\":8589934592,"
        "\"memory_available\":1073741824,\"disk_free\":10737418240,\"hugepages_free_bytes\":0}");

    json_object_set_new(doc, "name", json_string(name));
    return doc;
}

static struct move fitting(void)
{
    static char name[] = "redis", ip[] = "10.88.0.5/24", runtime[] = "runc";

    return (struct move){
        .container = {.name = name, .ip = ip, .runtime = runtime},
        .needs = load("{\"memory_bytes\":67108864,\"disk_bytes\":1048576,\"hugepages_bytes\":0,"
                      "\"lsm\":\"\",\"lsm_profile\":\"\",\"mounts\":[],\"devices\":[],"
                      "\"obstacles\":[],\"time_ns\":false}"),
        .source = host("host-a"),
        .destination = host("host-b"),
        .state = load("{\"container_exists\":false,\"address_in_use\":false,\"cordoned\":false,"
                      "\"missing_sources\":[],\"missing_devices\":[]}"),
    };
}

static void move_free(struct move *m)
{
    json_decref(m->needs);
    json_decref(m->source);
    json_decref(m->destination);
    json_decref(m->state);
}

static json_t *compare(const struct move *m)
{
    return fm_preflight_compare(&m->container, m->needs, m->source, m->destination, m->state);
}

/* The first finding of a check that is not ok. */
static const json_t *failure_of(const json_t *result, const char *check)
{
    const json_t *finding;
    size_t i;

    json_array_foreach(json_object_get(result, "findings"), i, finding)
    {
        if (!json_is_true(json_object_get(finding, "ok")) &&
            fm_streq(json_string_value(json_object_get(finding, "check")), check))
            return finding;
    }
    return NULL;
}

static size_t failures_in(const json_t *result)
{
    const json_t *finding;
    size_t count = 0;
    size_t i;

    json_array_foreach(json_object_get(result, "findings"), i, finding) count +=
        !json_is_true(json_object_get(finding, "ok"));
    return count;
}

/* ---- comparison ---- */

static void hosts_that_fit_pass_every_check(void **state)
{
    static const char *const checks[] = {
        "policy", "name",         "address",    "architecture", "cpu-features", "cpu-xsave",
        "kernel", "criu-version", "criu-check", "runtime",      "lsm",          "cgroup",
        "clocks", "memory",       "disk",       "mounts",       "devices",      "checkpoint"};
    struct move m = fitting();
    struct fm_error err = {0};

    (void)state;
    json_auto_t *result = compare(&m);
    fm_autofree char *dump = json_dumps(result, 0);
    assert_true(json_is_true(json_object_get(result, "ok")));
    assert_int_equal(failures_in(result), 0);
    for (size_t i = 0; i < FM_COUNT(checks); i++) {
        fm_autofree char *word = fm_strf("\"%s\"", checks[i]);

        if (!strstr(dump, word))
            fail_msg("%s was not checked", checks[i]);
    }
    assert_int_equal(fm_preflight_verdict(result, &err), 0);
    move_free(&m);
}

/* One change to what fits, and the one finding that must follow from it. */
static const struct difference {
    const char *to;    /* which document */
    const char *patch; /* merged into it */
    const char *check, *severity, *message;
} differences[] = {
    {"destination", "{\"arch\":\"aarch64\"}", "architecture", "error", "host-b is aarch64"},
    {"source", "{\"cpu\":{\"flags\":[\"avx2\",\"avx512f\"]}}", "cpu-features", "error", "avx512f"},
    {"source", "{\"cpu\":{\"flags\":[\"amx_future\"]}}", "cpu-features", "error", "amx_future"},
    {"source", "{\"cpu\":{\"xsave_bytes\":2440}}", "cpu-xsave", "error", "2440 bytes"},
    {"source", "{\"cpu\":{\"xfeatures\":231}}", "cpu-xsave", "error", "0xe0"},
    {"destination", "{\"cpu\":{\"xsave_bytes\":2440}}", "cpu-xsave", "warning", "2440"},
    {"destination", "{\"kernel\":\"5.15.0\"}", "kernel", "warning", "5.15.0"},
    {"destination", "{\"criu\":{\"version\":\"3.17.1\"}}", "criu-version", "error",
     "CRIU 3.17.1 on host-b"},
    {"source", "{\"criu\":{\"version\":\"4.0\"}}", "criu-version", "error", "CRIU 4.0 on host-a"},
    {"destination", "{\"criu\":{\"version\":\"\",\"check\":\"no such program\"}}", "criu-version",
     "error", "no such program"},
    {"destination", "{\"criu\":{\"check\":\"kernel lacks x\"}}", "criu-check", "error",
     "kernel lacks x"},
    {"destination", "{\"runtime\":{\"version\":\"\"}}", "runtime", "error",
     "runc does not run on host-b"},
    {"destination", "{\"runtime\":{\"version\":\"1.2.0\"}}", "runtime", "warning", "runc 1.2.0"},
    {"needs", "{\"lsm\":\"selinux\",\"lsm_profile\":\"a:b:c\"}", "lsm", "error", "no selinux"},
    {"needs", "{\"lsm\":\"apparmor\",\"lsm_profile\":\"db\"}", "lsm", "error",
     "'db' of the container is not loaded"},
    {"destination", "{\"cgroup\":\"hybrid\"}", "cgroup", "warning", "hybrid"},
    {"destination", "{\"time_ns\":false}", "clocks", "error", "clock would jump"},
    {"destination", "{\"memory_available\":67108864}", "memory", "error",
     "host-b has 64.0 MiB free memory, 'redis' needs 67.2 MiB"},
    {"needs", "{\"hugepages_bytes\":2097152}", "hugepages", "error", "uses 2.0 MiB"},
    {"destination", "{\"disk_free\":68157440}", "disk", "error",
     "needs 68.2 MiB (layers 0 B, files 1.0 MiB, checkpoint 67.2 MiB)"},
    {"needs", "{\"layer_bytes\":1125899906842624}", "disk", "error", "(layers 1.0 PiB, "},
    {"state", "{\"container_exists\":true}", "name", "error", "a container 'redis' already"},
    {"state", "{\"address_in_use\":true}", "address", "error", "10.88.0.5/24 is in use"},
    {"state", "{\"cordoned\":true}", "policy", "error", "host 'host-b' is cordoned"},
    {"state", "{\"missing_sources\":[\"/srv/data\"]}", "mounts", "error", "no '/srv/data'"},
    {"state", "{\"missing_devices\":[\"/dev/fuse\"]}", "devices", "error", "no device '/dev/fuse'"},
    {"needs",
     "{\"obstacles\":[{\"check\":\"io-uring\",\"severity\":\"error\",\"message\":\"ring\","
     "\"cure\":\"off\"}]}",
     "io-uring", "error", "ring"},
    {"needs",
     "{\"obstacles\":[{\"check\":\"exec\",\"severity\":\"warning\",\"message\":\"sh\","
     "\"cure\":\"wait\"}]}",
     "exec", "warning", "sh"},
};

static void apply(struct move *m, const struct difference *d)
{
    json_t *documents[] = {m->needs, m->source, m->destination, m->state};
    static const char *const names[] = {"needs", "source", "destination", "state"};
    json_auto_t *patch = load(d->patch);

    for (size_t i = 0; i < FM_COUNT(names); i++) {
        if (fm_streq(names[i], d->to))
            json_object_update_recursive(documents[i], patch);
    }
}

static void each_difference_is_found_alone_and_names_its_cure(void **state)
{
    (void)state;
    for (size_t i = 0; i < FM_COUNT(differences); i++) {
        const struct difference *d = &differences[i];
        bool stops = fm_streq(d->severity, "error");
        struct move m = fitting();
        struct fm_error err = {0};
        const json_t *finding;

        apply(&m, d);
        json_auto_t *result = compare(&m);
        finding = failure_of(result, d->check);
        if (!finding || failures_in(result) != 1)
            fail_msg("%s: found %zu failures, not this one", d->check, failures_in(result));
        assert_string_equal(json_string_value(json_object_get(finding, "severity")), d->severity);
        if (!strstr(json_string_value(json_object_get(finding, "message")), d->message))
            fail_msg("'%s' is not in '%s'", d->message,
                     json_string_value(json_object_get(finding, "message")));
        assert_true(strlen(json_string_value(json_object_get(finding, "cure"))) > 0);
        assert_int_equal(json_is_true(json_object_get(result, "ok")), !stops);
        assert_int_equal(fm_preflight_verdict(result, &err), stops ? -FM_E_REFUSED : 0);
        move_free(&m);
    }
}

static void what_only_the_kernel_uses_is_not_compared(void **state)
{
    struct move m = fitting();

    (void)state;
    json_object_set_new(json_object_get(m.destination, "cpu"), "flags",
                        load("[\"fpu\",\"sse2\",\"avx2\"]"));
    json_auto_t *result = compare(&m);
    assert_int_equal(failures_in(result), 0);
    json_object_set_new(m.source, "arch", json_string("aarch64"));
    json_object_set_new(m.destination, "arch", json_string("aarch64"));
    json_auto_t *strict = compare(&m); /* elsewhere every flag is one of the user's */
    assert_non_null(failure_of(strict, "cpu-features"));
    move_free(&m);
}

static void the_verdict_is_the_first_error_with_its_cure(void **state)
{
    struct move m = fitting();
    struct fm_error err = {0};

    (void)state;
    json_object_set_new(m.destination, "kernel", json_string("5.4.0"));
    json_object_set_new(m.destination, "memory_available", json_integer(0));
    json_object_set_new(m.state, "cordoned", json_true());
    json_auto_t *result = compare(&m);
    assert_int_equal(failures_in(result), 3);
    assert_int_equal(fm_preflight_verdict(result, &err), -FM_E_REFUSED);
    assert_string_equal(err.text, "host 'host-b' is cordoned and takes no containers; run "
                                  "`fleximigrate host uncordon host-b`");
    move_free(&m);
}

static void empty_or_absurd_facts_of_a_peer_never_pass(void **state)
{
    static const char *const peers[] = {"{}", "[]", "{\"cpu\":7,\"criu\":[],\"arch\":null}",
                                        "{\"memory_available\":-5,\"arch\":\"x86_64\"}"};
    struct fm_error err = {0};

    (void)state;
    for (size_t i = 0; i < FM_COUNT(peers); i++) {
        struct move m = fitting();

        json_decref(m.destination);
        m.destination = load(peers[i]);
        json_auto_t *result = compare(&m);
        assert_int_equal(fm_preflight_verdict(result, &err), -FM_E_REFUSED);
        move_free(&m);
    }
    json_auto_t *nothing = json_object();
    assert_int_equal(fm_preflight_verdict(nothing, &err), -FM_E_REFUSED);
    assert_int_equal(fm_preflight_verdict(NULL, &err), -FM_E_REFUSED);
}

/* ---- on the destination ---- */

static void the_destination_looks_for_sources_and_devices(void **state)
{
    static char name[] = "redis";
    struct fm_container container = {.name = name};

    (void)state;
    json_auto_t *needs =
        load("{\"mounts\":[{\"source\":\"/proc\",\"copied\":false},{\"source\":\"/not/there\","
             "\"copied\":false},{\"source\":\"/not/there/too\",\"copied\":true},7],\"devices\":[{"
             "\"path\":\"/not/null\",\"type\":\"c\",\"major\":1,\"minor\":3},{\"path\":\"/dev/"
             "strange\",\"type\":\"c\",\"major\":4000,\"minor\":1},{\"path\":\"/x\",\"type\":\"p\"}"
             "]}");
    json_auto_t *doc = fm_preflight_destination_state(&container, needs, true, false, true);
    json_auto_t *expected =
        load("{\"container\":\"redis\",\"container_exists\":true,\"address_in_use\":false,"
             "\"cordoned\":true,\"missing_sources\":[\"/not/there\"],"
             "\"missing_devices\":[\"/dev/strange\"]}");
    assert_true(json_equal(doc, expected));
}

/* ---- facts of this host ---- */

static char scratch[] = "/tmp/fm-test-preflight.XXXXXX";

static int make_scratch(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state)
{
    (void)state;
    return fm_remove_tree(scratch, NULL);
}

/* A program that counts how often it is asked. */
static char *make_program(const char *name, const char *version, const char *check)
{
    char *path = fm_strf("%s/%s", scratch, name);
    fm_autofree char *text = fm_strf("#!/bin/sh\n"
                                     "echo >>%s/%s.asked\n"
                                     "case $1 in\n--version) echo '%s' ;;\ncheck) %s ;;\nesac\n",
                                     scratch, name, version, check);

    assert_int_equal(fm_file_write(path, text, strlen(text), 0755, NULL), 0);
    return path;
}

static size_t times_asked(const char *name)
{
    fm_autofree char *path = fm_strf("%s/%s.asked", scratch, name);
    struct stat st;

    return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

static json_t *facts_with(const char *criu, const char *runc)
{
    struct fm_error err = {0};
    json_t *facts = fm_facts_host(criu, runc, "/tmp/not/there/yet", &err);

    if (!facts)
        fail_msg("%s", err.text);
    return facts;
}

static const char *fact(const json_t *facts, const char *section, const char *key)
{
    return json_string_value(json_object_get(json_object_get(facts, section), key));
}

static void this_host_has_all_its_facts(void **state)
{
    fm_autofree char *criu = make_program("criu", "Version: 4.1.1", "echo Looks good.");
    fm_autofree char *runc = make_program("runc", "runc version 1.1.5+ds1", "");
    const json_t *cpu;

    (void)state;
    json_auto_t *facts = facts_with(criu, runc);
    cpu = json_object_get(facts, "cpu");
    assert_string_equal(fact(facts, "criu", "version"), "4.1.1");
    assert_string_equal(fact(facts, "criu", "check"), "ok");
    assert_string_equal(fact(facts, "runtime", "name"), "runc");
    assert_string_equal(fact(facts, "runtime", "version"), "1.1.5+ds1");
    assert_true(json_array_size(json_object_get(cpu, "flags")) > 0);
#ifdef __x86_64__
    /* 512 bytes of legacy state, 64 of header; x87 and SSE are always on */
    assert_true(json_integer_value(json_object_get(cpu, "xsave_bytes")) >= 576);
    assert_int_equal(json_integer_value(json_object_get(cpu, "xfeatures")) & 3, 3);
#endif
    assert_true(json_integer_value(json_object_get(facts, "memory_available")) > 0);
    assert_true(fm_facts_memory_available() > 0);
    assert_true(json_integer_value(json_object_get(facts, "disk_free")) > 0);
    assert_true(json_is_array(json_object_get(facts, "lsm")));
    assert_non_null(json_string_value(json_object_get(facts, "cgroup")));
    assert_true(json_is_boolean(json_object_get(facts, "time_ns")));
}

static void a_good_answer_is_remembered_a_bad_one_is_asked_again(void **state)
{
    fm_autofree char *good = make_program("good", "Version: 4.1.1", "exit 0");
    fm_autofree char *runc = make_program("runc2", "runc version 1.1.5", "");
    fm_autofree char *bad = make_program(
        "bad", "Version: 4.2", "echo 'Error (criu/x.c:1): no timens' >&2; echo more >&2; exit 1");

    (void)state;
    for (int i = 0; i < 3; i++)
        json_decref(facts_with(good, runc));
    assert_int_equal(times_asked("good"), 2);
    assert_int_equal(times_asked("runc2"), 1);

    json_auto_t *facts = facts_with(bad, runc);
    assert_string_equal(fact(facts, "criu", "check"), "Error (criu/x.c:1): no timens");
    json_decref(facts_with(bad, runc));
    assert_int_equal(times_asked("bad"), 4);
}

static void a_missing_program_is_told(void **state)
{
    fm_autofree char *nowhere = fm_strf("%s/nowhere", scratch);

    (void)state;
    json_auto_t *facts = facts_with(nowhere, nowhere);
    assert_string_equal(fact(facts, "criu", "version"), "");
    assert_non_null(strstr(fact(facts, "criu", "check"), "nowhere"));
    assert_string_equal(fact(facts, "runtime", "version"), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hosts_that_fit_pass_every_check),
        cmocka_unit_test(each_difference_is_found_alone_and_names_its_cure),
        cmocka_unit_test(what_only_the_kernel_uses_is_not_compared),
        cmocka_unit_test(the_verdict_is_the_first_error_with_its_cure),
        cmocka_unit_test(empty_or_absurd_facts_of_a_peer_never_pass),
        cmocka_unit_test(the_destination_looks_for_sources_and_devices),
        cmocka_unit_test(this_host_has_all_its_facts),
        cmocka_unit_test(a_good_answer_is_remembered_a_bad_one_is_asked_again),
        cmocka_unit_test(a_missing_program_is_told),
    };

    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
