#include "network/haproxy.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "network/address.h"

#define ANSWER_MAX (1u << 20) /* some ten thousand servers */
#define COLUMNS_MAX 64
#define STATE_VERSION "1"
#define SERVER_RUNNING 2        /* of srv_op_state */
#define DISABLED_BY_CONFIG 0x04 /* of srv_admin_state: how it started, not how it is */
#define CROWDED_PAUSE_MS 10

/* ---- addresses ---- */

/* "192.0.2.1:9999" or "[2001:db8::1]:9999". */
static int parse_tcp(const char *text, struct fm_ip *ip, uint16_t *port, struct fm_error *err)
{
    fm_autofree char *copy = fm_xstrdup(text);
    char *colon = strrchr(copy, ':');
    int64_t number = 0;
    if (!colon || fm_parse_int(colon + 1, 1, 65535, &number, NULL) < 0)
        return fm_error_set(
            err, FM_E_INVALID,
            "HAProxy's stats socket '%s' is neither an absolute path nor ADDRESS:PORT", text);
    *colon = '\0';
    *port = (uint16_t)number;
    char *host = copy;
    if (host[0] == '[' && colon > copy && colon[-1] == ']') {
        colon[-1] = '\0';
        host++;
    }
    return fm_ip_parse("address of HAProxy's stats socket", host, ip, err);
}

static int parse_socket(const char *text, struct sockaddr_storage *address, socklen_t *len,
                        struct fm_error *err)
{
    struct fm_ip ip = {0};
    uint16_t port = 0;
    *address = (struct sockaddr_storage){0};
    if (text[0] != '/') {
        int rc = parse_tcp(text, &ip, &port, err);
        if (rc == 0)
            *len = fm_ip_sockaddr(&ip, port, address);
        return rc;
    }
    struct sockaddr_un *un = (struct sockaddr_un *)address;
    if (strlen(text) >= sizeof(un->sun_path))
        return fm_error_set(err, FM_E_INVALID, "path of HAProxy's stats socket '%s' is too long",
                            text);
    un->sun_family = AF_UNIX;
    snprintf(un->sun_path, sizeof(un->sun_path), "%s", text);
    *len = sizeof(*un);
    return 0;
}

int fm_haproxy_check_socket(const char *socket, struct fm_error *err)
{
    struct sockaddr_storage address;
    socklen_t len;
    return parse_socket(socket, &address, &len, err);
}

int fm_haproxy_check_name(const char *what, const char *name, struct fm_error *err)
{
    size_t len = strlen(name);
    size_t good =
        strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-");
    if (len > 0 && len == good && len <= 128)
        return 0;
    return fm_error_set(err, FM_E_INVALID,
                        "%s '%.128s' is not a name of HAProxy (letters, digits and _ . : -)", what,
                        name);
}

/* ---- question and answer ---- */

static int say_timeout(const struct fm_haproxy *h, struct fm_error *err)
{
    return fm_error_set(err, FM_E_TIMEOUT, "HAProxy at %s does not answer within %" PRIu64 " ms",
                        h->socket, h->timeout_ms);
}

static int wait_for(const struct fm_haproxy *h, int fd, short events, struct fm_error *err)
{
    for (;;) {
        uint64_t now = fm_now_ms();
        struct pollfd p = {.fd = fd, .events = events};
        if (now >= h->deadline)
            return say_timeout(h, err);
        int ready = poll(&p, 1, (int)fm_cancel_slice(&h->cancel, h->deadline - now));
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return fm_error_errno(err, errno, "cannot wait for HAProxy at %s", h->socket);
        int rc = fm_cancel_check(&h->cancel, err);
        if (rc < 0)
            return rc;
    }
}

static int say_unreachable(const struct fm_haproxy *h, int error, struct fm_error *err)
{
    return fm_error_set(err, FM_E_UNREACHABLE, "HAProxy at %s cannot be reached: %s", h->socket,
                        strerror(error));
}

static int finish_connect(const struct fm_haproxy *h, int fd, struct fm_error *err)
{
    int error = 0;
    socklen_t len = sizeof(error);
    int rc = wait_for(h, fd, POLLOUT, err);
    if (rc < 0)
        return rc;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    return error ? say_unreachable(h, error, err) : 0;
}

