/* Server-sent events: the line format of the HTML standard's text/event-stream, bytes in, events
 * out. */
#ifndef FM_CLIENT_EVENT_PARSER_H
#define FM_CLIENT_EVENT_PARSER_H

#include <stddef.h>

#include <jansson.h>

/* `data` is the event's text, one line; `comment` lines come with type "comment". */
typedef int (*fm_event_text_fn)(const char *type, const char *data, void *ctx);

struct fm_event_parser {
    char *line; /* what has arrived of the current line */
    size_t line_len, line_size;
    char *data;
    char type[32];
};

/* Returns what fn returned when it was not zero, negative when a line is longer than 1 MiB. */
int fm_event_parser_feed(struct fm_event_parser *parser, const char *bytes, size_t len,
                         fm_event_text_fn fn, void *ctx);
void fm_event_parser_clear(struct fm_event_parser *parser);

#endif
