#include "migration/link.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "state/checkpoint.h"
#include "state/tree_stream.h"
#include "wire/connection.h"

#define CHUNK (1u << 20)
#define PROTOCOL_VERSION 1

struct fm_link {
    struct fm_connection *connection;
    struct fm_checkpoint_sender *sender;
};

int fm_host_from_json(const json_t *doc, struct fm_host *host, struct fm_error *err)
{
    const char *name = NULL, *address = NULL;
    int cordoned = 0;
    *host = (struct fm_host){0};
    if (json_unpack((json_t *)(uintptr_t)doc, "{s:s, s:s, s:i, s:i, s?b}", "name", &name, "address",
                    &address, "wire_port", &host->wire_port, "api_port", &host->api_port,
                    "cordoned", &cordoned) < 0)
        return fm_error_set(err, FM_E_INVALID, "host record lacks name, address or ports");
    snprintf(host->name, sizeof(host->name), "%s", name);
    snprintf(host->address, sizeof(host->address), "%s", address);
    host->cordoned = cordoned;
    return 0;
}

json_t *fm_host_to_json(const struct fm_host *host)
{
    return json_pack("{s:s, s:s, s:i, s:i, s:b}", "name", host->name, "address", host->address,
                     "wire_port", host->wire_port, "api_port", host->api_port, "cordoned",
                     (int)host->cordoned);
}

static void link_close(struct fm_link *link)
{
    if (!link)
        return;
    if (link->sender)
        fm_checkpoint_send_abort(link->sender);
    fm_connection_close(link->connection);
    free(link);
}

static int greet(struct fm_connection *c, const char *self, struct fm_error *err)
{
    json_auto_t *hello = json_pack("{s:i, s:s}", "version", PROTOCOL_VERSION, "host", self);
    int rc = fm_connection_send_json(c, FM_FRAME_HELLO, hello, err);
    if (rc < 0)
        return rc;
    json_auto_t *answer = fm_connection_expect(c, FM_FRAME_HELLO, err);
    return answer ? 0 : fm_error_result(err);
}

struct fm_connection *fm_link_wire_connect(const struct fm_link_wire *wire,
                                           const struct fm_host *host, uint64_t timeout_ms,
                                           struct fm_error *err)
{
    struct fm_connection *c = fm_connection_open(wire->identity, host->address, host->wire_port,
                                                 host->name, timeout_ms, err);
    if (!c) {
        fm_error_prefix(err, "host '%s' is offline", host->name);
        return NULL;
    }
    fm_connection_set_timeout(c, timeout_ms);
    if (greet(c, wire->self, err) == 0)
        return c;
    fm_error_prefix(err, "host '%s'", host->name);
    fm_connection_close(c);
    return NULL;
}

static struct fm_link *link_open(void *ctx, const struct fm_host *host, uint64_t rate,
                                 uint64_t timeout_ms, struct fm_error *err)
{
    struct fm_connection *c = fm_link_wire_connect(ctx, host, timeout_ms, err);
    if (!c)
        return NULL;
    struct fm_link *link = fm_xcalloc(1, sizeof(*link));
    link->connection = c;
    fm_connection_set_rate(c, rate);
    return link;
}

static void link_shutdown(struct fm_link *link)
{
    fm_connection_shutdown(link->connection);
}

static uint64_t link_bytes(const struct fm_link *link)
{
    return fm_connection_sent(link->connection) + fm_connection_received(link->connection);
}

/* The answer that each request waits for. */
static enum fm_frame_type answer_to(int request)
{
    switch (request) {
    case FM_FRAME_PREPARE:
        return FM_FRAME_PREPARED;
    case FM_FRAME_ARM:
        return FM_FRAME_ARMED;
    case FM_FRAME_FROZEN:
        return FM_FRAME_READY;
    case FM_FRAME_COMMIT:
        return FM_FRAME_RUNNING;
    case FM_FRAME_ABORT:
        return FM_FRAME_ABORTED;
    case FM_FRAME_VERIFY:
        return FM_FRAME_VERIFIED;
    case FM_FRAME_COMPLETE:
        return FM_FRAME_COMPLETED;
    case FM_FRAME_RETURN:
        return FM_FRAME_RETURNED;
    case FM_FRAME_DECISION:
        return FM_FRAME_DECIDED;
    case FM_FRAME_CHECK:
        return FM_FRAME_CHECKED;
    case FM_FRAME_FABRIC:
        return FM_FRAME_FABRIC_DONE;
    case FM_FRAME_TREE:
        return FM_FRAME_TREE_DONE;
    case FM_FRAME_FILL:
        return FM_FRAME_FILLED;
    default:
        return FM_FRAME_PONG;
    }
}

