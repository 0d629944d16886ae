/* Container records, their short forms, the OCI configuration, what logs say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "container/bundle.h"
#include "container/check.h"
#include "container/container.h"
#include "container/oci_config.h"
#include "container/runc_job.h"

#define LAYER "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct fm_error err;

static json_t *good_record(void)
{
    return json_pack(
        "{s:s, s:s, s:b, s:s, s:[s], s:[s,s], s:[s], s:s, s:s, s:I, s:s, s:s, s:s,"
        " s:s, s:s, s:s, s:[s, s], s:[{s:s, s:s, s:b, s:b}], s:{s:s, s:s, s:i, s:i, "
        "s:i}, s:[s], s:{s:s}, s:{s:s}, s:I}",
        "name", "web-1", "runtime", "runc", "found", 0, "image", "nginx", "layers", LAYER,
        "command", "/bin/sh", "-c", "env", "A=b=c", "cwd", "/srv", "user", "33:34", "memory_bytes",
        (json_int_t)1 << 30, "ip", "10.88.0.5/24", "mac", "02:42:0a:58:00:05", "gateway",
        "10.88.0.1", "network", "shop", "ip6", "fd00:88::5/64", "gateway6", "fd00:88::1", "publish",
        "8080:80/tcp", "53:53/udp", "volumes", "source", "/srv/data", "target", "/data",
        "read_only", 1, "shared", 0, "health", "kind", "tcp", "target", ":80", "attempts", 5,
        "interval_ms", 100, "timeout_ms", 50, "depends", "tcp://10.88.0.9:5432,500ms", "labels",
        "tier", "front", "config", "ociVersion", "1.0.2", "created_us", (json_int_t)12345);
}

static void test_round_trip(void **state)
{
    json_auto_t *doc = good_record();
    (void)state;

    fm_autocontainer struct fm_container *c = fm_container_from_json(doc, &err);
    assert_non_null(c);
    assert_string_equal(c->name, "web-1");
    assert_int_equal(c->layers.count, 1);
    assert_string_equal(c->env.items[0], "A=b=c");
    assert_int_equal(c->memory_bytes, 1 << 30);
    assert_true(c->volumes[0].read_only);
    assert_false(c->volumes[0].shared);
    assert_int_equal(c->health.attempts, 5);
    assert_string_equal(c->depends.items[0], "tcp://10.88.0.9:5432,500ms");
    json_auto_t *again = fm_container_to_json(c);
    assert_true(json_equal(doc, again));
}

static void test_minimal(void **state)
{
    json_auto_t *doc = json_pack("{s:s, s:n, s:n}", "name", "a", "volumes", "ip");
    (void)state;

    fm_autocontainer struct fm_container *c = fm_container_from_json(doc, &err);
    assert_non_null(c);
    assert_string_equal(c->runtime, "runc");
    assert_null(c->ip);
    assert_null(c->health.kind);
    assert_int_equal(json_object_size(c->labels), 0);
}

/* Each replaces one field of a good record; all must be refused in one line that names the field.
 */
