#include "api/events.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "api/handlers.h"
#include "base/cleanup.h"
#include "base/text.h"

#define BLOCK 16384
#define HEARTBEAT_MS 10000

struct client {
    struct client *next;
    struct fm_event_hub *hub;
    int wake_fd, connection_fd;
    char *migration, *container; /* filters; NULL: all */

    /* Under the hub's lock: a ring of texts that wait. */
    char *queue[FM_EVENT_QUEUE_LIMIT];
    size_t first, count;
    bool lagging; /* the queue was full once: what follows would have a gap */

    /* The reader's own: the text that is being sent. */
    char *text;
    size_t sent;
    bool ended;
};

struct fm_event_hub {
    struct fm_manager *manager;
    int subscription;
    int stop_fd;
    pthread_mutex_t lock;
    struct client *clients;
    uint64_t last_id;
};

/* --- from the manager's threads --- */

static bool wants(const struct client *client, const json_t *event)
{
    if (client->migration &&
        !fm_streq(client->migration, json_string_value(json_object_get(event, "migration"))))
        return false;
    return !client->container ||
           fm_streq(client->container, json_string_value(json_object_get(event, "container")));
}

static void enqueue(struct client *client, const char *text)
{
    if (client->lagging)
        return;
    if (client->count == FM_EVENT_QUEUE_LIMIT) {
        client->lagging = true;
        return;
    }
    client->queue[(client->first + client->count++) % FM_EVENT_QUEUE_LIMIT] = fm_xstrdup(text);
    eventfd_write(client->wake_fd, 1);
}

static void publish(const json_t *event, void *ctx)
{
    struct fm_event_hub *hub = ctx;
    const char *type = json_string_value(json_object_get(event, "type"));
    fm_autofree char *data = json_dumps(event, JSON_COMPACT);
    fm_autofree char *text = NULL;

    if (!data)
        return;
    pthread_mutex_lock(&hub->lock);
    text = fm_strf("id: %llu\nevent: %s\ndata: %s\n\n", (unsigned long long)++hub->last_id,
                   type ? type : "message", data);
    for (struct client *client = hub->clients; client; client = client->next)
        if (wants(client, event))
            enqueue(client, text);
    pthread_mutex_unlock(&hub->lock);
}

/* --- the client's thread --- */

/* The next text to send, NULL when nothing waits. */
static char *dequeue(struct client *client)
{
    char *text = NULL;

    pthread_mutex_lock(&client->hub->lock);
    if (client->count > 0) {
        text = client->queue[client->first];
        client->first = (client->first + 1) % FM_EVENT_QUEUE_LIMIT;
        client->count--;
    } else if (client->lagging) {
        text = fm_xstrdup(": dropped, events were read too slowly\n\n");
        client->ended = true;
    }
    pthread_mutex_unlock(&client->hub->lock);
    return text;
}

/* Blocks until an event, the heartbeat's time, or the end. */
static char *next_text(struct client *client)
{
    struct pollfd fds[] = {
        {.fd = client->wake_fd, .events = POLLIN},
        {.fd = client->hub->stop_fd, .events = POLLIN},
        {.fd = client->connection_fd, .events = POLLRDHUP},
    };
    eventfd_t ignored;
    char *text;
    int ready;

    for (;;) {
        text = dequeue(client);
        if (text)
            return text;
        ready = poll(fds, FM_COUNT(fds), HEARTBEAT_MS);
        if (ready < 0 && errno != EINTR)
            return NULL;
        if (ready == 0)
            return fm_xstrdup(": heartbeat\n\n");
        if (ready > 0 && (fds[1].revents || fds[2].revents))
            return NULL;
        if (ready > 0)
            eventfd_read(client->wake_fd, &ignored);
    }
}

static ssize_t client_read(void *ctx, uint64_t pos, char *buf, size_t max)
{
    struct client *client = ctx;
    size_t len;

    (void)pos;
    if (!client->text) {
        if (client->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        client->text = next_text(client);
        client->sent = 0;
        if (!client->text)
            return MHD_CONTENT_READER_END_OF_STREAM;
    }
    len = strlen(client->text + client->sent);
    if (len > max)
        len = max;
    memcpy(buf, client->text + client->sent, len);
    client->sent += len;
    if (client->text[client->sent] == '\0') {
        free(client->text);
        client->text = NULL;
    }
    return (ssize_t)len;
}

static void client_free(void *ctx)
{
    struct client *client = ctx;
    struct fm_event_hub *hub = client->hub;

    pthread_mutex_lock(&hub->lock);
    for (struct client **link = &hub->clients; *link; link = &(*link)->next)
        if (*link == client) {
            *link = client->next;
            break;
        }
    pthread_mutex_unlock(&hub->lock);
    for (; client->count > 0; client->count--) {
        free(client->queue[client->first]);
        client->first = (client->first + 1) % FM_EVENT_QUEUE_LIMIT;
    }
    close(client->wake_fd);
    free(client->text);
    free(client->migration);
    free(client->container);
    free(client);
}

struct MHD_Response *fm_event_hub_response(struct fm_event_hub *hub, int connection_fd,
                                           const char *migration, const char *container)
{
    struct client *client = fm_xcalloc(1, sizeof(*client));
    struct MHD_Response *response;

    client->hub = hub;
    client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    client->connection_fd = connection_fd;
    client->migration = fm_xstrdup(migration);
    client->container = fm_xstrdup(container);
    client->text = fm_xstrdup(": subscribed\n\n");
    pthread_mutex_lock(&hub->lock);
    client->next = hub->clients;
    hub->clients = client;
    pthread_mutex_unlock(&hub->lock);

    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, client_read, client,
                                                 client_free);
    if (!response)
        client_free(client);
    return response;
}

int fm_api_events(const struct fm_api_request *request, struct fm_api_reply *reply,
                  struct fm_error *err)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    reply->status = MHD_HTTP_OK;
    reply->response = fm_event_hub_response(request->context->events, info ? info->connect_fd : -1,
                                            fm_api_query(request, "migration"),
                                            fm_api_query(request, "container"));
    if (!reply->response)
        return fm_error_set(err, FM_E_FAILED, "cannot start the stream of events");
    MHD_add_response_header(reply->response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(reply->response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    return 0;
}

/* --- the hub --- */

struct fm_event_hub *fm_event_hub_open(struct fm_manager *manager, int stop_fd,
                                       struct fm_error *err)
{
    struct fm_event_hub *hub = fm_xcalloc(1, sizeof(*hub));

    hub->manager = manager;
    hub->stop_fd = stop_fd;
    pthread_mutex_init(&hub->lock, NULL);
    hub->subscription = fm_manager_subscribe(manager, publish, hub);
    if (hub->subscription < 0) {
        fm_error_set(err, FM_E_FAILED, "the manager takes no subscription to its events");
        pthread_mutex_destroy(&hub->lock);
        free(hub);
        return NULL;
    }
    return hub;
}

void fm_event_hub_close(struct fm_event_hub *hub)
{
    if (!hub)
        return;
    fm_manager_unsubscribe(hub->manager, hub->subscription);
    pthread_mutex_destroy(&hub->lock);
    free(hub);
}