static int connect_to(const struct fm_haproxy *h, struct fm_error *err)
{
    struct sockaddr_storage address;
    socklen_t len;
    int rc = parse_socket(h->socket, &address, &len, err);
    if (rc < 0)
        return rc;
    fm_autoclose int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fm_error_errno(err, errno, "cannot make a socket");
    while (connect(fd, (struct sockaddr *)&address, len) < 0) {
        if (errno == EINPROGRESS) {
            rc = finish_connect(h, fd, err);
            break;
        }
        if (errno != EAGAIN && errno != EINTR)
            return say_unreachable(h, errno, err);
        if (fm_now_ms() >= h->deadline) /* a Unix socket whose queue is full */
            return say_timeout(h, err);
        if ((rc = fm_cancel_check(&h->cancel, err)) < 0)
            return rc;
        poll(NULL, 0, CROWDED_PAUSE_MS);
    }
    return rc < 0 ? rc : FM_MOVE_FD(fd);
}

static int send_all(const struct fm_haproxy *h, int fd, const char *text, struct fm_error *err)
{
    size_t len = strlen(text);
    while (len > 0) {
        ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return say_unreachable(h, errno, err);
        if (n < 0) {
            int rc = wait_for(h, fd, POLLOUT, err);
            if (rc < 0)
                return rc;
            continue;
        }
        text += n;
        len -= (size_t)n;
    }
    return 0;
}

/* HAProxy closes the connection after its answer. */
static int receive_all(const struct fm_haproxy *h, int fd, char **answer, struct fm_error *err)
{
    size_t len = 0, size = 4096;
    fm_autofree char *text = fm_xmalloc(size);
    for (;;) {
        int rc = wait_for(h, fd, POLLIN, err);
        if (rc < 0)
            return rc;
        if (size - len < 2048)
            text = fm_xrealloc(text, size *= 2);
        ssize_t n = recv(fd, text + len, size - len - 1, 0);
        if (n == 0)
            break;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return say_unreachable(h, errno, err);
        if (n > 0)
            len += (size_t)n;
        if (len > ANSWER_MAX)
            return fm_error_set(err, FM_E_PROTOCOL, "HAProxy at %s answers more than 1 MiB",
                                h->socket);
    }
    if (memchr(text, '\0', len))
        return fm_error_set(err, FM_E_PROTOCOL, "HAProxy at %s answers something that is not text",
                            h->socket);
    text[len] = '\0';
    *answer = FM_MOVE(text);
    return 0;
}

/* The caller frees *answer. */
static int ask(const struct fm_haproxy *h, const char *command, char **answer, struct fm_error *err)
{
    fm_autoclose int fd = connect_to(h, err);
    if (fd < 0)
        return fd;
    int rc = send_all(h, fd, command, err);
    return rc < 0 ? rc : receive_all(h, fd, answer, err);
}

/* The first line of an answer as far as it can be shown; cuts `answer`. */
static const char *first_line(char *answer)
{
    fm_trim(answer);
    size_t len = strcspn(answer, "\n");
    if (len > 120)
        len = 120;
    answer[len] = '\0';
    for (char *c = answer; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 127)
            *c = '?';
    return answer;
}

/* An answer that is not what was asked for: HAProxy's own words tell why. */
static int judge_refusal(const struct fm_haproxy *h, char *answer, bool *has_backend,
                         struct fm_error *err)
{
    const char *line = first_line(answer);
    if (fm_starts_with(line, "Can't find backend")) {
        *has_backend = false;
        return fm_error_set(err, FM_E_NOT_FOUND, "HAProxy at %s has no backend '%s'", h->socket,
                            h->backend);
    }
    if (fm_starts_with(line, "Permission denied"))
        return fm_error_set(err, FM_E_AUTH,
                            "HAProxy at %s denies permission: its stats socket needs 'level admin'",
                            h->socket);
    return fm_error_set(err, FM_E_PROTOCOL, "HAProxy at %s does not list its servers but says '%s'",
                        h->socket, line);
}

/* ---- the servers of a backend ---- */

struct row {
    char *fields[COLUMNS_MAX];
    size_t count;
};

