/* The API from outside: transport, roles, documents, problems, events, logs; and that it is
 * documented. */
#include <grp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <curl/curl.h>
#include <yaml.h>

#include "api/routes.h"
#include "api_host.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "fake_manager.h"

static struct api_host host;

static int start(void **state)
{
    (void)state;
    api_host_start(&host);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    api_host_stop(&host);
    return 0;
}

#define assert_text(err, part)                                                                     \
    do {                                                                                           \
        if (!strstr((err).text, part))                                                             \
            fail_msg("'%s' does not say '%s'", (err).text, part);                                  \
    } while (0)

/* --- who may ask --- */

static void local_root_may_do_all(void **state)
{
    json_auto_t *reply = NULL;
    json_auto_t *body = json_pack("{s:s}", "name", "fresh");
    struct fm_error err;

    (void)state;
    assert_int_equal(api_host_request(&host, NULL, "GET", "/v1/containers", NULL, &reply, &err), 0);
    assert_true(json_array_size(reply) >= 3);
    assert_int_equal(api_host_request(&host, NULL, "POST", "/v1/containers", body, NULL, &err), 0);
}

static void operator_may_do_all_over_tls(void **state)
{
    json_auto_t *reply = NULL;
    struct fm_error err;

    (void)state;
    assert_int_equal(
        api_host_request(&host, "alice", "POST", "/v1/hosts/host-b/cordon", NULL, NULL, &err), 0);
    assert_int_equal(
        api_host_request(&host, "alice", "GET", "/v1/hosts/host-b", NULL, &reply, &err), 0);
    assert_true(json_is_true(json_object_get(reply, "cordoned")));
    assert_int_equal(
        api_host_request(&host, "host-a", "POST", "/v1/hosts/host-b/uncordon", NULL, NULL, &err),
        0);
}

static void viewer_may_only_look(void **state)
{
    json_auto_t *reply = NULL;
    struct fm_error err;

    (void)state;
    assert_int_equal(api_host_request(&host, "victor", "GET", "/v1/hosts", NULL, &reply, &err), 0);
    assert_int_equal(
        api_host_request(&host, "victor", "POST", "/v1/hosts/host-b/cordon", NULL, NULL, &err),
        -FM_E_AUTH);
    assert_text(err, "'victor' is a viewer");
    assert_int_equal(
        api_host_request(&host, "victor", "DELETE", "/v1/containers/redis", NULL, NULL, &err),
        -FM_E_AUTH);
}

static void no_certificate_is_refused(void **state)
{
    struct raw_request request = {.method = "GET", .path = "/v1/hosts"};
    struct raw_reply reply;
    json_auto_t *doc = NULL;

    (void)state;
    api_host_raw(&host, &request, &reply);
    assert_int_equal(reply.curl_code, CURLE_OK);
    assert_int_equal(reply.status, 403);
    assert_string_equal(reply.type, "application/problem+json");
    doc = json_loads(reply.body, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(doc, "code")), "AUTH");
    assert_int_equal(json_integer_value(json_object_get(doc, "status")), 403);
    raw_reply_free(&reply);
}

static void foreign_and_expired_certificates_are_refused(void **state)
{
    struct fm_error err;

    (void)state;
    assert_int_equal(api_host_request(&host, "mallory", "GET", "/v1/hosts", NULL, NULL, &err),
                     -FM_E_AUTH);
    assert_int_equal(api_host_request(&host, "old", "GET", "/v1/hosts", NULL, NULL, &err),
                     -FM_E_AUTH);
    assert_text(err, "expired");
}

static void client_refuses_foreign_server(void **state)
{
    fm_autofree char *ca = api_host_path(&host, "other-ca/ca.pem");
    fm_autofree char *cert = api_host_path(&host, "pki/alice.pem");
    fm_autofree char *key = api_host_path(&host, "pki/alice.key");
    struct fm_client_options options = {.host = host.url, .ca = ca, .cert = cert, .key = key};
    struct fm_error err = {0};
    struct fm_client *client = fm_client_open(&options, &err);

    (void)state;
    assert_non_null(client);
    assert_int_equal(fm_client_request(client, "GET", "/v1/hosts", NULL, NULL, &err), -FM_E_AUTH);
    assert_text(err, "does not vouch");
    fm_client_close(client);
}

