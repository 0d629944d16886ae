/* Requests, replies and their judgement: the part of loadclient that speaks redis. */
#include "loadclient.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

uint64_t client_outstanding(const struct client *client)
{
    return client->issued - client->answered;
}

struct request *client_oldest(struct client *client)
{
    return &client->ring[client->answered % client->ring_size];
}

static void make_value(const struct client *client, unsigned char *value, uint64_t key,
                       uint32_t version)
{
    size_t size = client->options.value_size;
    uint64_t word = wl_mix(key << 32 | version);

    for (size_t at = 0; at < size; at += sizeof(word)) {
        size_t left = size - at;

        memcpy(value + at, &word, left < sizeof(word) ? left : sizeof(word));
        word = word * 6364136223846793005u + 1442695040888963407u;
    }
}

static int key_name(const struct client *client, char *text, size_t size, uint64_t key)
{
    if (key >= client->options.keys)
        return snprintf(text, size, "fill:%" PRIu64, key - client->options.keys);
    return snprintf(text, size, "key:%" PRIu64, key);
}

/* ---- making requests ------------------------------------------------------------------------ */

static void encode(struct client *client, const struct request *request)
{
    char name[40];
    int name_length = key_name(client, name, sizeof(name), request->key);
    char *out = (char *)client->out + client->out_length;
    size_t size = client->options.value_size;

    if (request->kind == SET || request->kind == FILL) {
        out += sprintf(out, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%zu\r\n", name_length, name, size);
        make_value(client, (unsigned char *)out, request->key, request->version);
        out += size;
        out += sprintf(out, "\r\n");
    } else {
        out += sprintf(out, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", name_length, name);
    }
    client->out_length = (size_t)(out - (char *)client->out);
}

/* The next request of the phase; false when it has no more. */
static bool next_request(struct client *client, struct request *request)
{
    uint64_t item = client->next_item;
    uint64_t keys = client->options.keys;

    switch (client->phase) {
    case PRELOAD:
        if (item >= client->fill_count || client->stopping)
            return false;
        *request = (struct request){.kind = FILL, .key = keys + item, .version = 1};
        client->sent_version[request->key] = 1;
        break;
    case LOAD:
        if (client->stopping)
            return false;
        *request = (struct request){.kind = item % 2 ? GET : SET, .key = item / 2 % keys};
        if (request->kind == SET)
            client->sent_version[request->key]++;
        request->version = client->sent_version[request->key];
        break;
    case VERIFY:
        while (item < keys + client->fill_count && !client->acked_version[item])
            item++;
        if (item >= keys + client->fill_count)
            return false;
        *request = (struct request){.kind = READ_BACK, .key = item};
        request->version = client->acked_version[item];
        break;
    case DONE:
        return false;
    }
    client->next_item = item + 1;
    return true;
}

static uint64_t depth(const struct client *client)
{
    return client->phase == LOAD ? client->options.outstanding : client->ring_size;
}

/* Issues what the depth and the rate allow. False when the phase has no more requests. */
bool client_issue(struct client *client)
{
    uint64_t now = wl_now_us();
    bool paced = client->phase == LOAD && client->options.interval_us;
    struct request request;

    while (client_outstanding(client) < depth(client)) {
        if (paced && now < client->next_send_us)
            return true;
        if (!next_request(client, &request))
            return false;
        request.sent_us = now;
        client->ring[client->issued++ % client->ring_size] = request;
        encode(client, &request);
        /* No burst after a silence: the pace starts anew. */
        if (paced) {
            client->next_send_us += client->options.interval_us;
            if (client->next_send_us < now)
                client->next_send_us = now;
        }
    }
    return true;
}

/* ---- judging replies ------------------------------------------------------------------------ */

static bool holds_version(struct client *client, const unsigned char *value, ssize_t size,
                          uint64_t key, uint32_t version)
{
    if (size != (ssize_t)client->options.value_size)
        return false;
    make_value(client, client->expected, key, version);
    return memcmp(value, client->expected, (size_t)size) == 0;
}

static void judge_read_back(struct client *client, const struct request *request,
                            const unsigned char *value, ssize_t size)
{
    /* A write sent but not acknowledged may have happened: any version from the acknowledged on. */
    for (uint32_t v = request->version; v <= client->sent_version[request->key]; v++) {
        if (holds_version(client, value, size, request->key, v))
            return;
    }
    client->lost++;
}

static void judge(struct client *client, const struct request *request, char type,
                  const unsigned char *value, ssize_t size)
{
    if (type == '-') {
        client->errors++;
        if (request->kind == READ_BACK)
            client->lost++;
        return;
    }
    switch (request->kind) {
    case FILL:
    case SET:
        client->acked_version[request->key] = request->version;
        if (request->kind == SET)
            client->acknowledged++;
        else
            client->filled++;
        break;
    case GET:
        if (holds_version(client, value, size, request->key, request->version))
            client->read_back++;
        else
            client->wrong_reads++;
        break;
    case READ_BACK:
        judge_read_back(client, request, value, size);
        break;
    }
}

/* Length of the first whole reply in the buffer, 0 when it is not whole yet. */
static size_t parse_reply(const unsigned char *in, size_t length, char *type,
                          const unsigned char **value, ssize_t *value_size)
{
    const unsigned char *end = memchr(in, '\n', length);
    size_t head;
    long size;

    if (!end)
        return 0;
    head = (size_t)(end - in) + 1;
    *type = (char)in[0];
    *value = NULL;
    *value_size = -1;
    if (*type != '$')
        return head;
    size = strtol((const char *)in + 1, NULL, 10);
    if (size < 0)
        return head;
    if (length < head + (size_t)size + 2)
        return 0;
    *value = in + head;
    *value_size = size;
    return head + (size_t)size + 2;
}

uint64_t client_silent_since(struct client *client)
{
    uint64_t sent = client_oldest(client)->sent_us;

    return sent > client->last_reply_us ? sent : client->last_reply_us;
}

void client_note_silence(struct client *client, uint64_t now)
{
    uint64_t from = client_silent_since(client);

    if (client->phase != LOAD)
        return;
    wl_gaps_note(&client->gaps, from, now);
    wl_gaps_note(&client->since_mark, from, now);
}

static void break_off(struct client *client)
{
    client->broken = true;
    if (client->phase == LOAD || client->phase == PRELOAD)
        client->resets++;
}

void client_receive(struct client *client)
{
    ssize_t got =
        recv(client->fd, client->in + client->in_length, client->in_size - client->in_length, 0);
    uint64_t now = wl_now_us();
    size_t done = 0;

    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        break_off(client);
        return;
    }
    client->in_length += got > 0 ? (size_t)got : 0;
    while (client_outstanding(client) > 0) {
        const unsigned char *value;
        ssize_t value_size;
        char type;
        size_t length =
            parse_reply(client->in + done, client->in_length - done, &type, &value, &value_size);

        if (length == 0)
            break;
        client_note_silence(client, now);
        judge(client, client_oldest(client), type, value, value_size);
        if (client->phase == VERIFY)
            client->verified_until = client_oldest(client)->key + 1;
        client->answered++;
        client->last_reply_us = now;
        done += length;
    }
    memmove(client->in, client->in + done, client->in_length - done);
    client->in_length -= done;
    if (client->in_length == client->in_size)
        wl_die("a reply longer than any value was sent: is this redis?");
}

void client_transmit(struct client *client)
{
    size_t done = 0;

    while (done < client->out_length) {
        ssize_t sent =
            send(client->fd, client->out + done, client->out_length - done, MSG_NOSIGNAL);

        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR)
                break_off(client);
            break;
        }
        done += (size_t)sent;
    }
    memmove(client->out, client->out + done, client->out_length - done);
    client->out_length -= done;
}

void client_give_up(struct client *client)
{
    uint64_t total = client->options.keys + client->fill_count;

    for (uint64_t key = client->verified_until; key < total; key++)
        client->lost += client->acked_version[key] ? 1 : 0;
}
