#include "network/sdn_rest.h"

#include <ctype.h>
#include <curl/curl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

#define ANSWER_LIMIT (1U << 20)
#define HEADER_LIMIT (64U << 10)
#define EXACT_DOUBLE 9007199254740992.0 /* 2^53 */
#define POLL_MS 1000u
#define CONNECTIONS 16L /* at a time: controllers are small servers */
#define REMARK_BYTES 120

struct fm_sdn_rest {
    struct fm_strv urls;
    uint64_t timeout_ms;
    char *ca, *cert, *key;
    atomic_size_t current; /* the controller that answered last */
};

/* A modification that was sent: the switch reports an error under this number. */
struct sent {
    uint64_t dpid;
    uint32_t xid;
};

struct fm_sdn_session {
    struct fm_sdn_rest *rest;
    CURLM *multi; /* keeps the connections */
    struct curl_slist *headers;
    uint64_t started_ms;
    struct sent *sent;
    size_t sent_count;
    bool patient, without_barriers;
    struct fm_cancel cancel;
};

/* One request on its way. */
struct transfer {
    CURL *curl;
    struct fm_sdn_request *request;
    char *body; /* that is sent */
    char *data; /* that came */
    size_t len, header_len;
    bool too_big, has_xid, has_barrier;
    uint32_t xid;
};

/* ---- controllers and sessions ---- */

static void start_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static int check_url(const char *url, struct fm_error *err)
{
    const char *rest = fm_starts_with(url, "http://")    ? url + strlen("http://")
                       : fm_starts_with(url, "https://") ? url + strlen("https://")
                                                         : "";
    if (!rest[0] || rest[0] == '/' || strpbrk(rest, " @?#"))
        return fm_error_set(err, FM_E_INVALID,
                            "SDN controller '%s' is not of the form http://HOST:PORT or "
                            "https://HOST:PORT",
                            url);
    return 0;
}

struct fm_sdn_rest *fm_sdn_rest_open(const struct fm_sdn_rest_config *config, struct fm_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_curl);
    if (!config->urls || !config->urls[0]) {
        fm_error_set(err, FM_E_INVALID, "no SDN controller is named; give its URL");
        return NULL;
    }
    for (size_t i = 0; config->urls[i]; i++)
        if (check_url(config->urls[i], err) < 0)
            return NULL;
    struct fm_sdn_rest *rest = fm_xcalloc(1, sizeof(*rest));
    for (size_t i = 0; config->urls[i]; i++) {
        fm_autofree char *url = fm_xstrdup(config->urls[i]);
        for (size_t len = strlen(url); url[len - 1] == '/'; len--)
            url[len - 1] = '\0';
        fm_strv_add(&rest->urls, url);
    }
    rest->timeout_ms = config->timeout_ms;
    rest->ca = fm_xstrdup(config->ca);
    rest->cert = fm_xstrdup(config->cert);
    rest->key = fm_xstrdup(config->key);
    return rest;
}

void fm_sdn_rest_close(struct fm_sdn_rest *rest)
{
    if (!rest)
        return;
    fm_strv_free(&rest->urls);
    free(rest->ca);
    free(rest->cert);
    free(rest->key);
    free(rest);
}

struct fm_sdn_session *fm_sdn_session_open(struct fm_sdn_rest *rest, bool patient,
                                           struct fm_cancel cancel)
{
    struct fm_sdn_session *session = fm_xcalloc(1, sizeof(*session));
    session->rest = rest;
    session->patient = patient;
    session->cancel = cancel;
    session->started_ms = fm_now_ms();
    session->multi = curl_multi_init();
    session->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!session->multi || !session->headers)
        abort();
    curl_multi_setopt(session->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, CONNECTIONS);
    return session;
}

void fm_sdn_session_close(struct fm_sdn_session *session)
{
    if (!session)
        return;
    curl_multi_cleanup(session->multi);
    curl_slist_free_all(session->headers);
    free(session->sent);
    free(session);
}

static uint64_t time_left_ms(const struct fm_sdn_session *session)
{
    uint64_t spent = fm_now_ms() - session->started_ms;
    return spent < session->rest->timeout_ms ? session->rest->timeout_ms - spent : 0;
}