static void tls_1_2_is_refused(void **state)
{
    struct raw_request request = {
        .method = "GET", .path = "/v1/hosts", .who = "alice", .tls12 = true};
    struct raw_reply reply;

    (void)state;
    api_host_raw(&host, &request, &reply);
    assert_int_equal(reply.curl_code, CURLE_SSL_CONNECT_ERROR);
    raw_reply_free(&reply);
}

/* Asks as another user; the exit status is the error's code. */
static int ask_as(uid_t uid, const char *socket)
{
    struct fm_client_options options = {.socket = socket};
    struct fm_error err = {0};
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        struct fm_client *client;

        if (setgroups(0, NULL) < 0 || setgid(uid) < 0 || setuid(uid) < 0)
            _exit(100);
        client = fm_client_open(&options, &err);
        _exit(-fm_client_request(client, "GET", "/v1/hosts", NULL, NULL, &err));
    }
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static void only_listed_users_may_use_the_socket(void **state)
{
    fm_autofree char *path = api_host_path(&host, "users.sock");
    uid_t uids[] = {65533};
    struct fm_api_config config = {
        .host = "host-a", .socket_path = path, .uids = uids, .uid_count = 1};
    struct fm_error err = {0};
    struct fm_api_server *server;
    struct stat st;

    (void)state;
    if (getuid() != 0) {
        print_message("skipped: only root can ask as another user\n");
        skip();
    }
    assert_int_equal(stat(host.socket, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    chmod(host.dir, 0711);
    server = fm_api_start(&config, host.manager, &err);
    assert_non_null(server);
    assert_int_equal(ask_as(65533, path), FM_E_OK);
    assert_int_equal(ask_as(65532, path), FM_E_AUTH);
    assert_int_equal(ask_as(65533, host.socket), FM_E_UNREACHABLE);
    fm_api_stop(server);
}

static void socket_in_use_and_stale_socket(void **state)
{
    fm_autofree char *path = api_host_path(&host, "stale.sock");
    struct fm_api_config config = {.host = "host-a", .socket_path = host.socket};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    fm_autoclose int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct fm_error err = {0};
    struct fm_api_server *server;

    (void)state;
    assert_null(fm_api_start(&config, host.manager, &err));
    assert_int_equal(err.code, FM_E_EXISTS);
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    config.socket_path = path;
    server = fm_api_start(&config, host.manager, &err);
    assert_non_null(server);
    fm_api_stop(server);
}

/* --- what may be asked --- */

static void unknown_paths_and_methods(void **state)
{
    struct raw_request request = {.method = "PUT", .path = "/v1/hosts/host-b", .who = "alice"};
    struct raw_reply reply;
    struct fm_error err;

    (void)state;
    assert_int_equal(api_host_request(&host, NULL, "GET", "/v2/hosts", NULL, NULL, &err),
                     -FM_E_NOT_FOUND);
    assert_int_equal(api_host_request(&host, NULL, "GET", "/v1/hosts/", NULL, NULL, &err),
                     -FM_E_NOT_FOUND);
    assert_int_equal(api_host_request(&host, NULL, "GET", "/v1/hosts/nobody", NULL, NULL, &err),
                     -FM_E_NOT_FOUND);
    assert_text(err, "there is no host 'nobody'");
    api_host_raw(&host, &request, &reply);
    assert_int_equal(reply.status, 405);
    assert_string_equal(reply.allow, "GET, DELETE");
    raw_reply_free(&reply);
}

static void post_text(const char *text, size_t len, struct raw_reply *reply)
{
    struct raw_request request = {
        .method = "POST", .path = "/v1/hosts", .who = "alice", .body = text, .body_len = len};

    api_host_raw(&host, &request, reply);
}

static void bad_bodies(void **state)
{
    static const char *const bad[] = {"{", "[]", "7", "{\"name\":1,\"name\":2}", "\xff", "{}x"};
    size_t big = (1U << 20) + 1;
    fm_autofree char *text = fm_xmalloc(big);
    struct raw_reply reply;

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        post_text(bad[i], strlen(bad[i]), &reply);
        assert_int_equal(reply.status, 400);
        raw_reply_free(&reply);
    }
    memset(text, ' ', big);
    post_text(text, big, &reply);
    assert_int_equal(reply.status, 413);
    raw_reply_free(&reply);
    memcpy(text, "{\"name\":\"big\"}", 14);
    post_text(text, big - 1, &reply);
    assert_int_equal(reply.status, 201);
    raw_reply_free(&reply);
}

static void codes_survive_the_way(void **state)
{
    json_auto_t *same = json_pack("{s:s}", "name", "redis");
    json_auto_t *stop_body = json_pack("{s:i}", "timeout_ms", 250);
    json_auto_t *wrong = json_pack("{s:i}", "timeout", 250);
    json_auto_t *doc = NULL;
    struct fm_error err;

    (void)state;
    assert_int_equal(api_host_request(&host, NULL, "POST", "/v1/containers", same, NULL, &err),
                     -FM_E_EXISTS);
    assert_int_equal(
        api_host_request(&host, NULL, "DELETE", "/v1/containers/redis", NULL, NULL, &err),
        -FM_E_REFUSED);
    assert_int_equal(
        api_host_request(&host, NULL, "POST", "/v1/containers/redis/stop", wrong, NULL, &err),
        -FM_E_INVALID);
    assert_int_equal(
        api_host_request(&host, NULL, "POST", "/v1/containers/fresh/stop", stop_body, NULL, &err),
        0);
    assert_int_equal(api_host_request(&host, NULL, "GET", "/v1/containers/fresh", NULL, &doc, &err),
                     0);
    assert_int_equal(json_integer_value(json_object_get(doc, "timeout_ms")), 250);
    assert_int_equal(
        api_host_request(&host, NULL, "GET", "/v1/containers/redis/check", NULL, NULL, &err),
        -FM_E_INVALID);
}

static void networks_are_made_shown_verified_and_removed(void **state)
{
    json_auto_t *shop = json_pack("{s:s, s:s}", "name", "shop", "subnet", "10.89.0.0/24");
    json_auto_t *list = NULL;
    json_auto_t *show = NULL;
    json_auto_t *verdict = NULL;
    json_auto_t *repaired = NULL;
    struct fm_error err;

    (void)state;
    assert_int_equal(api_host_request(&host, "victor", "GET", "/v1/networks", NULL, &list, &err),
                     0);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "name")),
                        "default");
    assert_int_equal(api_host_request(&host, "victor", "POST", "/v1/networks", shop, NULL, &err),
                     -FM_E_AUTH);
    assert_int_equal(api_host_request(&host, NULL, "POST", "/v1/networks", shop, NULL, &err), 0);
    assert_int_equal(api_host_request(&host, NULL, "POST", "/v1/networks", shop, NULL, &err),
                     -FM_E_EXISTS);
    assert_int_equal(api_host_request(&host, NULL, "GET", "/v1/networks/shop", NULL, &show, &err),
                     0);
    assert_string_equal(json_string_value(json_object_get(show, "subnet")), "10.89.0.0/24");
    assert_int_equal(
        api_host_request(&host, "victor", "GET", "/v1/networks/verify", NULL, &verdict, &err), 0);
    assert_true(json_is_true(json_object_get(verdict, "ok")));
    assert_int_equal(
        api_host_request(&host, "victor", "POST", "/v1/networks/repair", NULL, NULL, &err),
        -FM_E_AUTH);
    assert_int_equal(
        api_host_request(&host, NULL, "POST", "/v1/networks/repair", NULL, &repaired, &err), 0);
    assert_int_equal(json_integer_value(json_object_get(repaired, "applied")), 3);
    assert_int_equal(api_host_request(&host, NULL, "DELETE", "/v1/networks/shop", NULL, NULL, &err),
                     0);
    assert_int_equal(api_host_request(&host, NULL, "GET", "/v1/networks/shop", NULL, NULL, &err),
                     -FM_E_NOT_FOUND);
    assert_int_equal(
        api_host_request(&host, NULL, "DELETE", "/v1/networks/default", NULL, NULL, &err),
        -FM_E_REFUSED);
}

