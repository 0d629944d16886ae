/* The API from outside: transport, roles, documents, problems, events, logs; and that it is
 * documented. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
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
#include "client/event_parser.h"
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

/* --- events --- */

struct seen {
    char states[256];
    bool posted;
};

static int note_event(const char *type, const json_t *event, void *ctx)
{
    static const char request[] = "{\"container\":\"redis\",\"destination\":\"host-b\"}";
    struct seen *seen = ctx;
    json_auto_t *body = NULL;
    struct fm_error err;

    if (fm_streq(type, "open")) {
        body = json_loads(request, 0, NULL);
        seen->posted =
            api_host_request(&host, NULL, "POST", "/v1/migrations", body, NULL, &err) == 0;
        return !seen->posted;
    }
    strncat(seen->states, json_string_value(json_object_get(event, "to")),
            sizeof(seen->states) - strlen(seen->states) - 2);
    strcat(seen->states, " ");
    return json_is_true(json_object_get(event, "final"));
}

static void events_of_a_migration(const char *who)
{
    struct fm_client *client = api_host_client(&host, who);
    struct fm_error err = {0};
    struct seen seen = {0};

    assert_int_equal(
        fm_client_events(client, "/v1/events?container=redis", note_event, &seen, &err), 0);
    assert_string_equal(seen.states,
                        "PENDING PLANNING PREPARATION EXECUTION VERIFICATION COMPLETED ");
    fm_client_close(client);
}

static void no_event_is_missed(void **state)
{
    (void)state;
    events_of_a_migration(NULL);
    events_of_a_migration("victor");
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void slow_client_is_dropped(void **state)
{
    static const char request[] = "GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    fm_autofree char *padding = fm_xmalloc(1025);
    fm_autofree char *text = fm_xcalloc(1, 16 << 20);
    json_auto_t *event = NULL;
    fm_autoclose int fd = connect_to(host.socket);
    size_t len = 0;
    ssize_t n;

    (void)state;
    memset(padding, 'x', 1024);
    padding[1024] = '\0';
    event = json_pack("{s:s, s:s}", "type", "progress", "padding", padding);
    assert_int_equal(write(fd, request, sizeof(request) - 1), sizeof(request) - 1);
    while (!strstr(text, "subscribed") && (n = read(fd, text + len, 4096)) > 0)
        len += (size_t)n;
    for (int i = 0; i < 5000; i++)
        fake_manager_emit(host.manager, event);
    while ((n = read(fd, text + len, (16U << 20) - len - 1)) > 0)
        len += (size_t)n;
    assert_int_equal(n, 0);
    assert_non_null(strstr(text, ": dropped"));
}

static int stop_server(const char *type, const json_t *event, void *ctx)
{
    (void)event;
    if (fm_streq(type, "open"))
        pthread_barrier_wait(ctx);
    return 0;
}

struct listener {
    const char *socket;
    pthread_barrier_t open;
    struct fm_error err;
};

static void *listen_for_events(void *arg)
{
    struct listener *listener = arg;
    struct fm_client_options options = {.socket = listener->socket};
    struct fm_client *client = fm_client_open(&options, NULL);

    fm_client_events(client, "/v1/events", stop_server, &listener->open, &listener->err);
    fm_client_close(client);
    return NULL;
}

static void stopping_ends_streams(void **state)
{
    fm_autofree char *path = api_host_path(&host, "second.sock");
    struct fm_api_config config = {.host = "host-a", .socket_path = path};
    struct listener listener = {.socket = path};
    struct fm_error err = {0};
    struct fm_api_server *server = fm_api_start(&config, host.manager, &err);
    pthread_t thread;

    (void)state;
    assert_non_null(server);
    pthread_barrier_init(&listener.open, NULL, 2);
    pthread_create(&thread, NULL, listen_for_events, &listener);
    pthread_barrier_wait(&listener.open);
    fm_api_stop(server);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&listener.open);
    assert_int_equal(listener.err.code, FM_E_CLOSED);
    assert_int_equal(access(path, F_OK), -1);
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

/* --- logs --- */

struct log_reader {
    char text[256];
    char *path; /* of the log, to write to */
    int step;
};

static int on_log(const char *data, size_t len, void *ctx)
{
    struct log_reader *reader = ctx;
    size_t used = strlen(reader->text);

    snprintf(reader->text + used, sizeof(reader->text) - used, "%.*s", (int)len, data);
    if (reader->path && reader->step++ == 0) {
        fm_autoclose int fd = open(reader->path, O_WRONLY | O_APPEND);

        assert_int_equal(write(fd, "four\n", 5), 5);
    } else if (reader->path) {
        unlink(reader->path);
    }
    return 0;
}

static void read_log(const char *query, const char *follow_path, const char *expected)
{
    fm_autofree char *path = fm_strf("/v1/containers/slow/logs%s", query);
    struct fm_client *client = api_host_client(&host, "victor");
    struct log_reader reader = {.path = fm_xstrdup(follow_path)};
    struct fm_error err = {0};

    assert_int_equal(fm_client_stream(client, path, on_log, &reader, &err), 0);
    assert_string_equal(reader.text, expected);
    fm_client_close(client);
    free(reader.path);
}

static void logs_and_their_tail(void **state)
{
    fm_autofree char *log = api_host_path(&host, "slow.log");
    struct fm_error err;

    (void)state;
    read_log("", NULL, "one\ntwo\nthree\n");
    read_log("?tail=2", NULL, "two\nthree\n");
    read_log("?tail=0", NULL, "");
    read_log("?tail=99", NULL, "one\ntwo\nthree\n");
    read_log("?follow=1&tail=1", log, "three\nfour\n");
    assert_int_equal(
        api_host_request(&host, NULL, "GET", "/v1/containers/redis/logs?tail=x", NULL, NULL, &err),
        -FM_E_INVALID);
}

/* --- the parser of events --- */

static int collect(const char *type, const char *data, void *ctx)
{
    char *all = ctx;

    sprintf(all + strlen(all), "%s=%s;", type, data);
    return 0;
}

static void events_arrive_in_pieces_of_any_size(void **state)
{
    static const char stream[] = ": hello\n\nevent: a\r\ndata: 1\r\n\r\nid: 7\ndata:2\ndata: 3\n\n"
                                 "event: none\n\ndata: 4\n\n";

    (void)state;
    for (size_t piece = 1; piece < sizeof(stream); piece++) {
        struct fm_event_parser parser = {0};
        char all[256] = "";

        for (size_t at = 0; at < sizeof(stream) - 1; at += piece) {
            size_t left = sizeof(stream) - 1 - at;

            assert_int_equal(fm_event_parser_feed(&parser, stream + at, piece < left ? piece : left,
                                                  collect, all),
                             0);
        }
        assert_string_equal(all, "comment=hello;a=1;message=2\n3;message=4;");
        fm_event_parser_clear(&parser);
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
        cmocka_unit_test(readiness_is_the_managers),
        cmocka_unit_test(unreachable_daemon_is_explained),
        cmocka_unit_test(hosts_of_every_form),
        cmocka_unit_test(no_event_is_missed),
        cmocka_unit_test(slow_client_is_dropped),
        cmocka_unit_test(stopping_ends_streams),
        cmocka_unit_test(socket_in_use_and_stale_socket),
        cmocka_unit_test(logs_and_their_tail),
        cmocka_unit_test(events_arrive_in_pieces_of_any_size),
        cmocka_unit_test(every_route_is_documented),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
