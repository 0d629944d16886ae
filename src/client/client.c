#include "client/client.h"

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "client/event_parser.h"

#define REPLY_LIMIT (64U << 20)
#define CONNECT_TIMEOUT_MS 10000L

struct fm_client {
    CURL *curl;
    CURLM *multi; /* lets another thread wake us */
    atomic_bool interrupted;
    char *base;   /* "https://host:port" or "http://localhost" */
    char *socket; /* NULL over TLS */
    char *ca, *cert, *key;
    char detail[CURL_ERROR_SIZE];
};

/* What one transfer receives. */
struct transfer {
    struct fm_client *client;
    char *body; /* of an answer that is kept: documents, and every problem */
    size_t len;
    bool too_big;
    fm_client_data_fn fn; /* of one that is passed on */
    void *ctx;
    int stop; /* what fn returned */
};

static void curl_headers_free(struct curl_slist **list)
{
    curl_slist_free_all(*list);
}

/* "host", "host:port", "https://host:port/" → "https://host:port". */
static char *normalise_url(const char *host, struct fm_error *err)
{
    const char *rest = host;
    fm_autofree char *name = NULL;
    const char *colon;
    size_t len;

    if (fm_starts_with(host, "https://")) {
        rest = host + strlen("https://");
    } else if (strstr(host, "://")) {
        fm_error_set(err, FM_E_USAGE, "host '%s': only https is spoken over the network", host);
        return NULL;
    }
    len = strcspn(rest, "/");
    if (len == 0 || (rest[len] == '/' && rest[len + 1] != '\0') || strpbrk(rest, "@?# ")) {
        fm_error_set(err, FM_E_USAGE, "host '%s' is not of the form https://NAME[:PORT]", host);
        return NULL;
    }
    name = fm_xstrndup(rest, len);
    colon = strrchr(name, ':');
    if (colon && strchr(name, ':') == colon)
        return fm_strf("https://%s", name);
    if (colon && name[0] != '[')
        return fm_strf("https://[%s]:%d", name, FM_CLIENT_PORT);
    if (colon && colon[-1] == ']')
        return fm_strf("https://%s", name);
    return fm_strf("https://%s:%d", name, FM_CLIENT_PORT);
}

static int check_file(const char *what, const char *option, const char *path, struct fm_error *err)
{
    if (!path)
        return fm_error_set(err, FM_E_USAGE, "a connection over TLS needs %s; give %s FILE", what,
                            option);
    if (access(path, R_OK) < 0) {
        fm_error_errno(err, errno, "cannot read %s %s", what, path);
        return fm_error_recode(err, FM_E_USAGE);
    }
    return 0;
}

struct fm_client *fm_client_open(const struct fm_client_options *options, struct fm_error *err)
{
    fm_autofree char *base = NULL;
    struct fm_client *client;

