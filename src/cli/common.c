/* What the commands share: requests and printing. */
#include <stdarg.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"

struct fm_client *cli_open(const struct cli *cli, struct fm_error *err)
{
    return fm_client_open(&cli->remote, err);
}

int cli_request(const struct cli *cli, const char *method, const char *path, const json_t *body,
                json_t **reply, struct fm_error *err)
{
    cli_autoclient *client = cli_open(cli, err);

    return client ? fm_client_request(client, method, path, body, reply, err) : -(int)err->code;
}

char *cli_path(const char *collection, const char *name, const char *suffix)
{
    fm_autofree char *segment = fm_client_escape(name);

    return fm_strf("/v1/%s/%s%s", collection, segment, suffix);
}

void cli_print_json(const json_t *doc)
{
    fm_autofree char *text = json_dumps(doc, JSON_INDENT(2) | JSON_ENCODE_ANY);

    puts(text ? text : "null");
}

void cli_say(const struct cli *cli, const char *fmt, ...)
{
    va_list ap;

    if (cli->quiet)
        return;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

const char *cli_text(const json_t *doc, const char *key, char *buf, size_t len)
{
    const json_t *value = json_object_get(doc, key);

    if (json_is_string(value) && json_string_length(value) > 0)
        return json_string_value(value);
    if (json_is_integer(value))
        snprintf(buf, len, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(buf, len, "%.1f", json_real_value(value));
    else if (json_is_boolean(value))
        snprintf(buf, len, "%s", json_is_true(value) ? "yes" : "no");
    else
        snprintf(buf, len, "-");
    return buf;
}
