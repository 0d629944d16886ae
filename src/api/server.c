#include "api/server.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "api/events.h"
#include "api/listener.h"
#include "api/routes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"

#define BODY_LIMIT (1U << 20)
/* A body over the limit is read on so far, so that the client gets to see why it is refused. */
#define DISCARD_LIMIT (16U << 20)
#define CONNECTION_LIMIT 256U
#define PER_ADDRESS_LIMIT 64U
#define IDLE_TIMEOUT_S 60U
#define PEM_LIMIT (1U << 20)
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3"

struct fm_api_server {
    struct fm_api_context context;
    char *host;
    struct MHD_Daemon *tcp, *local;
    int port;
    int stop_fd;
    char *socket_path;
    uid_t *uids;
    size_t uid_count;
    char *ca, *cert, *key; /* the PEM texts */
};

/* A request while its body arrives. */
struct pending {
    bool local;
    char *body;
    size_t len;
    size_t discarded;
};

/* --- who asks --- */

static int local_peer(const struct fm_api_server *server, struct MHD_Connection *connection,
                      struct fm_tls_peer *peer, struct fm_error *err)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred cred;
    socklen_t len = sizeof(cred);
    bool allowed;

    if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return fm_error_set(err, FM_E_AUTH, "cannot tell who is at the other end of the socket");
    allowed = cred.uid == 0;
    for (size_t i = 0; i < server->uid_count && !allowed; i++)
        allowed = cred.uid == server->uids[i];
    if (!allowed)
        return fm_error_set(err, FM_E_AUTH,
                            "uid %u may not use this socket; use sudo, or add the uid to api.uids",
                            cred.uid);
    snprintf(peer->name, sizeof(peer->name), "uid %u", cred.uid);
    snprintf(peer->role, sizeof(peer->role), "%s", FM_ROLE_OPERATOR);
    return 0;
}

static int remote_peer(struct MHD_Connection *connection, struct fm_tls_peer *peer,
                       struct fm_error *err)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);

    if (!info || !info->tls_session)
        return fm_error_set(err, FM_E_AUTH, "this connection has no TLS session");
    /* libmicrohttpd asks for a certificate but takes the connection without one. */
    if (fm_tls_verify_peer(info->tls_session, NULL, peer, err) < 0)
        return fm_error_recode(err, FM_E_AUTH);
    return 0;
}

static int authorise(const struct fm_tls_peer *peer, const struct fm_api_route *route,
                     struct fm_error *err)
{
    if (fm_streq(peer->role, FM_ROLE_OPERATOR) || fm_streq(peer->role, FM_ROLE_NODE))
        return 0;
    if (!fm_streq(peer->role, FM_ROLE_VIEWER))
        return fm_error_set(err, FM_E_AUTH,
                            "the certificate of '%s' has the unknown role '%s'; "
                            "issue it as viewer, operator or node",
                            peer->name, peer->role);
    if (route->writes)
        return fm_error_set(err, FM_E_AUTH, "'%s' is a viewer: %s %s needs the role operator",
                            peer->name, route->method, route->path);
    return 0;
}

/* --- what is asked --- */

static int parse_body(const struct pending *pending, json_t **body, struct fm_error *err)
{
    json_error_t where;

    if (pending->len == 0) {
        *body = json_object();
        return 0;
    }
    *body = json_loadb(pending->body, pending->len, JSON_REJECT_DUPLICATES, &where);
    if (!*body)
        return fm_error_set(err, FM_E_INVALID, "the body is not JSON: line %d, column %d: %s",
                            where.line, where.column, where.text);
    if (!json_is_object(*body))
        return fm_error_set(err, FM_E_INVALID, "the body is not a JSON object");
    return 0;
}

static int no_route(struct fm_api_reply *reply, const char *method, const char *path,
                    const char *allowed, struct fm_error *err)
{
    if (!allowed)
        return fm_error_set(err, FM_E_NOT_FOUND, "there is no %s here", path);
    fm_error_set(err, FM_E_USAGE, "%s does not take %s, only %s", path, method, allowed);
    fm_api_reply_problem(reply, MHD_HTTP_METHOD_NOT_ALLOWED, err);
    MHD_add_response_header(reply->response, MHD_HTTP_HEADER_ALLOW, allowed);
    return 0;
}

/* Fills in *reply, or fails and leaves it to the caller to answer the problem. */
static int answer(struct fm_api_server *server, struct MHD_Connection *connection,
                  const char *method, const char *path, const struct pending *pending,
                  struct fm_api_reply *reply, struct fm_error *err)
{
    struct fm_api_request request = {.context = &server->context, .connection = connection};
    fm_autofree char *argument = NULL;
    fm_autofree char *allowed = NULL;
    json_auto_t *body = NULL;
    const struct fm_api_route *route;
    int ret;