static int link_ask(struct fm_link *link, int frame_type, const json_t *body, struct fm_error *err)
{
    return fm_connection_send_json(link->connection, (enum fm_frame_type)frame_type, body, err);
}

static json_t *link_answer(struct fm_link *link, int frame_type, uint64_t timeout_ms,
                           struct fm_error *err)
{
    fm_connection_set_timeout(link->connection, timeout_ms);
    return fm_connection_expect(link->connection, answer_to(frame_type), err);
}

static json_t *link_call(struct fm_link *link, int frame_type, const json_t *body,
                         uint64_t timeout_ms, struct fm_error *err)
{
    fm_connection_set_timeout(link->connection, timeout_ms);
    if (link_ask(link, frame_type, body, err) < 0)
        return NULL;
    return link_answer(link, frame_type, timeout_ms, err);
}

static int send_named(struct fm_link *link, enum fm_frame_type type, const char *migration,
                      const char *name, uint64_t offset, struct fm_error *err)
{
    json_auto_t *body = json_pack("{s:s, s:s, s:I}", "migration", migration, "name", name, "offset",
                                  (json_int_t)offset);
    return fm_connection_send_json(link->connection, type, body, err);
}

static int link_send_tree(struct fm_link *link, const char *migration, const char *name,
                          const char *dir, const struct fm_tree_selection *selection,
                          uint64_t *bytes, struct fm_error *err)
{
    struct fm_tree_stats stats = {0};
    if (send_named(link, FM_FRAME_TREE, migration, name, 0, err) < 0 ||
        fm_tree_send_selected(link->connection, dir, selection, &stats, err) < 0)
        return fm_error_prefix(err, "cannot send %s", name);
    json_auto_t *done = fm_connection_expect(link->connection, FM_FRAME_TREE_DONE, err);
    if (!done)
        return fm_error_prefix(err, "cannot send %s", name);
    if (bytes)
        *bytes += stats.bytes;
    return 0;
}

static int link_send_file(struct fm_link *link, const char *migration, const char *name,
                          const char *path, uint64_t offset, uint64_t *size, struct fm_error *err)
{
    fm_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st = {0};
    if (fd < 0 || fstat(fd, &st) < 0)
        return fm_error_errno(err, errno, "cannot open %s", path);
    int rc = send_named(link, FM_FRAME_IMAGE, migration, name, offset, err);
    fm_autofree uint8_t *buf = fm_xmalloc(CHUNK);
    uint64_t at = offset, end = (uint64_t)st.st_size;
    while (rc == 0 && at < end) {
        size_t want = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
        ssize_t n = pread(fd, buf, want, (off_t)at);
        if (n <= 0)
            return fm_error_errno(err, n < 0 ? errno : EIO, "cannot read %s", path);
        rc = fm_connection_send(link->connection, FM_FRAME_DATA, buf, (size_t)n, err);
        at += (uint64_t)n;
    }
    *size = at;
    json_auto_t *end_of_file = json_pack("{s:I}", "bytes", (json_int_t)(at - offset));
    return rc < 0 ? rc
                  : fm_connection_send_json(link->connection, FM_FRAME_DATA_END, end_of_file, err);
}

static int link_images_begin(struct fm_link *link, const char *dir, struct fm_error *err)
{
    link->sender = fm_checkpoint_send_begin(link->connection, dir, err);
    return link->sender ? 0 : -FM_E_FAILED;
}

static json_t *link_images_finish(struct fm_link *link, uint64_t *bytes, uint64_t *early,
                                  struct fm_error *err)
{
    struct fm_checkpoint_stats stats = {0};
    json_t *manifest = fm_checkpoint_send_finish(FM_MOVE(link->sender), &stats, err);
    *bytes = stats.bytes;
    *early = stats.early_bytes;
    return manifest;
}

static void link_images_abort(struct fm_link *link)
{
    if (link->sender)
        fm_checkpoint_send_abort(FM_MOVE(link->sender));
}

static const struct fm_link_ops wire_ops = {
    .open = link_open,
    .close = link_close,
    .shutdown = link_shutdown,
    .bytes = link_bytes,
    .call = link_call,
    .ask = link_ask,
    .answer = link_answer,
    .send_tree = link_send_tree,
    .send_file = link_send_file,
    .images_begin = link_images_begin,
    .images_finish = link_images_finish,
    .images_abort = link_images_abort,
};

void fm_links_wire_open(struct fm_link_wire *wire, struct fm_links *links)
{
    links->ops = &wire_ops;
    links->ctx = wire;
}