    if (options->host) {
        base = normalise_url(options->host, err);
        if (!base || check_file("the authority's certificate", "--ca", options->ca, err) < 0 ||
            check_file("a client certificate", "--cert", options->cert, err) < 0 ||
            check_file("the certificate's key", "--key", options->key, err) < 0)
            return NULL;
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    client = fm_xcalloc(1, sizeof(*client));
    client->curl = curl_easy_init();
    client->multi = curl_multi_init();
    if (!client->curl || !client->multi)
        abort();
    if (base) {
        client->base = FM_MOVE(base);
        client->ca = fm_xstrdup(options->ca);
        client->cert = fm_xstrdup(options->cert);
        client->key = fm_xstrdup(options->key);
    } else {
        client->base = fm_xstrdup("http://localhost");
        client->socket = fm_xstrdup(options->socket ? options->socket : FM_CLIENT_SOCKET);
    }
    return client;
}

void fm_client_close(struct fm_client *client)
{
    if (!client)
        return;
    curl_easy_cleanup(client->curl);
    curl_multi_cleanup(client->multi);
    free(client->base);
    free(client->socket);
    free(client->ca);
    free(client->cert);
    free(client->key);
    free(client);
}

void fm_client_interrupt(struct fm_client *client)
{
    atomic_store(&client->interrupted, true);
    curl_multi_wakeup(client->multi);
}

char *fm_client_escape(const char *segment)
{
    char *out = fm_xmalloc(strlen(segment) * 3 + 1);
    char *to = out;

    for (const unsigned char *from = (const unsigned char *)segment; *from; from++) {
        if (isalnum(*from) || strchr("-._~", *from))
            *to++ = (char)*from;
        else
            to += sprintf(to, "%%%02X", *from);
    }
    *to = '\0';
    return out;
}

/* --- errors --- */

static const char *where(const struct fm_client *client)
{
    return client->socket ? client->socket : client->base;
}

static int connect_error(struct fm_client *client, struct fm_error *err)
{
    long number = 0;
    const char *advice = "is fleximigrated running?";

    curl_easy_getinfo(client->curl, CURLINFO_OS_ERRNO, &number);
    if (number == EACCES || number == EPERM)
        advice = "use sudo, or have your uid added to api.uids";
    if (number == 0)
        return fm_error_set(err, FM_E_UNREACHABLE, "cannot reach the daemon at %s: %s; %s",
                            where(client), client->detail, advice);
    return fm_error_set(err, FM_E_UNREACHABLE, "cannot reach the daemon at %s: %s; %s",
                        where(client), strerror((int)number), advice);
}

static int transfer_error(struct fm_client *client, CURLcode code, struct fm_error *err)
{
    const char *detail = client->detail[0] ? client->detail : curl_easy_strerror(code);

    switch (code) {
    case CURLE_COULDNT_CONNECT:
        return connect_error(client, err);
    case CURLE_COULDNT_RESOLVE_HOST:
        return fm_error_set(err, FM_E_UNREACHABLE,
                            "cannot reach the daemon at %s: the name does not resolve",
                            where(client));
    case CURLE_OPERATION_TIMEDOUT:
        return fm_error_set(err, FM_E_UNREACHABLE, "cannot reach the daemon at %s: timed out",
                            where(client));
    case CURLE_PEER_FAILED_VERIFICATION:
        return fm_error_set(err, FM_E_AUTH,
                            "the daemon at %s shows a certificate that %s does not vouch for: %s",
                            where(client), client->ca, detail);
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
        return fm_error_set(err, FM_E_AUTH, "no TLS connection to the daemon at %s: %s",
                            where(client), detail);
    default:
        return fm_error_set(err, FM_E_CLOSED, "connection to the daemon at %s lost: %s",
                            where(client), detail);
    }
}

/* The error that the daemon's problem document describes. */
static int problem_error(struct fm_client *client, long status, const char *body, size_t len,
                         struct fm_error *err)
{
    json_auto_t *doc = json_loadb(body ? body : "", len, 0, NULL);
    const char *code = json_string_value(json_object_get(doc, "code"));
    const char *detail = json_string_value(json_object_get(doc, "detail"));

    if (!code || !detail)
        return fm_error_set(err, FM_E_PROTOCOL,
                            "the server at %s answered with status %ld and no explanation",
                            where(client), status);
    return fm_error_set(err, fm_code_by_name(code), "%s", detail);
}

/* --- transfers --- */

static size_t receive(char *data, size_t size, size_t count, void *arg)
{
    struct transfer *transfer = arg;
    size_t len = size * count;
    long status = 0;

    curl_easy_getinfo(transfer->client->curl, CURLINFO_RESPONSE_CODE, &status);
    if (transfer->fn && status < 300) {
        transfer->stop = transfer->fn(data, len, transfer->ctx);
        return transfer->stop ? 0 : len;
    }
    if (transfer->len + len > REPLY_LIMIT) {
        transfer->too_big = true;
        return 0;
    }
    transfer->body = fm_xrealloc(transfer->body, transfer->len + len + 1);
    memcpy(transfer->body + transfer->len, data, len);
    transfer->len += len;
    transfer->body[transfer->len] = '\0';
    return len;
}

static void prepare(struct fm_client *client, const char *method, const char *url,
                    struct transfer *transfer)
{
    CURL *curl = client->curl;

    curl_easy_reset(curl);
    client->detail[0] = '\0';
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, client->detail);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, client->socket ? "http" : "https");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "fleximigrate/" FM_VERSION);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, transfer);
    if (client->socket) {
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, client->socket);
        return;
    }
    curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
    curl_easy_setopt(curl, CURLOPT_CAINFO, client->ca);
    curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
    curl_easy_setopt(curl, CURLOPT_SSLCERT, client->cert);
    curl_easy_setopt(curl, CURLOPT_SSLKEY, client->key);
}

/* Runs the prepared transfer; *interrupted when another thread ended it. */
static CURLcode perform(struct fm_client *client, bool *interrupted)
{
    CURLcode result = CURLE_ABORTED_BY_CALLBACK;
    int running = 1, queued;
    CURLMsg *message;

    curl_multi_add_handle(client->multi, client->curl);
    while (running && !(*interrupted = atomic_load(&client->interrupted))) {
        if (curl_multi_perform(client->multi, &running) != CURLM_OK)
            break;
        if (running)
            curl_multi_poll(client->multi, NULL, 0, 60000, NULL);
    }
    while ((message = curl_multi_info_read(client->multi, &queued)))
        if (message->msg == CURLMSG_DONE)
            result = message->data.result;
    curl_multi_remove_handle(client->multi, client->curl);
    return result;
}

