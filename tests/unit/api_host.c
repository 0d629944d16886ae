#include "api_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "wire/authority.h"
#include "wire/tls.h"

static void must(int ret, const struct fm_error *err)
{
    if (ret >= 0)
        return;
    fprintf(stderr, "cannot set up the test: %s\n", err->text);
    abort();
}

char *api_host_path(const struct api_host *host, const char *fmt, ...)
{
    fm_autofree char *name = NULL;
    va_list ap;

    va_start(ap, fmt);
    name = fm_vstrf(fmt, ap);
    va_end(ap);
    return fm_strf("%s/%s", host->dir, name);
}

static void make_authority(const struct api_host *host, const char *dir)
{
    fm_autofree char *path = api_host_path(host, "%s", dir);
    struct fm_error err = {0};

    must(fm_mkdir_p(path, 0700, &err), &err);
    must(fm_authority_init(path, dir, 30, &err), &err);
}

/* Puts a file of the other authority's directory beside ours. */
static void bring(const struct api_host *host, const char *name)
{
    fm_autofree char *from = api_host_path(host, "other-pki/%s", name);
    fm_autofree char *to = api_host_path(host, "pki/%s", name);

    if (rename(from, to) < 0)
        abort();
}

static void issue(const struct api_host *host, const char *authority, const char *name,
                  const char *role, int days)
{
    static const char *const addresses[] = {"127.0.0.1", "localhost"};
    fm_autofree char *ca = api_host_path(host, "%s", authority);
    fm_autofree char *out =
        api_host_path(host, "%s", fm_streq(authority, "ca") ? "pki" : "other-pki");
    struct fm_certificate_request request = {
        .name = name,
        .role = role,
        .addresses = addresses,
        .address_count = FM_COUNT(addresses),
        .days = days,
        .out_dir = out,
    };
    struct fm_error err = {0};

    must(fm_mkdir_p(out, 0700, &err), &err);
    must(fm_authority_issue(ca, &request, &err), &err);
}

void api_host_start(struct api_host *host)
{
    fm_autofree char *ca = NULL;
    fm_autofree char *cert = NULL;
    fm_autofree char *key = NULL;
    struct fm_manager_config manager = {.host = "host-a"};
    struct fm_api_config config = {.host = "host-a", .address = "127.0.0.1"};
    struct fm_error err = {0};

    snprintf(host->dir, sizeof(host->dir), "/tmp/fm-test-api-XXXXXX");
    if (!mkdtemp(host->dir))
        abort();
    make_authority(host, "ca");
    make_authority(host, "other-ca");
    issue(host, "other-ca", "mallory", FM_ROLE_OPERATOR, 30);
    issue(host, "ca", "host-a", FM_ROLE_NODE, 30);
    issue(host, "ca", "alice", FM_ROLE_OPERATOR, 30);
    issue(host, "ca", "victor", FM_ROLE_VIEWER, 30);
    issue(host, "ca", "old", FM_ROLE_OPERATOR, -1);
    bring(host, "mallory.pem");
    bring(host, "mallory.key");

    ca = api_host_path(host, "ca/ca.pem");
    cert = api_host_path(host, "pki/host-a.pem");
    key = api_host_path(host, "pki/host-a.key");
    host->socket = api_host_path(host, "api.sock");
    config.ca = ca;
    config.cert = cert;
    config.key = key;
    config.socket_path = host->socket;
    manager.run_dir = host->dir;
    host->manager = fm_manager_open(&manager, &err);
    host->server = fm_api_start(&config, host->manager, &err);
    must(host->server ? 0 : -1, &err);
    host->url = fm_strf("https://127.0.0.1:%d", fm_api_port(host->server));
}

void api_host_stop(struct api_host *host)
{
    fm_api_stop(host->server);
    fm_manager_close(host->manager);
    fm_remove_tree(host->dir, NULL);
    free(host->socket);
    free(host->url);
}

struct fm_client *api_host_client(const struct api_host *host, const char *who)
{
    fm_autofree char *ca = api_host_path(host, "ca/ca.pem");
    fm_autofree char *cert = who ? api_host_path(host, "pki/%s.pem", who) : NULL;
    fm_autofree char *key = who ? api_host_path(host, "pki/%s.key", who) : NULL;
    struct fm_client_options options = {
        .host = who ? host->url : NULL,
        .socket = host->socket,
        .ca = ca,
        .cert = cert,
        .key = key,
    };
    struct fm_error err = {0};
    struct fm_client *client = fm_client_open(&options, &err);

    must(client ? 0 : -1, &err);
    return client;
}

int api_host_request(const struct api_host *host, const char *who, const char *method,
                     const char *path, const json_t *body, json_t **reply, struct fm_error *err)
{
    struct fm_client *client = api_host_client(host, who);
    int ret;

    *err = (struct fm_error){0};
    ret = fm_client_request(client, method, path, body, reply, err);
    fm_client_close(client);
    return ret;
}

static size_t append(char *data, size_t size, size_t count, void *arg)
{
    char **text = arg;
    fm_autofree char *before = FM_MOVE(*text);

    *text = fm_strf("%s%.*s", before ? before : "", (int)(size * count), data);
    return size * count;
}

static size_t keep_allow(char *data, size_t size, size_t count, void *arg)
{
    char **allow = arg;

    if (fm_starts_with(data, "Allow: "))
        *allow = fm_trim(fm_xstrndup(data + 7, size * count - 7));
    return size * count;
}

void api_host_raw(const struct api_host *host, const struct raw_request *request,
                  struct raw_reply *reply)
{
    fm_autofree char *url = fm_strf("%s%s", host->url, request->path);
    fm_autofree char *ca = api_host_path(host, "ca/ca.pem");
    fm_autofree char *cert = request->who ? api_host_path(host, "pki/%s.pem", request->who) : NULL;
    fm_autofree char *key = request->who ? api_host_path(host, "pki/%s.key", request->who) : NULL;
    CURL *curl = curl_easy_init();
    char *type = NULL;

    *reply = (struct raw_reply){0};
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
    curl_easy_setopt(curl, CURLOPT_CAPATH, NULL); /* loading all of the system takes long */
    curl_easy_setopt(curl, CURLOPT_SSLCERT, cert);
    curl_easy_setopt(curl, CURLOPT_SSLKEY, key);
    curl_easy_setopt(curl, CURLOPT_SSLVERSION,
                     request->tls12 ? (long)CURL_SSLVERSION_MAX_TLSv1_2
                                    : (long)CURL_SSLVERSION_TLSv1_3);
    if (request->body) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)request->body_len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
    }
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, append);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &reply->body);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, keep_allow);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &reply->allow);
    reply->curl_code = (int)curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply->status);
    curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type);
    reply->type = fm_xstrdup(type);
    curl_easy_cleanup(curl);
}

void raw_reply_free(struct raw_reply *reply)
{
    free(reply->body);
    free(reply->allow);
    free(reply->type);
}
