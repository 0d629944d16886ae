/* What the API streams: events, also to clients that are slow or stay, and logs that are followed.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

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
    size_t used;

    if (fm_streq(type, "open")) {
        body = json_loads(request, 0, NULL);
        seen->posted =
            api_host_request(&host, NULL, "POST", "/v1/migrations", body, NULL, &err) == 0;
        return !seen->posted;
    }
    used = strlen(seen->states);
    snprintf(seen->states + used, sizeof(seen->states) - used, "%s ",
             json_string_value(json_object_get(event, "to")));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_event_is_missed),
        cmocka_unit_test(slow_client_is_dropped),
        cmocka_unit_test(stopping_ends_streams),
        cmocka_unit_test(logs_and_their_tail),
        cmocka_unit_test(events_arrive_in_pieces_of_any_size),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