static void test_hostile(void **state)
{
    static const struct {
        const char *key;
        const char *json;
    } cases[] = {
        {"name", "null"},
        {"name", "17"},
        {"name", "\"\""},
        {"name", "\"../../etc\""},
        {"name", "\"a/b\""},
        {"name", "\"-rf\""},
        {"name", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""},
        {"runtime", "\"/bin/sh\""},
        {"found", "\"yes\""},
        {"image", "\"a\\nb\""},
        {"layers", "\"x\""},
        {"layers", "[\"sha256:../../../../etc/passwd\"]"},
        {"layers", "[\"sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef\"]"},
        {"layers", "[1]"},
        {"command", "{}"},
        {"command", "[null]"},
        {"env", "[\"NOVALUE\"]"},
        {"env", "[\"=x\"]"},
        {"cwd", "\"srv\""},
        {"cwd", "\"/srv/../etc\""},
        {"user", "\"root\""},
        {"user", "\"0:0:0\""},
        {"user", "\"-1\""},
        {"user", "\"4294967295\""},
        {"memory_bytes", "-1"},
        {"memory_bytes", "1.5"},
        {"memory_bytes", "\"1G\""},
        {"ip", "\"10.88.0.5\""},
        {"ip", "\"10.88.0.5/33\""},
        {"ip", "\"10.88.0.256/24\""},
        {"ip", "\"10.88.0.5/24; reboot\""},
        {"mac", "\"03:42:0a:58:00:05\""}, /* multicast */
        {"mac", "\"02:42:0a:58:00\""},
        {"mac", "\"02-42-0a-58-00-05\""},
        {"gateway", "\"10.88.0.1/24\""},
        {"gateway6", "\"10.88.0.1\""},
        {"network", "7"},
        {"network", "\"a b\""},
        {"network", "\"a-name-of-thirty-two-characters-is\""},
        {"ip6", "\"10.88.0.6/24\""},
        {"ip6", "\"fd00::5\""},
        {"publish", "\"80:80\""},
        {"publish", "[80]"},
        {"publish", "[\"80\"]"},
        {"publish", "[\"80:\"]"},
        {"publish", "[\"0:80\"]"},
        {"publish", "[\"65536:80\"]"},
        {"publish", "[\"80:80/sctp\"]"},
        {"publish", "[\"80:80/tcp/udp\"]"},
        {"publish", "[\"80:80:80\"]"},
        {"publish", "[\"80:81\",\"80:82/tcp\"]"},
        {"volumes", "{}"},
        {"volumes", "[1]"},
        {"volumes", "[{\"target\":\"/x\"}]"},
        {"volumes", "[{\"source\":\"/x\"}]"},
        {"volumes", "[{\"source\":\"/x\",\"target\":\"/\"}]"},
        {"volumes", "[{\"source\":\"/x\",\"target\":\"/a/../b\"}]"},
        {"volumes", "[{\"source\":\"x\",\"target\":\"/b\"}]"},
        {"volumes", "[{\"source\":\"/x\",\"target\":\"/b\",\"shared\":1}]"},
        {"health", "[]"},
        {"health", "{\"kind\":\"icmp\",\"target\":\"x\"}"},
        {"health", "{\"kind\":\"tcp\"}"},
        {"health", "{\"kind\":\"tcp\",\"target\":\":1\",\"attempts\":0}"},
        {"health", "{\"kind\":\"tcp\",\"target\":\":1\",\"timeout_ms\":99999999999}"},
        {"depends", "\"tcp://10.88.0.9:5432\""},
        {"depends", "[1]"},
        {"depends", "[\"\"]"},
        {"depends", "[\"10.88.0.9:5432\"]"},
        {"depends", "[\"file:///etc/passwd\"]"},
        {"depends", "[\"tcp://\"]"},
        {"depends", "[\"http://10.88.0.9/a\\nb\"]"},
        {"depends", "[\"http://10.88.0.9/a b\"]"},
        {"labels", "{\"a\":1}"},
        {"labels", "[]"},
        {"config", "[]"},
        {"config", "\"{}\""},
        {"created_us", "-5"},
    };
    (void)state;

    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        json_auto_t *doc = good_record();

        json_object_set_new(doc, cases[i].key, json_loads(cases[i].json, JSON_DECODE_ANY, NULL));
        assert_non_null(json_object_get(doc, cases[i].key));
        err = (struct fm_error){0};
        fm_autocontainer struct fm_container *c = fm_container_from_json(doc, &err);
        if (c)
            fail_msg("%s = %s was taken", cases[i].key, cases[i].json);
        assert_int_equal(err.code, FM_E_INVALID);
        assert_non_null(strstr(err.text, "container record: "));
        assert_null(strchr(err.text, '\n'));
    }
    assert_null(fm_container_from_json(NULL, &err));
    json_auto_t *list = json_array();
    assert_null(fm_container_from_json(list, &err));
}

