#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

#define FIELD_SIZE 128

static const char *const level_words[] = {"DEBUG", "INFO", "WARN", "ERROR"};
static const char *const level_names[] = {"debug", "info", "warn", "error"};

/* Written by fm_log_init only, before threads exist. */
static struct {
    int fd;
    enum fm_log_level level;
    enum fm_log_format format;
} sink = {.fd = STDERR_FILENO, .level = FM_LOG_INFO, .format = FM_LOG_TEXT};

/* Fixed arrays: nothing to release when a thread ends. */
static __thread struct {
    char migration[FIELD_SIZE];
    char container[FIELD_SIZE];
    char source[FIELD_SIZE];
    char destination[FIELD_SIZE];
} thread_context;

struct record {
    enum fm_log_level level;
    const char *component;
    const char *message;
    const char *from; /* of a transition; NULL when unknown */
    const char *to;   /* NULL when this is no transition */
    uint64_t duration_ms;
};

int fm_log_init(enum fm_log_level level, enum fm_log_format format, const char *file,
                struct fm_error *err)
{
    int fd = STDERR_FILENO;

    if (file) {
        fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
        if (fd < 0)
            return fm_error_errno(err, errno, "cannot open the log file '%s'", file);
    }
    if (sink.fd != STDERR_FILENO)
        close(sink.fd);
    sink.fd = fd;
    sink.level = level;
    sink.format = format;
    return 0;
}

static void copy_field(char to[FIELD_SIZE], const char *from)
{
    snprintf(to, FIELD_SIZE, "%s", from ? from : "");
}

void fm_log_set_context(const struct fm_log_context *context)
{
    static const struct fm_log_context none;
    const struct fm_log_context *c = context ? context : &none;

    copy_field(thread_context.migration, c->migration);
    copy_field(thread_context.container, c->container);
    copy_field(thread_context.source, c->source);
    copy_field(thread_context.destination, c->destination);
}

static void set_string(json_t *doc, const char *key, const char *value)
{
    json_t *string = json_string(value);

    if (!string) { /* not UTF-8: keep what is ASCII of it */
        fm_autofree char *ascii = fm_xstrdup(value);

        for (char *c = ascii; *c; c++)
            *c = (unsigned char)*c >= 0x80 ? '?' : *c;
        string = json_string(ascii);
    }
    json_object_set_new(doc, key, string);
}

static void set_string_if(json_t *doc, const char *key, const char *value)
{
    if (value && *value)
        set_string(doc, key, value);
}

/* Field names: Elastic Common Schema, in the order that its logging libraries use. */
static char *format_json(const struct record *r)
{
    json_auto_t *doc = json_object();
    fm_autofree char *text = NULL;
    char time[32];

    set_string(doc, "@timestamp", fm_format_time(fm_realtime_us(), time, sizeof(time)));
    set_string(doc, "log.level", level_names[r->level]);
    set_string(doc, "message", r->message);
    set_string(doc, "ecs.version", "8.11.0");
    set_string(doc, "log.logger", r->component);
    set_string(doc, "service.name", "fleximigrate");
    set_string_if(doc, "fleximigrate.migration.id", thread_context.migration);
    set_string_if(doc, "fleximigrate.container", thread_context.container);
    set_string_if(doc, "fleximigrate.source", thread_context.source);
    set_string_if(doc, "fleximigrate.destination", thread_context.destination);
    if (r->to) {
        set_string_if(doc, "fleximigrate.state.from", r->from);
        set_string(doc, "fleximigrate.state.to", r->to);
        json_object_set_new(doc, "event.duration",
                            json_integer((json_int_t)(r->duration_ms * 1000000u)));
    }
    text = json_dumps(doc, JSON_COMPACT);
    return fm_strf("%s\n", text ? text : "{}");
}

static void write_record(const struct record *r)
{
    fm_autofree char *line =
        sink.format == FM_LOG_JSON
            ? format_json(r)
            : fm_strf("%s [%s]: %s\n", level_words[r->level], r->component, r->message);

    /* One write, so that records of several threads and processes never mix. There is nobody to
     * tell when it fails. */
    ssize_t written = write(sink.fd, line, strlen(line));
    (void)written;
}

/* Makes a sentence on one line: foreign text must not forge a second record. */
static char *make_sentence(char *text)
{
    size_t len;
    char *sentence;

    for (char *c = text; *c; c++)
        *c = (unsigned char)*c < ' ' || *c == 0x7f ? ' ' : *c;
    len = strlen(fm_trim(text));
    if (len > 0 && strchr(".!?", text[len - 1]))
        return text;
    sentence = fm_strf("%s.", text);
    free(text);
    return sentence;
}

void fm_log(enum fm_log_level level, const char *component, const char *fmt, ...)
{
    fm_autofree char *message = NULL;
    int saved_errno = errno;
    va_list ap;

    if (level < sink.level)
        return;
    va_start(ap, fmt);
    message = make_sentence(fm_vstrf(fmt, ap));
    va_end(ap);
    write_record(&(struct record){.level = level, .component = component, .message = message});
    errno = saved_errno;
}

void fm_log_transition(enum fm_log_level level, const char *component, const char *from,
                       const char *to, bool final, unsigned long duration_ms, const char *fmt, ...)
{
    fm_autofree char *sentence = NULL;
    fm_autofree char *message = NULL;
    int saved_errno = errno;
    va_list ap;

    if (level < sink.level)
        return;
    va_start(ap, fmt);
    sentence = make_sentence(fm_vstrf(fmt, ap));
    va_end(ap);
    if (final)
        message = fm_strf("%s Final State: %s.", sentence, to);
    else if (from)
        message = fm_strf("%s Transitioning: %s -> %s.", sentence, from, to);
    else
        message = fm_strf("%s Transitioning: %s.", sentence, to);
    write_record(&(struct record){
        .level = level,
        .component = component,
        .message = message,
        .from = from,
        .to = to,
        .duration_ms = duration_ms,
    });
    errno = saved_errno;
}

int fm_log_level_parse(const char *name, enum fm_log_level *level)
{
    for (size_t i = 0; name && i < FM_COUNT(level_names); i++) {
        if (strcasecmp(name, level_names[i]) == 0) {
            *level = (enum fm_log_level)i;
            return 0;
        }
    }
    return -FM_E_INVALID;
}

int fm_log_format_parse(const char *name, enum fm_log_format *format)
{
    if (name && strcasecmp(name, "text") == 0)
        *format = FM_LOG_TEXT;
    else if (name && strcasecmp(name, "json") == 0)
        *format = FM_LOG_JSON;
    else
        return -FM_E_INVALID;
    return 0;
}