bool fm_sdn_session_has_time(const struct fm_sdn_session *session)
{
    return time_left_ms(session) > 0;
}

bool fm_sdn_session_has_barriers(const struct fm_sdn_session *session)
{
    return !session->without_barriers;
}

void fm_sdn_requests_clear(struct fm_sdn_request *requests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        json_decref(requests[i].body);
        json_decref(requests[i].answer);
        requests[i] = (struct fm_sdn_request){0};
    }
}

/* ---- what comes ---- */

/* Numbers are read as real ones, because a cookie of somebody else's may exceed what the parser
 * takes for an integer; those that are whole become integers again. */
static json_t *with_integers(const json_t *value)
{
    const char *key;
    json_t *item;
    json_t *copy;
    if (json_is_real(value)) {
        double number = json_real_value(value);
        bool whole = fabs(number) < EXACT_DOUBLE && number == trunc(number);
        return whole ? json_integer((json_int_t)number) : json_real(number);
    }
    if (json_is_array(value)) {
        copy = json_array();
        for (size_t i = 0; i < json_array_size(value); i++)
            json_array_append_new(copy, with_integers(json_array_get(value, i)));
        return copy;
    }
    if (!json_is_object(value))
        return json_deep_copy(value);
    copy = json_object();
    json_object_foreach((json_t *)value, key, item)
        json_object_set_new(copy, key, with_integers(item));
    return copy;
}

static size_t receive(char *data, size_t size, size_t count, void *ctx)
{
    struct transfer *t = ctx;
    size_t len = size * count;
    if (t->len + len > ANSWER_LIMIT) {
        t->too_big = true;
        return 0;
    }
    t->data = fm_xrealloc(t->data, t->len + len + 1);
    memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = '\0';
    return len;
}

static size_t receive_header(char *data, size_t size, size_t count, void *ctx)
{
    static const char name[] = "x-openflow-xid:";
    static const char barrier[] = "x-openflow-barrier:";
    struct transfer *t = ctx;
    size_t len = size * count;
    t->header_len += len;
    if (t->header_len > HEADER_LIMIT) {
        t->too_big = true;
        return 0;
    }
    if (len >= sizeof(barrier) && strncasecmp(data, barrier, sizeof(barrier) - 1) == 0)
        t->has_barrier = true;
    if (len < sizeof(name) || strncasecmp(data, name, sizeof(name) - 1) != 0)
        return len;
    fm_autofree char *text = fm_xstrndup(data + sizeof(name) - 1, len - sizeof(name) + 1);
    int64_t xid;
    struct fm_error ignored = {0};
    if (fm_parse_int(fm_trim(text), 0, UINT32_MAX, &xid, &ignored) == 0) {
        t->xid = (uint32_t)xid;
        t->has_xid = true;
    }
    return len;
}

/* What a controller says of its refusal, fit for a line of ours. */
static const char *remark(const struct transfer *t, char text[REMARK_BYTES])
{
    text[0] = '\0';
    json_t *document = json_loadb(t->data ? t->data : "", t->len, 0, NULL);
    const char *said = json_string_value(json_object_get(document, "error"));
    if (said)
        snprintf(text, REMARK_BYTES, ": %s", said);
    for (char *c = text; *c; c++)
        if (!isprint((unsigned char)*c))
            *c = '?';
    json_decref(document);
    return text;
}

static int judge_status(const struct transfer *t, long status, struct fm_error *err)
{
    char said[REMARK_BYTES];
    switch (status) {
    case 200:
        return 0;
    case 404:
        return fm_error_set(err, FM_E_NOT_FOUND,
                            "the controller does not know the switch%s (is it connected?)",
                            remark(t, said));
    case 504:
        return fm_error_set(err, FM_E_TIMEOUT, "the switch does not answer the controller%s",
                            remark(t, said));
    default:
        return fm_error_set(err, FM_E_PROTOCOL, "the controller answers HTTP %ld%s", status,
                            remark(t, said));
    }
}

static bool is_modification(enum fm_sdn_verb verb)
{
    return verb == FM_SDN_ADD || verb == FM_SDN_MODIFY_STRICT || verb == FM_SDN_DELETE_STRICT;
}