static void readiness_is_the_managers(void **state)
{
    struct raw_request request = {.method = "GET", .path = "/readyz", .who = "victor"};
    struct raw_reply reply;

    (void)state;
    fake_manager_set_ready(host.manager, false);
    api_host_raw(&host, &request, &reply);
    assert_int_equal(reply.status, 503);
    raw_reply_free(&reply);
    fake_manager_set_ready(host.manager, true);
    api_host_raw(&host, &request, &reply);
    assert_int_equal(reply.status, 200);
    raw_reply_free(&reply);
}

static void unreachable_daemon_is_explained(void **state)
{
    struct fm_client_options options = {.socket = "/nonexistent/fm.sock"};
    struct fm_error err = {0};
    struct fm_client *client = fm_client_open(&options, &err);

    (void)state;
    assert_int_equal(fm_client_request(client, "GET", "/v1/hosts", NULL, NULL, &err),
                     -FM_E_UNREACHABLE);
    assert_text(err, "cannot reach the daemon at /nonexistent/fm.sock: No such file or directory; "
                     "is fleximigrated running?");
    fm_client_close(client);
}

static void hosts_of_every_form(void **state)
{
    static const char *const bad[] = {"http://h:1", "https://", "https://h/path",
                                      "ftp://h",    "a b",      "user@host"};
    struct fm_error err = {0};

    (void)state;
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_client_options options = {.host = bad[i], .ca = "/", .cert = "/", .key = "/"};

        assert_null(fm_client_open(&options, &err));
        assert_int_equal(err.code, FM_E_USAGE);
    }
}