/* Sends the request and turns every kind of failure into an error. */
static int exchange(struct fm_client *client, const char *method, const char *path,
                    const json_t *body, struct transfer *transfer, struct fm_error *err)
{
    __attribute__((cleanup(curl_headers_free))) struct curl_slist *headers = NULL;
    fm_autofree char *url = fm_strf("%s%s", client->base, path);
    fm_autofree char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    bool interrupted = false;
    CURLcode code;
    long status = 0;

    transfer->client = client;
    prepare(client, method, url, transfer);
    /* Without an Expect header: bodies are small, and the daemon reads them in any case. */
    headers = curl_slist_append(headers, "Expect:");
    if (text) {
        headers = curl_slist_append(headers, "Content-Type: application/json");
        curl_easy_setopt(client->curl, CURLOPT_POSTFIELDS, text);
    } else if (fm_streq(method, "POST")) {
        curl_easy_setopt(client->curl, CURLOPT_POSTFIELDS, "");
    }
    curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, headers);

    code = perform(client, &interrupted);
    curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &status);
    if (interrupted || transfer->stop)
        return 0;
    if (transfer->too_big)
        return fm_error_set(err, FM_E_PROTOCOL, "the answer of %s is larger than %u MiB",
                            where(client), REPLY_LIMIT >> 20);
    if (code != CURLE_OK)
        return transfer_error(client, code, err);
    if (status >= 300)
        return problem_error(client, status, transfer->body, transfer->len, err);
    return 0;
}

int fm_client_request(struct fm_client *client, const char *method, const char *path,
                      const json_t *body, json_t **reply, struct fm_error *err)
{
    struct transfer transfer = {0};
    fm_autofree char *answer = NULL;
    json_error_t where_in_it;
    int ret;

    if (reply)
        *reply = NULL;
    ret = exchange(client, method, path, body, &transfer, err);
    answer = transfer.body;
    if (ret < 0 || !reply || transfer.len == 0)
        return ret;
    *reply = json_loadb(answer, transfer.len, JSON_DECODE_ANY, &where_in_it);
    if (!*reply)
        return fm_error_set(err, FM_E_PROTOCOL, "the answer of %s is not JSON: %s", where(client),
                            where_in_it.text);
    return 0;
}

int fm_client_stream(struct fm_client *client, const char *path, fm_client_data_fn fn, void *ctx,
                     struct fm_error *err)
{
    struct transfer transfer = {.fn = fn, .ctx = ctx};
    int ret = exchange(client, "GET", path, NULL, &transfer, err);

    free(transfer.body);
    return ret;
}

/* --- events --- */

struct subscription {
    struct fm_event_parser parser;
    fm_client_event_fn fn;
    void *ctx;
    bool open, dropped;
    int stopped; /* by the callback */
};

static int deliver(const char *type, const char *data, void *ctx)
{
    struct subscription *subscription = ctx;
    json_auto_t *event = NULL;

    if (fm_streq(type, "comment")) {
        subscription->dropped = fm_starts_with(data, "dropped");
        if (!subscription->open) {
            subscription->open = true;
            subscription->stopped = subscription->fn("open", NULL, subscription->ctx);
        }
        return subscription->stopped;
    }
    event = json_loads(data, 0, NULL);
    if (event)
        subscription->stopped = subscription->fn(type, event, subscription->ctx);
    return subscription->stopped;
}

static int receive_events(const char *data, size_t len, void *ctx)
{
    struct subscription *subscription = ctx;

    return fm_event_parser_feed(&subscription->parser, data, len, deliver, subscription);
}

int fm_client_events(struct fm_client *client, const char *path, fm_client_event_fn fn, void *ctx,
                     struct fm_error *err)
{
    struct subscription subscription = {.fn = fn, .ctx = ctx};
    int ret = fm_client_stream(client, path, receive_events, &subscription, err);

    fm_event_parser_clear(&subscription.parser);
    if (ret < 0 || subscription.stopped || atomic_load(&client->interrupted))
        return ret;
    return fm_error_set(err, FM_E_CLOSED, "%s",
                        subscription.dropped
                            ? "the daemon dropped this client: it read events too slowly"
                            : "the daemon ended the stream of events");
}