/* The answer's part for this switch, of the type that the verb promises. */
static int take_answer(struct transfer *t, struct fm_error *err)
{
    struct fm_sdn_request *request = t->request;
    enum fm_sdn_verb verb = request->verb;
    if (is_modification(verb) && t->has_barrier)
        verb = FM_SDN_BARRIER;
    if (is_modification(verb))
        return 0;
    json_error_t where;
    json_t *document = json_loadb(t->data ? t->data : "", t->len, JSON_DECODE_INT_AS_REAL, &where);
    json_t *part = document;
    if (request->target) {
        char key[32];
        snprintf(key, sizeof(key), "%llu", (unsigned long long)request->target->dpid);
        part = json_object_get(document, key);
    }
    json_t *errors = json_object_get(part, "errors");
    if (verb == FM_SDN_BARRIER ? json_is_array(errors) : json_is_array(part))
        request->answer = with_integers(part);
    json_decref(document);
    if (!request->answer)
        return fm_error_set(err, FM_E_PROTOCOL,
                            "the controller answers something else than the %s that was asked for",
                            verb == FM_SDN_FLOWS ? "list" : "document");
    return 0;
}

static bool is_ours(const struct fm_sdn_session *session, uint64_t dpid, json_int_t xid)
{
    for (size_t i = 0; i < session->sent_count; i++)
        if (session->sent[i].dpid == dpid && (json_int_t)session->sent[i].xid == xid)
            return true;
    return false;
}

static int judge_barrier(const struct fm_sdn_session *session, const struct fm_sdn_request *request,
                         struct fm_error *err)
{
    const json_t *errors = json_object_get(request->answer, "errors");
    for (size_t i = 0; i < json_array_size(errors); i++) {
        const json_t *e = json_array_get(errors, i);
        const json_t *xid = json_object_get(e, "xid");
        if (!json_is_integer(xid) ||
            !is_ours(session, request->target->dpid, json_integer_value(xid)))
            continue;
        return fm_error_set(err, FM_E_REFUSED,
                            "the switch refuses a flow: OpenFlow error type %d code %d; do the "
                            "configured port and table exist there?",
                            (int)json_integer_value(json_object_get(e, "type")),
                            (int)json_integer_value(json_object_get(e, "code")));
    }
    return 0;
}

static int judge(struct fm_sdn_session *session, struct transfer *t, CURLcode code, uint64_t ms,
                 struct fm_error *err)
{
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (t->too_big)
        return fm_error_set(err, FM_E_PROTOCOL, "the controller answers with more than %u KiB",
                            ANSWER_LIMIT >> 10);
    if (code == CURLE_OPERATION_TIMEDOUT)
        return fm_error_set(err, FM_E_TIMEOUT, "no answer within %llu ms", (unsigned long long)ms);
    if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_WEIRD_SERVER_REPLY)
        return fm_error_set(err, FM_E_PROTOCOL, "what answers there does not speak HTTP");
    if (code != CURLE_OK)
        return fm_error_set(err, FM_E_UNREACHABLE, "%s", curl_easy_strerror(code));
    int rc = judge_status(t, status, err);
    if (rc == 0)
        rc = take_answer(t, err);
    if (rc < 0 || !t->has_xid || !t->request->target)
        return rc;
    session->sent = fm_xrealloc(session->sent, (session->sent_count + 1) * sizeof(*session->sent));
    session->sent[session->sent_count++] = (struct sent){t->request->target->dpid, t->xid};
    t->request->done = t->has_barrier;
    return t->has_barrier ? judge_barrier(session, t->request, err) : 0;
}

/* ---- what goes ---- */

static char *path_of(const struct fm_sdn_request *request)
{
    unsigned long long dpid = request->target ? request->target->dpid : 0;
    switch (request->verb) {
    case FM_SDN_FLOWS:
        return request->target ? fm_strf("/stats/flow/%llu", dpid) : fm_xstrdup("/stats/switches");
    case FM_SDN_ADD:
        return fm_xstrdup("/stats/flowentry/add?barrier=1");
    case FM_SDN_MODIFY_STRICT:
        return fm_xstrdup("/stats/flowentry/modify_strict?barrier=1");
    case FM_SDN_DELETE_STRICT:
        return fm_xstrdup("/stats/flowentry/delete_strict?barrier=1");
    case FM_SDN_QUEUES:
        return fm_strf("/stats/queueconfig/%llu/%u", dpid, request->port);
    case FM_SDN_METERS:
        return fm_strf("/stats/meterconfig/%llu/%u", dpid, request->port);
    case FM_SDN_BARRIER:
        return fm_strf("/stats/barrier/%llu", dpid);
    }
    return NULL;
}