static void test_too_many(void **state)
{
    static const struct {
        const char *key, *item;
        int count;
    } cases[] = {
        {"layers", "\"" LAYER "\"", 129},
        {"command", "\"x\"", 4097},
        {"volumes", "{\"source\":\"/x\",\"target\":\"/b\"}", 65},
        {"depends", "\"tcp://10.88.0.9:1\"", 17},
    };
    (void)state;

    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        json_auto_t *doc = good_record();
        json_t *list = json_array();

        for (int n = 0; n < cases[i].count; n++)
            json_array_append_new(list, json_loads(cases[i].item, JSON_DECODE_ANY, NULL));
        json_object_set_new(doc, cases[i].key, list);
        assert_null(fm_container_from_json(doc, &err));
    }

    /* One argument longer than execve takes. */
    json_auto_t *doc = good_record();
    fm_autofree char *huge = fm_xmalloc((128 << 10) + 1);
    memset(huge, 'x', 128 << 10);
    huge[128 << 10] = '\0';
    json_object_set_new(doc, "command", json_pack("[s]", huge));
    assert_null(fm_container_from_json(doc, &err));
}

static void test_health(void **state)
{
    static const struct {
        const char *text, *kind, *target;
    } good[] = {
        {"http://:8080/healthz", "http", "http://:8080/healthz"},
        {"http://10.0.0.1:80", "http", "http://10.0.0.1:80"},
        {"tcp://:6379", "tcp", ":6379"},
        {"tcp://10.88.0.5:6379", "tcp", "10.88.0.5:6379"},
        {"cmd:redis-cli ping", "command", "redis-cli ping"},
        {"cmd: true", "command", "true"},
    };
    static const char *const bad[] = {"",
                                      "http",
                                      "http://",
                                      "http://host/x",
                                      "tcp://:0",
                                      "tcp://:x",
                                      "tcp://:65536",
                                      "cmd:",
                                      "cmd:  ",
                                      "icmp://:1",
                                      "tcp://:80/x",
                                      "https://:443/",
                                      "tcp://a b:1",
                                      "cmd:a\nb"};
    (void)state;

    for (size_t i = 0; i < FM_COUNT(good); i++) {
        struct fm_health h;

        assert_int_equal(fm_health_parse(good[i].text, &h, &err), 0);
        assert_string_equal(h.kind, good[i].kind);
        assert_string_equal(h.target, good[i].target);
        assert_int_equal(h.attempts, 3);
        assert_int_equal(h.interval_ms, 1000);
        assert_int_equal(h.timeout_ms, 2000);
        free(h.kind);
        free(h.target);
    }
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_health h;

        if (fm_health_parse(bad[i], &h, &err) != -FM_E_USAGE)
            fail_msg("'%s' was taken", bad[i]);
        assert_null(h.kind);
    }
}

static void test_publish(void **state)
{
    static const struct {
        const char *text, *full;
    } good[] = {
        {"8080:80", "8080:80/tcp"}, {"1:65535/udp", "1:65535/udp"}, {"80:80/tcp", "80:80/tcp"}};
    static const char *const bad[] = {"",
                                      "80",
                                      ":80",
                                      "80:",
                                      "0:80",
                                      "80:0",
                                      "80:80/",
                                      "80:80/TCP",
                                      "80:65536",
                                      "-1:80",
                                      "80:80:1",
                                      " 80:80",
                                      "80:80/tcp ",
                                      "a:b",
                                      "80:80/sctp",
                                      "80:80/udp/x",
                                      "8e1:80",
                                      "0x50:80",
                                      "1.2.3.4:80:80",
                                      "80::80",
                                      "80:99999999999999999999"};
    (void)state;

    for (size_t i = 0; i < FM_COUNT(good); i++) {
        struct fm_publish publish;

        assert_int_equal(fm_publish_parse(good[i].text, &publish, &err), 0);
        fm_autofree char *text = fm_publish_format(&publish);
        assert_string_equal(text, good[i].full);
    }
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_publish publish;

        if (fm_publish_parse(bad[i], &publish, &err) == 0)
            fail_msg("'%s' was taken", bad[i]);
        assert_int_equal(err.code, FM_E_USAGE);
    }
}

static void test_volume(void **state)
{
    static const char *const bad[] = {"",     "/a",       "/a:",       ":/b",      "a:/b",
                                      "/a:b", "/a:/b:rx", "/a:/b:",    "/a:/../b", "/a/./c:/b",
                                      "/a:/", "/a//b:/c", "/a:/b:ro:", "/a\n:/b"};
    struct fm_volume v;
    (void)state;

    assert_int_equal(fm_volume_parse("/srv/data:/data", &v, &err), 0);
    assert_string_equal(v.source, "/srv/data");
    assert_string_equal(v.target, "/data");
    assert_false(v.read_only || v.shared);
    free(v.source);
    free(v.target);
    assert_int_equal(fm_volume_parse("/a:/b:shared:ro", &v, &err), 0);
    assert_true(v.read_only && v.shared);
    free(v.source);
    free(v.target);
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        if (fm_volume_parse(bad[i], &v, &err) != -FM_E_USAGE)
            fail_msg("'%s' was taken", bad[i]);
        assert_null(v.source);
    }
}

