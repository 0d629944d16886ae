/* The configuration: defaults, merging of conf.d, and errors that say where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "daemon/config.h"

static char dir[64];
static char *main_file;

static int start(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/fm-test-config-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    main_file = fm_strf("%s/main.yaml", dir);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    free(main_file);
    return fm_remove_tree(dir, NULL);
}

static void put(const char *name, const char *text)
{
    fm_autofree char *path = fm_strf("%s/%s", dir, name);

    assert_int_equal(fm_file_write(path, text, strlen(text), 0600, NULL), 0);
}

static void load(const char *text, struct fm_config *config)
{
    struct fm_error err = {0};

    put("main.yaml", text);
    if (fm_config_load(main_file, config, &err) < 0)
        fail_msg("%s", err.text);
}

/* Expects an error that says `where` of the main file, and `what`. */
static void refuse(const char *text, const char *where, const char *what)
{
    struct fm_config config;
    struct fm_error err = {0};
    fm_autofree char *start_text = fm_strf("%s:%s", main_file, where);

    put("main.yaml", text);
    assert_int_equal(fm_config_load(main_file, &config, &err), -FM_E_INVALID);
    if (!fm_starts_with(err.text, start_text) || !strstr(err.text, what))
        fail_msg("'%s' is not '%s … %s …'", err.text, start_text, what);
}

static void defaults(void **state)
{
    struct fm_config config;

    (void)state;
    load("# nothing\n", &config);
    assert_int_equal(config.listen.api_port, 7440);
    assert_int_equal(config.listen.wire_port, 7441);
    assert_string_equal(config.state_dir, "/var/lib/fleximigrate");
    assert_string_equal(config.container.shim, FM_LIBEXECDIR "/fleximigrate-shim");
    assert_int_equal(config.limits.memory_reserve, 256 << 20);
    assert_int_equal(config.log.level, FM_LOG_INFO);
    assert_int_equal(config.api.uid_count, 0);
    assert_null(config.network.peers.items);
    assert_true(config.host[0] != '\0');
    fm_config_free(&config);
}

static void everything_can_be_set(void **state)
{
    struct fm_config config;

    (void)state;
    load("host: host-a\nadvertise: 192.0.2.1\nstate_dir: /a\nrun_dir: /b\n"
         "listen: {api_address: 127.0.0.1, api_port: 1, wire_address: '::1', wire_port: 2}\n"
         "pki: {ca: /c, cert: /d, key: /e}\n"
         "log: {level: debug, format: json, file: /f}\n"
         "limits: {max_concurrent: 5, memory_reserve: 1GiB}\n"
         "container: {runc: /g, runc_root: /h, cgroup_parent: /i, criu: /j, interposer_dir: /k,\n"
         "            shim: /l}\n"
         "network: {bridge: b, vxlan: v, vni: 9, port: 10, subnet: 'fd00::/64',\n"
         "          gateway: 'fd00::1', mtu: 1400, peers: [192.0.2.9, 192.0.2.8]}\n"
         "api: {uids: [1000, 1001]}\n",
         &config);
    assert_string_equal(config.host, "host-a");
    assert_string_equal(config.listen.wire_address, "::1");
    assert_int_equal(config.listen.wire_port, 2);
    assert_string_equal(config.pki.key, "/e");
    assert_int_equal(config.log.format, FM_LOG_JSON);
    assert_int_equal(config.limits.max_concurrent, 5);
    assert_int_equal(config.limits.memory_reserve, 1 << 30);
    assert_string_equal(config.container.shim, "/l");
    assert_int_equal(config.network.mtu, 1400);
    assert_string_equal(config.network.gateway, "fd00::1");
    assert_string_equal(config.network.peers.items[1], "192.0.2.8");
    assert_int_equal(config.api.uids[1], 1001);
    fm_config_free(&config);
}

static void later_files_win(void **state)
{
    fm_autofree char *sub = fm_strf("%s/conf.d", dir);
    struct fm_config config;

    (void)state;
    assert_int_equal(fm_mkdir_p(sub, 0700, NULL), 0);
    put("conf.d/10-a.yaml", "host: from-a\nlisten:\n  api_port: 10\napi:\n  uids: [3]\n");
    put("conf.d/20-b.yaml", "listen:\n  wire_port: 20\nhost: from-b\nnetwork:\n");
    put("conf.d/30-c.yml", "host: not-read\n");
    put("conf.d/.40.yaml", "host: not-read\n");
    load("host: main\nlisten: {api_port: 1, wire_port: 2}\nrun_dir: /m\napi: {uids: [1, 2]}\n",
         &config);
    assert_string_equal(config.host, "from-b");
    assert_int_equal(config.listen.api_port, 10);
    assert_int_equal(config.listen.wire_port, 20);
    assert_string_equal(config.run_dir, "/m");
    assert_int_equal(config.api.uid_count, 1);
    assert_int_equal(config.api.uids[0], 3);
    fm_config_free(&config);
    fm_remove_tree(sub, NULL);
}