static char *body_of(const struct fm_sdn_request *request)
{
    if (!request->body)
        return NULL;
    json_t *body = json_copy(request->body);
    char dpid[32]; /* as text, because all 64 bits may be in use */
    snprintf(dpid, sizeof(dpid), "%llu", (unsigned long long)request->target->dpid);
    json_object_set_new(body, "dpid", json_string(dpid));
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    if (!text)
        abort();
    return text;
}

static void start(struct fm_sdn_session *session, struct transfer *t, const char *url, uint64_t ms)
{
    const struct fm_sdn_rest *rest = session->rest;
    fm_autofree char *path = path_of(t->request);
    fm_autofree char *whole = fm_strf("%s%s", url, path);
    CURL *curl = t->curl = curl_easy_init();
    if (!curl)
        abort();
    curl_easy_setopt(curl, CURLOPT_URL, whole);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)ms);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "fleximigrate/" FM_VERSION);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, session->headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, receive_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(curl, CURLOPT_PRIVATE, t);
    if (rest->ca)
        curl_easy_setopt(curl, CURLOPT_CAINFO, rest->ca);
    if (rest->cert) {
        curl_easy_setopt(curl, CURLOPT_SSLCERT, rest->cert);
        curl_easy_setopt(curl, CURLOPT_SSLKEY, rest->key);
    }
    t->body = body_of(t->request);
    if (t->body)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, t->body);
    curl_multi_add_handle(session->multi, curl);
}

static void finish(struct fm_sdn_session *session, struct transfer *t)
{
    curl_multi_remove_handle(session->multi, t->curl);
    curl_easy_cleanup(t->curl);
    free(t->body);
    free(t->data);
    *t = (struct transfer){0};
}

static void take_finished(struct fm_sdn_session *session, const char *url, uint64_t ms)
{
    CURLMsg *message;
    int queued;
    while ((message = curl_multi_info_read(session->multi, &queued))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode code = message->data.result;
        char *data = NULL;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &data);
        struct transfer *t = (struct transfer *)(void *)data;
        struct fm_error *err = &t->request->err;
        *err = (struct fm_error){0};
        const struct fm_topology_switch *target = t->request->target;
        if (judge(session, t, code, ms, err) < 0 && target)
            fm_error_prefix(err, "controller %s, switch '%s' (dpid %llu)", url, target->name,
                            (unsigned long long)target->dpid);
        else if (err->code)
            fm_error_prefix(err, "controller %s", url);
        finish(session, t);
    }
}

/* Those that have not succeeded yet will not any more. */
static void fail_rest(struct fm_sdn_request *requests, size_t count, const struct fm_error *why)
{
    for (size_t i = 0; i < count; i++)
        if (requests[i].err.code)
            requests[i].err = *why;
}

/* False: cancelled. */
static bool wait_on(struct fm_sdn_session *session, struct fm_sdn_request *requests, size_t count)
{
    struct fm_error why = {0};
    curl_multi_poll(session->multi, NULL, 0, (int)fm_cancel_slice(&session->cancel, POLL_MS), NULL);
    if (fm_cancel_check(&session->cancel, &why) < 0)
        fail_rest(requests, count, &why);
    return !why.code;
}

/* Those that have not succeeded yet, at one controller. */
static void run_at(struct fm_sdn_session *session, struct fm_sdn_request *requests, size_t count,
                   const char *url, uint64_t ms)
{
    fm_autofree struct transfer *transfers = fm_xcalloc(count, sizeof(*transfers));
    int running = 0;
    for (size_t i = 0; i < count; i++) {
        if (!requests[i].err.code)
            continue;
        transfers[i].request = &requests[i];
        start(session, &transfers[i], url, ms);
    }
    do {
        if (curl_multi_perform(session->multi, &running) != CURLM_OK)
            break;
        take_finished(session, url, ms);
    } while (running && wait_on(session, requests, count));
    for (size_t i = 0; i < count; i++)
        if (transfers[i].curl)
            finish(session, &transfers[i]);
}