/* ---- OCI configuration ---- */

static struct fm_container *runnable(void)
{
    struct fm_container *c = fm_xcalloc(1, sizeof(*c));

    c->name = fm_xstrdup("web");
    c->runtime = fm_xstrdup("runc");
    fm_strv_add(&c->command, "/bin/true");
    c->volumes = fm_xcalloc(1, sizeof(*c->volumes));
    c->volumes[0] = (struct fm_volume){fm_xstrdup("/here"), fm_xstrdup("/data"), true, false};
    c->volume_count = 1;
    c->memory_bytes = 4096;
    c->config = fm_oci_config_default(c, &err);
    assert_non_null(c->config);
    return c;
}

static const struct fm_oci_place place = {"/state/rootfs", "/fleximigrate/web", "/run/netns/web"};

static json_t *mount_at(json_t *config, const char *target)
{
    size_t i;
    json_t *mount;

    json_array_foreach(json_object_get(config, "mounts"), i, mount)
    {
        if (fm_streq(json_string_value(json_object_get(mount, "destination")), target))
            return mount;
    }
    return NULL;
}

static void test_localise(void **state)
{
    fm_autocontainer struct fm_container *c = runnable();
    const char *text = NULL;
    int terminal = 1;
    (void)state;

    json_auto_t *local = fm_oci_config_localise(c, &place, &err);
    assert_non_null(local);
    assert_int_equal(json_unpack(local, "{s:{s:s}}", "root", "path", &text), 0);
    assert_string_equal(text, "/state/rootfs");
    assert_int_equal(json_unpack(local, "{s:{s:s}}", "linux", "cgroupsPath", &text), 0);
    assert_string_equal(text, "/fleximigrate/web");
    assert_int_equal(json_unpack(local, "{s:{s:b}}", "process", "terminal", &terminal), 0);
    assert_int_equal(terminal, 0);
    fm_autofree char *dump = json_dumps(local, 0);
    assert_non_null(strstr(dump, "/run/netns/web"));
    assert_null(strstr(dump, "CAP_SYS_ADMIN"));

    /* The same record on another host: other paths, the record itself unchanged. */
    free(c->volumes[0].source);
    c->volumes[0].source = fm_xstrdup("/there");
    const struct fm_oci_place other = {"/other/rootfs", "/fleximigrate/web", NULL};
    json_auto_t *moved = fm_oci_config_localise(c, &other, &err);
    assert_string_equal(json_string_value(json_object_get(mount_at(moved, "/data"), "source")),
                        "/there");
    fm_autofree char *moved_dump = json_dumps(moved, 0);
    assert_null(strstr(moved_dump, "/run/netns/web"));
}

static void test_localise_limits(void **state)
{
    fm_autocontainer struct fm_container *c = runnable();
    struct rlimit ours;
    json_int_t hard = 0;
    (void)state;

    json_t *limits = json_object_get(json_object_get(c->config, "process"), "rlimits");
    json_object_set_new(json_array_get(limits, 0), "hard", json_integer(INT64_MAX));
    json_auto_t *local = fm_oci_config_localise(c, &place, &err);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &ours), 0);
    assert_int_equal(json_unpack(local, "{s:{s:[{s:I}]}}", "process", "rlimits", "hard", &hard), 0);
    if (ours.rlim_max <= INT64_MAX)
        assert_true(hard == (json_int_t)ours.rlim_max);
}