/* Cuts a line; false when it has more fields than anybody writes. */
static bool split(char *line, const char *separator, struct row *row)
{
    row->count = 0;
    char *field;
    while ((field = strsep(&line, separator)) != NULL) {
        if (row->count == COLUMNS_MAX)
            return false;
        row->fields[row->count++] = field;
    }
    return true;
}

/* The field under a heading; NULL when the table has no such column or the row is short. */
static const char *field_of(const struct row *heading, const struct row *row, const char *name)
{
    for (size_t i = 0; i < heading->count && i < row->count; i++)
        if (fm_streq(heading->fields[i], name))
            return row->fields[i];
    return NULL;
}

static bool number_of(const struct row *heading, const struct row *row, const char *name,
                      int64_t max, int64_t *value)
{
    const char *text = field_of(heading, row, name);
    return text && fm_parse_int(text, 0, max, value, NULL) == 0;
}

static bool read_server(const struct row *heading, const struct row *row,
                        struct fm_haproxy_server *server)
{
    int64_t backend, state, admin, weight, port;
    const char *address = field_of(heading, row, "srv_addr");
    struct fm_ip ip;
    *server = (struct fm_haproxy_server){0};
    if (!address || row->count != heading->count ||
        !number_of(heading, row, "be_id", INT32_MAX, &backend) ||
        !number_of(heading, row, "srv_op_state", 255, &state) ||
        !number_of(heading, row, "srv_admin_state", 255, &admin) ||
        !number_of(heading, row, "srv_uweight", FM_HAPROXY_MAX_WEIGHT, &weight) ||
        !number_of(heading, row, "srv_port", 65535, &port))
        return false;
    if (fm_ip_parse("address", address, &ip, NULL) == 0) /* "-" for one of a Unix socket */
        fm_ip_format(&ip, server->address);
    server->backend_id = (unsigned)backend;
    server->port = (uint16_t)port;
    server->weight = (unsigned)weight;
    server->up = state == SERVER_RUNNING && (admin & ~DISABLED_BY_CONFIG) == 0;
    return true;
}

struct search {
    const struct fm_haproxy *h;
    const char *name;
    struct fm_haproxy_server *server;
    unsigned others_up;
    bool found;
};

static int look_at(struct search *s, const struct row *heading, struct row *row,
                   struct fm_error *err)
{
    const char *backend = field_of(heading, row, "be_name");
    const char *name = field_of(heading, row, "srv_name");
    struct fm_haproxy_server server;
    if (!backend || !name || !fm_streq(backend, s->h->backend) ||
        !read_server(heading, row, &server))
        return fm_error_set(err, FM_E_PROTOCOL,
                            "HAProxy at %s describes a server of backend '%s' in a way that is not "
                            "understood",
                            s->h->socket, s->h->backend);
    if (!fm_streq(name, s->name)) {
        s->others_up += server.up && server.weight > 0;
        return 0;
    }
    s->found = true;
    *s->server = server;
    return 0;
}

/* "1", "# be_id be_name …", and a line for each server. */
static int search_state(struct search *s, char *answer, bool *has_backend, struct fm_error *err)
{
    char *rest = answer;
    struct row heading, row;
    if (!fm_starts_with(answer, STATE_VERSION "\n# "))
        return judge_refusal(s->h, answer, has_backend, err);
    strsep(&rest, "\n");
    char *line = strsep(&rest, "\n");
    bool whole = split(line + strlen("# "), " ", &heading);
    while (whole && (line = strsep(&rest, "\n")) != NULL && *line) {
        whole = split(line, " ", &row);
        int rc = whole ? look_at(s, &heading, &row, err) : 0;
        if (rc < 0)
            return rc;
    }
    if (!whole)
        return fm_error_set(err, FM_E_PROTOCOL, "HAProxy at %s lists servers with too many columns",
                            s->h->socket);
    return 0;
}