/* --- the documentation --- */

static yaml_node_t *member(yaml_document_t *doc, yaml_node_t *node, const char *key)
{
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++)
        if (fm_streq((char *)yaml_document_get_node(doc, pair->key)->data.scalar.value, key))
            return yaml_document_get_node(doc, pair->value);
    return NULL;
}

static size_t count_operations(yaml_document_t *doc, yaml_node_t *paths)
{
    static const char *const methods[] = {"get", "post", "put", "delete", "patch", "head"};
    size_t count = 0;

    for (yaml_node_pair_t *pair = paths->data.mapping.pairs.start;
         pair < paths->data.mapping.pairs.top; pair++)
        for (size_t i = 0; i < FM_COUNT(methods); i++)
            count += member(doc, yaml_document_get_node(doc, pair->value), methods[i]) != NULL;
    return count;
}

static void every_route_is_documented(void **state)
{
    fm_autofclose FILE *file = fopen(OPENAPI, "re");
    yaml_parser_t parser;
    yaml_document_t doc;
    yaml_node_t *paths;
    size_t count;
    const struct fm_api_route *routes = fm_api_routes(&count);

    (void)state;
    assert_non_null(file);
    yaml_parser_initialize(&parser);
    yaml_parser_set_input_file(&parser, file);
    assert_true(yaml_parser_load(&parser, &doc));
    paths = member(&doc, yaml_document_get_root_node(&doc), "paths");
    assert_non_null(paths);
    for (size_t i = 0; i < count; i++) {
        fm_autofree char *method = fm_xstrdup(routes[i].method);
        yaml_node_t *path = member(&doc, paths, routes[i].path);

        for (char *c = method; *c; c++)
            *c = (char)(*c | 0x20);
        if (!path || !member(&doc, path, method))
            fail_msg("docs/openapi.yaml lacks %s %s", routes[i].method, routes[i].path);
    }
    assert_int_equal(count_operations(&doc, paths), count);
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(local_root_may_do_all),
        cmocka_unit_test(operator_may_do_all_over_tls),
        cmocka_unit_test(viewer_may_only_look),
        cmocka_unit_test(no_certificate_is_refused),
        cmocka_unit_test(foreign_and_expired_certificates_are_refused),
        cmocka_unit_test(client_refuses_foreign_server),
        cmocka_unit_test(tls_1_2_is_refused),
        cmocka_unit_test(only_listed_users_may_use_the_socket),
        cmocka_unit_test(unknown_paths_and_methods),
        cmocka_unit_test(bad_bodies),
        cmocka_unit_test(codes_survive_the_way),
        cmocka_unit_test(networks_are_made_shown_verified_and_removed),
        cmocka_unit_test(readiness_is_the_managers),
        cmocka_unit_test(unreachable_daemon_is_explained),
        cmocka_unit_test(hosts_of_every_form),
        cmocka_unit_test(socket_in_use_and_stale_socket),
        cmocka_unit_test(every_route_is_documented),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