/* A record from elsewhere must not reach into this host. */
static void test_localise_refuses(void **state)
{
    static const char *const mounts[] = {
        "{\"destination\":\"/x\",\"type\":\"bind\",\"source\":\"/etc\",\"options\":[\"rbind\"]}",
        "{\"destination\":\"/x\",\"type\":\"none\",\"source\":\"/etc\",\"options\":[\"bind\"]}",
        "{\"destination\":\"/x\",\"type\":\"ext4\",\"source\":\"/dev/vda\"}",
        "{\"type\":\"tmpfs\",\"source\":\"x\"}",
    };
    (void)state;

    for (size_t i = 0; i < FM_COUNT(mounts); i++) {
        fm_autocontainer struct fm_container *c = runnable();

        json_array_append_new(json_object_get(c->config, "mounts"), json_loads(mounts[i], 0, NULL));
        if (fm_oci_config_localise(c, &place, &err))
            fail_msg("%s was taken", mounts[i]);
        assert_int_equal(err.code, FM_E_REFUSED);
    }

    fm_autocontainer struct fm_container *c = runnable();
    json_object_set_new(c->config, "hooks",
                        json_pack("{s:[{s:s}]}", "prestart", "path", "/bin/evil"));
    json_auto_t *local = fm_oci_config_localise(c, &place, &err);
    assert_non_null(local);
    assert_null(json_object_get(local, "hooks"));

    json_t *namespaces = json_object_get(json_object_get(c->config, "linux"), "namespaces");
    json_object_set_new(json_array_get(namespaces, 0), "path", json_string("/proc/1/ns/pid"));
    assert_null(fm_oci_config_localise(c, &place, &err));
    assert_int_equal(err.code, FM_E_REFUSED);

    json_decref(c->config);
    c->config = json_object();
    assert_null(fm_oci_config_localise(c, &place, &err));
    assert_int_equal(err.code, FM_E_INVALID);
}

static void test_default_refuses(void **state)
{
    fm_autocontainer struct fm_container *c = fm_xcalloc(1, sizeof(*c));
    (void)state;

    c->name = fm_xstrdup("web");
    assert_null(fm_oci_config_default(c, &err));
    assert_int_equal(err.code, FM_E_USAGE);
    fm_strv_add(&c->command, "/bin/true");
    c->user = fm_xstrdup("nobody");
    assert_null(fm_oci_config_default(c, &err));
    assert_int_equal(err.code, FM_E_USAGE);
}

/* ---- Discovery ---- */

static char *write_config(const char *dir, const char *set_path, const char *json)
{
    fm_autocontainer struct fm_container *c = runnable();
    fm_autofree char *path = fm_strf("%s/config.json", dir);
    json_t *at = c->config;
    fm_autofree char *copy = fm_xstrdup(set_path);
    char *rest = copy;
    char *key = strsep(&rest, ".");

    json_array_clear(json_object_get(c->config, "mounts"));
    for (; rest; key = strsep(&rest, "."))
        at = json_object_get(at, key);
    if (*key)
        json_object_set_new(at, key, json_loads(json, JSON_DECODE_ANY, NULL));
    assert_int_equal(fm_json_save(path, c->config, &err), 0);
    return fm_xstrdup(dir);
}

static void test_discover(void **state)
{
    static const struct {
        const char *path, *json, *why;
    } bad[] = {
        {"process.terminal", "true", "terminal"},
        {"linux.namespaces", "[{\"type\":\"mount\"}]", "pid namespace"},
        {"linux.namespaces", "[{\"type\":\"mount\"},{\"type\":\"pid\"},{\"type\":\"user\"}]",
         "user namespace"},
        {"linux.namespaces",
         "[{\"type\":\"mount\"},{\"type\":\"pid\",\"path\":\"/proc/1/ns/pid\"}]", "shares"},
        {"mounts",
         "[{\"destination\":\"/etc/hosts\",\"type\":\"bind\",\"source\":\"/etc/hostname\"}]",
         "file"},
        {"mounts", "[{\"destination\":\"/x\",\"type\":\"bind\",\"source\":\"/nothing/there\"}]",
         "/nothing/there"},
        {"process", "null", "process"},
    };
    char template[] = "/tmp/fm-test-container.XXXXXX";
    const char *dir = mkdtemp(template);
    (void)state;

    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        fm_autofree char *bundle = write_config(dir, bad[i].path, bad[i].json);
        struct fm_container *c = fm_container_discover("x", bundle, 0, &err);

        if (c)
            fail_msg("%s = %s was taken over", bad[i].path, bad[i].json);
        assert_non_null(strstr(err.text, bad[i].why));
        assert_int_equal(strncmp(err.text, "cannot take over 'x': ", 22), 0);
    }
    fm_autofree char *bundle = write_config(
        dir, "mounts",
        "[{\"destination\":\"/x\",\"type\":\"bind\",\"source\":\".\",\"options\":[\"ro\"]}]");
    fm_autocontainer struct fm_container *c = fm_container_discover("x", bundle, 0, &err);
    assert_non_null(c);
    assert_true(c->found);
    assert_string_equal(c->volumes[0].source, dir); /* relative to the bundle */
    assert_true(c->volumes[0].read_only);
    assert_string_equal(c->user, "0:0");
    assert_int_equal(c->memory_bytes, 4096);

    fm_autofree char *config = fm_strf("%s/config.json", dir);
    assert_int_equal(truncate(config, 10), 0);
    assert_null(fm_container_discover("x", dir, 0, &err));
    assert_null(fm_container_discover("../x", dir, 0, &err));
    assert_int_equal(fm_remove_tree(dir, &err), 0);
}

