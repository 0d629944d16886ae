/* The control socket of loadclient, and the other end of it. */
#include "loadclient.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void client_print_totals(const struct client *client, FILE *out)
{
    fprintf(out, "\"acknowledged_writes\":%" PRIu64 ",\"connection_resets\":%" PRIu64,
            client->acknowledged, client->resets);
}

/* The silence that has not ended yet belongs to every answer. */
static void print_gaps(struct client *client, FILE *out, const struct wl_gaps *finished)
{
    struct wl_gaps gaps = *finished;

    if (client->phase == LOAD && client_outstanding(client) > 0) {
        uint64_t length = wl_now_us() - client_silent_since(client);

        if (length > gaps.max_us) {
            gaps.max_us = length;
            gaps.max_at_us = wl_wall_us() - length;
        }
    }
    wl_gaps_print(out, &gaps);
}

static void answer(struct client *client, struct control *control, const char *command)
{
    FILE *out;
    char *text = NULL;
    size_t size = 0;

    if (strcmp(command, "ready") == 0 && client->phase == PRELOAD) {
        control->wants_ready = true;
        return;
    }
    out = open_memstream(&text, &size);
    if (!out)
        wl_die("out of memory");
    fputc('{', out);
    if (strcmp(command, "mark") == 0) {
        client_print_totals(client, out);
        fputc(',', out);
        print_gaps(client, out, &client->since_mark);
        free(client->since_mark.list);
        client->since_mark = (struct wl_gaps){.threshold_us = GAP_THRESHOLD_US};
    } else if (strcmp(command, "status") == 0) {
        client_print_totals(client, out);
        fputc(',', out);
        print_gaps(client, out, &client->gaps);
    } else if (strcmp(command, "ready") == 0) {
        fprintf(out, "\"ready\":true,\"preloaded_keys\":%" PRIu64, client->filled);
    } else if (strcmp(command, "stop") == 0) {
        client->stopping = true;
        fprintf(out, "\"stopping\":true");
    } else {
        fprintf(out, "\"error\":\"unknown command\"");
    }
    fprintf(out, "}\n");
    fclose(out);
    if (send(control->fd, text, size, MSG_NOSIGNAL) < 0)
        perror("control");
    free(text);
}

static void control_close(struct control *control)
{
    close(control->fd);
    *control = (struct control){.fd = -1};
}

void control_read(struct client *client, struct control *control)
{
    ssize_t got = recv(control->fd, control->line + control->length,
                       sizeof(control->line) - 1 - control->length, 0);
    char *end;

    if (got <= 0) {
        control_close(control);
        return;
    }
    control->length += (size_t)got;
    control->line[control->length] = '\0';
    while ((end = strchr(control->line, '\n'))) {
        *end = '\0';
        answer(client, control, control->line);
        control->length -= (size_t)(end + 1 - control->line);
        memmove(control->line, end + 1, control->length + 1);
    }
    if (control->length == sizeof(control->line) - 1)
        control_close(control);
}

void control_accept(struct client *client)
{
    int fd = accept4(client->control_listener, NULL, NULL, SOCK_CLOEXEC);

    for (int i = 0; fd >= 0 && i < MAX_CONTROLS; i++) {
        if (client->controls[i].fd < 0) {
            client->controls[i].fd = fd;
            return;
        }
    }
    if (fd >= 0)
        close(fd);
}

void control_tell_ready(struct client *client)
{
    wl_ready(client->options.ready_file);
    for (int i = 0; i < MAX_CONTROLS; i++) {
        if (client->controls[i].fd >= 0 && client->controls[i].wants_ready)
            answer(client, &client->controls[i], "ready");
    }
}

static struct sockaddr_un unix_address(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        wl_die("%s: path too long", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    return address;
}

int control_listen(const char *path)
{
    struct sockaddr_un address = unix_address(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8))
        wl_die("%s: %s", path, strerror(errno));
    return fd;
}

int control_ask(const char *path, const char *command)
{
    struct sockaddr_un address = unix_address(path);
    uint64_t deadline = wl_now_us() + 5000000;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char buffer[4096];
    FILE *stream;
    int c;

    while (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        if (wl_now_us() > deadline)
            wl_die("%s: %s", path, strerror(errno));
        poll(NULL, 0, 10);
    }
    snprintf(buffer, sizeof(buffer), "%s\n", command);
    if (send(fd, buffer, strlen(buffer), MSG_NOSIGNAL) < 0 || !(stream = fdopen(fd, "r")))
        wl_die("%s: %s", path, strerror(errno));
    while ((c = getc(stream)) != EOF) {
        putchar(c);
        if (c == '\n')
            return WL_EXIT_OK;
    }
    wl_die("%s: closed without an answer", path);
}
