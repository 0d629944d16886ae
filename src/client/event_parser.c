#include "client/event_parser.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define LINE_LIMIT (1U << 20)

void fm_event_parser_clear(struct fm_event_parser *parser)
{
    free(parser->line);
    free(parser->data);
    *parser = (struct fm_event_parser){0};
}

static int append(struct fm_event_parser *parser, const char *bytes, size_t len)
{
    if (parser->line_len + len > LINE_LIMIT)
        return -1;
    if (parser->line_len + len + 1 > parser->line_size) {
        parser->line_size = (parser->line_len + len + 1) * 2;
        parser->line = fm_xrealloc(parser->line, parser->line_size);
    }
    memcpy(parser->line + parser->line_len, bytes, len);
    parser->line_len += len;
    parser->line[parser->line_len] = '\0';
    return 0;
}

static int end_event(struct fm_event_parser *parser, fm_event_text_fn fn, void *ctx)
{
    fm_autofree char *data = FM_MOVE(parser->data);
    char type[sizeof(parser->type)];

    snprintf(type, sizeof(type), "%s", parser->type[0] ? parser->type : "message");
    parser->type[0] = '\0';
    return data ? fn(type, data, ctx) : 0;
}

static int end_line(struct fm_event_parser *parser, fm_event_text_fn fn, void *ctx)
{
    char *line = parser->line ? parser->line : "";
    char *value;

    parser->line_len = 0;
    if (line[0] == '\0')
        return end_event(parser, fn, ctx);
    if (line[0] == ':')
        return fn("comment", line + 1 + (line[1] == ' '), ctx);

    value = strchr(line, ':');
    if (!value)
        return 0;
    *value++ = '\0';
    value += *value == ' ';
    if (fm_streq(line, "event")) {
        snprintf(parser->type, sizeof(parser->type), "%s", value);
    } else if (fm_streq(line, "data")) {
        fm_autofree char *before = FM_MOVE(parser->data);
        parser->data = before ? fm_strf("%s\n%s", before, value) : fm_xstrdup(value);
    }
    return 0;
}

int fm_event_parser_feed(struct fm_event_parser *parser, const char *bytes, size_t len,
                         fm_event_text_fn fn, void *ctx)
{
    while (len > 0) {
        const char *newline = memchr(bytes, '\n', len);
        size_t part = newline ? (size_t)(newline - bytes) : len;
        int stop;

        if (append(parser, bytes, part) < 0)
            return -1;
        if (!newline)
            return 0;
        if (parser->line_len > 0 && parser->line[parser->line_len - 1] == '\r')
            parser->line[--parser->line_len] = '\0';
        stop = end_line(parser, fn, ctx);
        if (stop)
            return stop;
        if (parser->line)
            parser->line[0] = '\0';
        bytes += part + 1;
        len -= part + 1;
    }
    return 0;
}