/* ---- Logs ---- */

static void test_log_errors(void **state)
{
    fm_autofree char *criu = fm_criu_log_error(
        "(00.001) Version: 4.1\n"
        "(00.046641) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: "
        "Operation not permitted\n"
        "(00.050000)      1: Error (criu/mount.c:2480): mnt: no mount point /data\n"
        "(00.050001)      1: Error (criu/mount.c:2480): mnt: no mount point /data\n"
        "(00.050002) Error (criu/cr-restore.c:1480): 42 exited, status=1\n"
        "(00.060000) Error (criu/cr-restore.c:2536): Restoring FAILED.\n");
    (void)state;

    assert_string_equal(criu, "mnt: no mount point /data");
    assert_null(fm_criu_log_error("(00.1) all is well\n"));
    fm_autofree char *alone = fm_criu_log_error("Error (a.c:1): 42 killed by signal 9: Killed\n");
    assert_string_equal(alone, "42 killed by signal 9: Killed");
    assert_null(fm_criu_log_error("Error (cut"));
    assert_null(fm_criu_log_error(NULL));

    fm_autofree char *runc = fm_runc_log_error(
        "{\"level\":\"warning\",\"msg\":\"w\"}\nnot json\n{\"level\":\"error\",\"msg\":\"first\"}\n"
        "{\"level\":\"error\",\"msg\":\"container does not "
        "exist\",\"time\":\"x\"}\n{\"level\":\"error\"");
    assert_string_equal(runc, "container does not exist");
    assert_null(fm_runc_log_error(""));
    assert_null(fm_runc_log_error("[1,2]\n"));
}

static void test_checks(void **state)
{
    unsigned uid, gid;
    (void)state;

    assert_true(fm_is_clean_path("/"));
    assert_true(fm_is_clean_path("/a/..b/.c"));
    assert_false(fm_is_clean_path("/a/"));
    assert_false(fm_is_clean_path(""));
    assert_false(fm_is_clean_path(NULL));
    assert_true(fm_is_address("fd00::1/64", true));
    assert_false(fm_is_address("fd00::1/129", true));
    assert_false(fm_is_address("/24", true));
    assert_false(fm_is_address(NULL, false));
    assert_true(fm_parse_user("5", &uid, &gid) && uid == 5 && gid == 0);
    assert_true(fm_parse_user("5:6", &uid, &gid) && uid == 5 && gid == 6);
    assert_false(fm_parse_user("5:", &uid, &gid));
    assert_false(fm_parse_user(":5", &uid, &gid));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_minimal),
        cmocka_unit_test(test_hostile),         cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_health),          cmocka_unit_test(test_volume),
        cmocka_unit_test(test_publish),         cmocka_unit_test(test_localise),
        cmocka_unit_test(test_localise_limits), cmocka_unit_test(test_localise_refuses),
        cmocka_unit_test(test_default_refuses), cmocka_unit_test(test_discover),
        cmocka_unit_test(test_log_errors),      cmocka_unit_test(test_checks),
    };

    return cmocka_run_group_tests_name("container", tests, NULL, NULL);
}