/* Another controller may do better: this one is dead, or has not got the switch. */
static struct fm_sdn_request *first_failed(struct fm_sdn_request *requests, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (requests[i].err.code)
            return &requests[i];
    return NULL;
}

int fm_sdn_run(struct fm_sdn_session *session, struct fm_sdn_request *requests, size_t count,
               struct fm_error *err)
{
    struct fm_sdn_rest *rest = session->rest;
    size_t first = atomic_load(&rest->current);
    for (size_t i = 0; i < count; i++)
        fm_error_set(&requests[i].err, FM_E_TIMEOUT, "no time is left of the %llu ms",
                     (unsigned long long)rest->timeout_ms);
    for (size_t i = 0; i < rest->urls.count && first_failed(requests, count); i++) {
        size_t which = (first + i) % rest->urls.count;
        uint64_t share =
            time_left_ms(session) / (rest->urls.count - i) / (session->patient ? 2 : 1);
        struct fm_error why = {0};
        if (fm_cancel_check(&session->cancel, &why) < 0)
            fail_rest(requests, count, &why);
        if (share == 0 || why.code)
            break;
        run_at(session, requests, count, rest->urls.items[which], share);
        if (!first_failed(requests, count))
            atomic_store(&rest->current, which);
    }
    const struct fm_sdn_request *failed = first_failed(requests, count);
    if (!failed)
        return 0;
    if (err)
        *err = failed->err;
    return -(int)failed->err.code;
}

/* ---- barriers ---- */

int fm_sdn_connected(struct fm_sdn_session *session,
                     const struct fm_topology_switch *const *targets, size_t count,
                     struct fm_error *err)
{
    struct fm_sdn_request all = {.verb = FM_SDN_FLOWS};
    int rc = fm_sdn_run(session, &all, 1, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        bool found = false;
        for (size_t k = 0; k < json_array_size(all.answer) && !found; k++)
            found = json_number_value(json_array_get(all.answer, k)) == (double)targets[i]->dpid;
        if (!found)
            rc = fm_error_set(err, FM_E_NOT_FOUND,
                              "controller %s: switch '%s' (dpid %llu) is not connected to it",
                              session->rest->urls.items[atomic_load(&session->rest->current)],
                              targets[i]->name, (unsigned long long)targets[i]->dpid);
    }
    fm_sdn_requests_clear(&all, 1);
    return rc;
}

/* A controller that has the switches, and yet "not found": it has no barriers. */
static bool lacks_barriers(struct fm_sdn_session *session,
                           const struct fm_topology_switch *const *targets,
                           const struct fm_sdn_request *requests, size_t count)
{
    struct fm_error ignored = {0};
    for (size_t i = 0; i < count; i++)
        if (requests[i].err.code != FM_E_NOT_FOUND)
            return false;
    return fm_sdn_connected(session, targets, count, &ignored) == 0;
}

int fm_sdn_barrier(struct fm_sdn_session *session, const struct fm_topology_switch *const *targets,
                   size_t count, struct fm_error *errors, struct fm_error *err)
{
    if (session->without_barriers || count == 0)
        return 0;
    fm_autofree struct fm_sdn_request *requests = fm_xcalloc(count, sizeof(*requests));
    for (size_t i = 0; i < count; i++)
        requests[i] = (struct fm_sdn_request){.target = targets[i], .verb = FM_SDN_BARRIER};
    int rc = fm_sdn_run(session, requests, count, err);
    if (rc < 0 && lacks_barriers(session, targets, requests, count)) {
        session->without_barriers = true;
        rc = 0;
    } else {
        for (size_t i = 0; i < count; i++) {
            struct fm_error *e = &requests[i].err;
            if (!e->code && judge_barrier(session, &requests[i], e) < 0) {
                fm_error_prefix(e, "switch '%s' (dpid %llu)", targets[i]->name,
                                (unsigned long long)targets[i]->dpid);
                if (rc == 0 && err)
                    *err = *e;
                rc = rc < 0 ? rc : -(int)e->code;
            }
            if (errors && e->code)
                errors[i] = *e;
        }
    }
    fm_sdn_requests_clear(requests, count);
    return rc;
}