static void errors_of_conf_d_name_their_file(void **state)
{
    fm_autofree char *sub = fm_strf("%s/conf.d", dir);
    struct fm_config config;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_mkdir_p(sub, 0700, NULL), 0);
    put("main.yaml", "host: a\n");
    put("conf.d/x.yaml", "host: a\nzork: b\n");
    assert_int_equal(fm_config_load(main_file, &config, &err), -FM_E_INVALID);
    assert_non_null(strstr(err.text, "/conf.d/x.yaml:2:1: zork: unknown key"));
    fm_remove_tree(sub, NULL);
}

static void unknown_keys(void **state)
{
    (void)state;
    refuse("host: a\nlisten:\n  api_port: 1\n  zork: 3\n", "4:3", "listen.zork: unknown key");
    refuse("host: a\n\nzork: b\n", "3:1", "zork: unknown key");
    refuse("listen: {api_port: 1, host: x}\n", "1:23", "listen.host: unknown key");
    refuse("host: a\nhost: b\n", "2:1", "host: given twice");
}

static void syntax(void **state)
{
    (void)state;
    refuse("host: a\n\tlog: x\n", "2:1", "tab");
    refuse("host: [a\nb: {\n", "2:2", "',' or ']'");
    refuse("host: \"a\n", "2:1", "unexpected end");
    refuse("- a\n", "1:1", "MAPPING");
}

static void wrong_kinds(void **state)
{
    (void)state;
    refuse("host: [a, b]\n", "1:7", "host");
    refuse("listen: {api_port: x}\n", "1:20", "listen.api_port");
    refuse("listen:\n  api_port: -1\n", "2:13", "listen.api_port");
    refuse("listen: 5\n", "1:9", "listen");
    refuse("api:\n  uids: 7\n", "2:9", "api.uids");
}

static void values_out_of_bounds(void **state)
{
    (void)state;
    refuse("listen:\n  api_port: 65536\n", "2:3", "listen.api_port: 65536 is not within 0..65535");
    refuse("limits: {max_concurrent: 0}\n", "1:10", "limits.max_concurrent");
    refuse("host: ../x\n", "1:1", "host: '../x' is not");
    refuse("state_dir: var\n", "1:1", "absolute");
    refuse("log: {level: loud}\n", "1:7", "debug, info, warn, error");
    refuse("log: {format: xml}\n", "1:7", "text, json");
    refuse("limits: {memory_reserve: lots}\n", "1:10", "size");
    refuse("network: {subnet: 10.0.0.0}\n", "1:11", "subnet");
    refuse("network: {subnet: 10.0.0.0/33}\n", "1:11", "subnet");
    refuse("network: {bridge: averyveryverylongname}\n", "1:11", "interface");
    refuse("network: {peers: [192.0.2.1, here]}\n", "1:11", "'here' is not an IP address");
    refuse("api: {uids: [root]}\n", "1:7", "'root' is not a user's number");
    refuse("network: {subnet: 10.1.0.0/16, gateway: 10.2.0.1}\n", "", "not in network.subnet");
    refuse("listen: {api_port: 5, wire_port: 5}\n", "", "both 5");
}

static void missing_file(void **state)
{
    struct fm_config config;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_config_load("/nonexistent/fm.yaml", &config, &err), -FM_E_NOT_FOUND);
}

/* The example shows every default, so that reading it changes nothing. */
static void the_example_is_the_defaults(void **state)
{
    struct fm_config plain, example;
    struct fm_error err = {0};

    (void)state;
    load("", &plain);
    if (fm_config_load(EXAMPLE, &example, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(plain.host, example.host);
    assert_string_equal(plain.run_dir, example.run_dir);
    assert_string_equal(plain.pki.key, example.pki.key);
    assert_string_equal(plain.network.subnet, example.network.subnet);
    assert_string_equal(plain.network.gateway, example.network.gateway);
    assert_string_equal(plain.container.runc_root, example.container.runc_root);
    assert_string_equal(plain.container.cgroup_parent, example.container.cgroup_parent);
    assert_int_equal(plain.limits.memory_reserve, example.limits.memory_reserve);
    assert_int_equal(plain.limits.max_concurrent, example.limits.max_concurrent);
    assert_int_equal(plain.listen.api_port, example.listen.api_port);
    assert_int_equal(plain.network.vni, example.network.vni);
    assert_int_equal(plain.network.mtu, example.network.mtu);
    assert_int_equal(example.api.uid_count, 0);
    fm_config_free(&plain);
    fm_config_free(&example);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),        cmocka_unit_test(everything_can_be_set),
        cmocka_unit_test(later_files_win), cmocka_unit_test(errors_of_conf_d_name_their_file),
        cmocka_unit_test(unknown_keys),    cmocka_unit_test(syntax),
        cmocka_unit_test(wrong_kinds),     cmocka_unit_test(values_out_of_bounds),
        cmocka_unit_test(missing_file),    cmocka_unit_test(the_example_is_the_defaults),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