    ret = pending->local ? local_peer(server, connection, &request.peer, err)
                         : remote_peer(connection, &request.peer, err);
    if (ret < 0)
        return ret;
    route = fm_api_route_find(method, path, &argument, &allowed);
    if (!route)
        return no_route(reply, method, path, allowed, err);
    if (authorise(&request.peer, route, err) < 0)
        return -FM_E_AUTH;
    if (pending->discarded > 0) {
        fm_error_set(err, FM_E_INVALID, "the body is larger than %u bytes", BODY_LIMIT);
        fm_api_reply_problem(reply, MHD_HTTP_CONTENT_TOO_LARGE, err);
        return 0;
    }
    ret = parse_body(pending, &body, err);
    if (ret < 0)
        return ret;

    fm_log(route->writes ? FM_LOG_INFO : FM_LOG_DEBUG, FM_MIGRATION_MANAGER,
           "%s %s asked by %s (%s).", method, path, request.peer.name, request.peer.role);
    request.argument = argument;
    request.body = body;
    return route->handle(&request, reply, err);
}

static enum MHD_Result respond(struct fm_api_server *server, struct MHD_Connection *connection,
                               const char *method, const char *path, const struct pending *pending)
{
    struct fm_api_reply reply = {0};
    struct fm_error err = {0};
    enum MHD_Result result;

    /* A handler may take its time: the idle limit is for those who do not ask anything. */
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, 0U);
    if (answer(server, connection, method, path, pending, &reply, &err) < 0)
        fm_api_reply_problem(&reply, 0, &err);
    if (!reply.lasting)
        MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, IDLE_TIMEOUT_S);
    result = MHD_queue_response(connection, reply.status, reply.response);
    MHD_destroy_response(reply.response);
    return result;
}

/* --- libmicrohttpd --- */

static bool take_upload(struct pending *pending, const char *data, size_t len)
{
    if (pending->discarded > 0 || pending->len + len > BODY_LIMIT) {
        pending->discarded += len;
        return pending->discarded <= DISCARD_LIMIT;
    }
    pending->body = fm_xrealloc(pending->body, pending->len + len);
    memcpy(pending->body + pending->len, data, len);
    pending->len += len;
    return true;
}

static enum MHD_Result handle(struct fm_api_server *server, bool local,
                              struct MHD_Connection *connection, const char *url,
                              const char *method, const char *data, size_t *len, void **state)
{
    struct pending *pending = *state;

    if (!pending) {
        pending = fm_xcalloc(1, sizeof(*pending));
        pending->local = local;
        *state = pending;
        return MHD_YES;
    }
    if (*len > 0) {
        bool goes_on = take_upload(pending, data, *len);

        *len = 0;
        return goes_on ? MHD_YES : MHD_NO;
    }
    return respond(server, connection, method, url, pending);
}

static enum MHD_Result handle_tcp(void *ctx, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *len, void **state)
{
    (void)version;
    return handle(ctx, false, connection, url, method, data, len, state);
}

static enum MHD_Result handle_local(void *ctx, struct MHD_Connection *connection, const char *url,
                                    const char *method, const char *version, const char *data,
                                    size_t *len, void **state)
{
    (void)version;
    return handle(ctx, true, connection, url, method, data, len, state);
}

static void completed(void *ctx, struct MHD_Connection *connection, void **state,
                      enum MHD_RequestTerminationCode code)
{
    struct pending *pending = *state;

    (void)ctx;
    (void)code;
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, IDLE_TIMEOUT_S);
    if (pending)
        free(pending->body);
    free(pending);
    *state = NULL;
}

/* Its messages (a scanner's broken handshake) are of interest to a developer only. */
static void log_message(void *ctx, const char *fmt, va_list ap)
{
    fm_autofree char *text = fm_vstrf(fmt, ap);

    (void)ctx;
    fm_debug(FM_MIGRATION_MANAGER, "HTTP: %s", fm_trim(text));
}

#define FLAGS                                                                                      \
    (MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL |              \
     MHD_USE_ITC | MHD_USE_ERROR_LOG)
#define COMMON_OPTIONS                                                                             \
    MHD_OPTION_EXTERNAL_LOGGER, log_message, NULL, MHD_OPTION_NOTIFY_COMPLETED, completed, NULL,   \
        MHD_OPTION_CONNECTION_TIMEOUT, IDLE_TIMEOUT_S, MHD_OPTION_CONNECTION_LIMIT,                \
        CONNECTION_LIMIT