int fm_haproxy_read(const struct fm_haproxy *haproxy, const char *name,
                    struct fm_haproxy_server *server, unsigned *others_up, bool *has_backend,
                    struct fm_error *err)
{
    struct search s = {.h = haproxy, .name = name, .server = server};
    fm_autofree char *command = fm_strf("show servers state %s\n", haproxy->backend);
    fm_autofree char *answer = NULL;
    bool there = true;
    int rc = ask(haproxy, command, &answer, err);
    if (rc == 0)
        rc = search_state(&s, answer, &there, err);
    if (has_backend)
        *has_backend = there;
    if (rc < 0)
        return rc;
    if (!s.found)
        return fm_error_set(err, FM_E_NOT_FOUND, "backend '%s' of HAProxy at %s has no server '%s'",
                            haproxy->backend, haproxy->socket, name);
    if (others_up)
        *others_up = s.others_up;
    return 0;
}

int fm_haproxy_sessions(const struct fm_haproxy *haproxy, const char *name,
                        const struct fm_haproxy_server *server, uint64_t *count,
                        struct fm_error *err)
{
    /* By number: a frontend may bear the backend's name, and is found first. Type 4: servers only.
     * The columns up to scur hold no quotes. */
    fm_autofree char *command = fm_strf("show stat %u 4 -1\n", server->backend_id);
    fm_autofree char *answer = NULL;
    int rc = ask(haproxy, command, &answer, err);
    if (rc < 0)
        return rc;
    char *rest = answer;
    char *line = strsep(&rest, "\n");
    if (!fm_starts_with(line, "# pxname,svname,qcur,qmax,scur,"))
        return fm_error_set(err, FM_E_PROTOCOL,
                            "HAProxy at %s does not tell its sessions but says '%s'",
                            haproxy->socket, first_line(line));
    fm_autofree char *wanted = fm_strf("%s,%s,", haproxy->backend, name);
    while ((line = strsep(&rest, "\n")) != NULL) {
        int64_t value = 0;
        char *at = line + strlen(wanted);
        if (!fm_starts_with(line, wanted))
            continue;
        strsep(&at, ",");
        if (at)
            strsep(&at, ",");
        const char *sessions = at ? strsep(&at, ",") : "";
        if (fm_parse_int(sessions, 0, INT64_MAX, &value, NULL) < 0)
            break;
        *count = (uint64_t)value;
        return 0;
    }
    return fm_error_set(err, FM_E_PROTOCOL, "HAProxy at %s does not tell the sessions of %s/%s",
                        haproxy->socket, haproxy->backend, name);
}

/* ---- changes ---- */

static int change(const struct fm_haproxy *h, const char *name, const char *command,
                  struct fm_haproxy_server *after, char **answer, struct fm_error *err)
{
    fm_autofree char *line = fm_strf("set server %s/%s %s\n", h->backend, name, command);
    int rc = ask(h, line, answer, err);
    return rc < 0 ? rc : fm_haproxy_read(h, name, after, NULL, NULL, err);
}

static int say_unchanged(const struct fm_haproxy *h, const char *name, const char *command,
                         char *answer, struct fm_error *err)
{
    const char *line = first_line(answer);
    return fm_error_set(err, FM_E_FAILED, "HAProxy at %s does not set %s of server %s/%s: %s",
                        h->socket, command, h->backend, name, *line ? line : "it says nothing");
}

int fm_haproxy_set_weight(const struct fm_haproxy *haproxy, const char *name, unsigned weight,
                          struct fm_error *err)
{
    struct fm_haproxy_server after;
    fm_autofree char *command = fm_strf("weight %u", weight);
    fm_autofree char *answer = NULL;
    int rc = change(haproxy, name, command, &after, &answer, err);
    if (rc < 0)
        return rc;
    return after.weight == weight ? 0 : say_unchanged(haproxy, name, command, answer, err);
}

int fm_haproxy_set_address(const struct fm_haproxy *haproxy, const char *name, const char *address,
                           uint16_t port, struct fm_error *err)
{
    struct fm_haproxy_server after;
    /* Port 0: the one that the client came to. */
    fm_autofree char *command =
        port ? fm_strf("addr %s port %u", address, port) : fm_strf("addr %s", address);
    fm_autofree char *answer = NULL;
    int rc = change(haproxy, name, command, &after, &answer, err);
    if (rc < 0)
        return rc;
    return fm_streq(after.address, address) && after.port == port
               ? 0
               : say_unchanged(haproxy, name, command, answer, err);
}