static int read_pem(const char *path, char **text, struct fm_error *err)
{
    size_t len;

    return fm_file_read(path, PEM_LIMIT, text, &len, err);
}

static int start_tcp(struct fm_api_server *server, const struct fm_api_config *config,
                     struct fm_error *err)
{
    struct fm_tls_paths paths = {.ca = config->ca, .cert = config->cert, .key = config->key};
    struct fm_tls_identity *identity = fm_tls_identity_load(&paths, err);
    fm_autoclose int fd = -1;

    /* Loaded only to be checked: it says what is wrong better than a handshake that fails later. */
    if (!identity)
        return -(int)err->code;
    fm_tls_identity_free(identity);
    if (read_pem(config->ca, &server->ca, err) < 0 ||
        read_pem(config->cert, &server->cert, err) < 0 ||
        read_pem(config->key, &server->key, err) < 0)
        return -(int)err->code;

    fd = fm_listen_tcp(config->address, config->port, err);
    if (fd < 0)
        return fd;
    server->port = fm_listen_port(fd);
    server->tcp =
        MHD_start_daemon(FLAGS | MHD_USE_TLS, 0, NULL, NULL, handle_tcp, server, COMMON_OPTIONS,
                         MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
                         PER_ADDRESS_LIMIT, MHD_OPTION_HTTPS_MEM_TRUST, server->ca,
                         MHD_OPTION_HTTPS_MEM_CERT, server->cert, MHD_OPTION_HTTPS_MEM_KEY,
                         server->key, MHD_OPTION_HTTPS_PRIORITIES, TLS_PRIORITIES, MHD_OPTION_END);
    if (!server->tcp)
        return fm_error_set(err, FM_E_FAILED, "cannot start the HTTPS server on port %d",
                            server->port);
    (void)FM_MOVE_FD(fd); /* libmicrohttpd closes it */
    return 0;
}

static int start_local(struct fm_api_server *server, const struct fm_api_config *config,
                       struct fm_error *err)
{
    /* With further uids everybody may connect: who is served is decided by the peer's uid alone. */
    fm_autoclose int fd =
        fm_listen_unix(config->socket_path, config->uid_count > 0 ? 0666 : 0660, err);

    if (fd < 0)
        return fd;
    server->socket_path = fm_xstrdup(config->socket_path);
    server->local = MHD_start_daemon(FLAGS, 0, NULL, NULL, handle_local, server, COMMON_OPTIONS,
                                     MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_END);
    if (!server->local)
        return fm_error_set(err, FM_E_FAILED, "cannot start the HTTP server on %s",
                            config->socket_path);
    (void)FM_MOVE_FD(fd); /* libmicrohttpd closes it */
    return 0;
}

struct fm_api_server *fm_api_start(const struct fm_api_config *config, struct fm_manager *manager,
                                   struct fm_error *err)
{
    struct fm_api_server *server = fm_xcalloc(1, sizeof(*server));

    server->host = fm_xstrdup(config->host);
    server->uids = fm_xcalloc(config->uid_count + 1, sizeof(uid_t));
    server->uid_count = config->uid_count;
    if (config->uid_count > 0)
        memcpy(server->uids, config->uids, config->uid_count * sizeof(uid_t));
    server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->context = (struct fm_api_context){
        .host = server->host,
        .manager = manager,
        .events = fm_event_hub_open(manager, server->stop_fd, err),
        .stop_fd = server->stop_fd,
    };
    if (!server->context.events || (config->socket_path && start_local(server, config, err) < 0) ||
        (config->address && start_tcp(server, config, err) < 0)) {
        fm_error_prefix(err, "cannot serve the API");
        fm_api_stop(server);
        return NULL;
    }
    return server;
}

void fm_api_stop(struct fm_api_server *server)
{
    if (!server)
        return;
    eventfd_write(server->stop_fd, 1);
    if (server->tcp)
        MHD_stop_daemon(server->tcp);
    if (server->local)
        MHD_stop_daemon(server->local);
    if (server->socket_path)
        unlink(server->socket_path);
    fm_event_hub_close(server->context.events);
    close(server->stop_fd);
    free(server->socket_path);
    free(server->host);
    free(server->uids);
    free(server->ca);
    free(server->cert);
    free(server->key);
    free(server);
}

int fm_api_port(const struct fm_api_server *server)
{
    return server->port;
}
