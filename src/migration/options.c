#include "migration/options.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define SECOND_MS UINT64_C(1000)
#define TIMEOUT_MIN_MS UINT64_C(100)
#define TIMEOUT_MAX_MS (24 * 3600 * SECOND_MS)
#define STREAMS_MAX 16
#define DELTA_CACHE_MAX (UINT64_C(4) << 30)
#define BANDWIDTH_MAX (UINT64_C(1) << 40)

#define X(name, text) [FM_STRATEGY_##name] = text,
static const char *const strategy_texts[] = {FM_STRATEGIES(X)};
#undef X
#define X(name, text) [FM_PRIORITY_##name] = text,
static const char *const priority_texts[] = {FM_PRIORITIES(X)};
#undef X

#define X(name, text) [FM_COMPRESS_##name] = text,
static const char *const compression_texts[] = {FM_COMPRESSIONS(X)};
#undef X
#define X(name, text) [FM_ON_NO_CONVERGENCE_##name] = text,
static const char *const no_convergence_texts[] = {FM_ON_NO_CONVERGENCE(X)};
#undef X

const char *fm_strategy_text(enum fm_strategy strategy)
{
    return (size_t)strategy < FM_COUNT(strategy_texts) ? strategy_texts[strategy] : "unknown";
}

enum fm_strategy fm_strategy_by_text(const char *name)
{
    for (size_t i = 0; i < FM_COUNT(strategy_texts); i++)
        if (fm_streq(name, strategy_texts[i]))
            return (enum fm_strategy)i;
    return FM_STRATEGY_AUTO;
}

void fm_priority_parse(const char *name, enum fm_priority *priority)
{
    for (size_t i = 0; i < FM_COUNT(priority_texts); i++)
        if (fm_streq(name, priority_texts[i]))
            *priority = (enum fm_priority)i;
}

const char *fm_priority_text(enum fm_priority priority)
{
    return (size_t)priority < FM_COUNT(priority_texts) ? priority_texts[priority] : "unknown";
}

/* What a key of the request holds. */
enum kind { NAME, ADDRESS, WORD, NUMBER, FLAG };

struct option {
    const char *key;
    enum kind kind;
    size_t offset;            /* in struct fm_migration_options */
    bool required;            /* NAME */
    const char *const *words; /* WORD: the value's index is stored */
    size_t word_count;
    uint64_t min, max, preset; /* NUMBER */
};

#define AT(field) offsetof(struct fm_migration_options, field)
#define TIMEOUT(field, seconds)                                                                    \
    {                                                                                              \
        .key = #field, .kind = NUMBER, .offset = AT(field), .min = TIMEOUT_MIN_MS,                 \
        .max = TIMEOUT_MAX_MS, .preset = (seconds)*SECOND_MS                                       \
    }

static const struct option options_known[] = {
    {.key = "container", .kind = NAME, .offset = AT(container), .required = true},
    {.key = "destination", .kind = NAME, .offset = AT(destination), .required = true},
    {.key = "source", .kind = NAME, .offset = AT(source)},
    {.key = "strategy",
     .kind = WORD,
     .offset = AT(strategy),
     .words = strategy_texts,
     .word_count = FM_COUNT(strategy_texts),
     .preset = FM_STRATEGY_AUTO},
    {.key = "priority",
     .kind = WORD,
     .offset = AT(priority),
     .words = priority_texts,
     .word_count = FM_COUNT(priority_texts),
     .preset = FM_PRIORITY_NORMAL},
    {.key = "bandwidth_bytes", .kind = NUMBER, .offset = AT(bandwidth_bytes), .max = BANDWIDTH_MAX},
    {.key = "max_downtime_ms",
     .kind = NUMBER,
     .offset = AT(max_downtime_ms),
     .min = 1,
     .max = 60 * SECOND_MS,
     .preset = 50},
    {.key = "max_rounds",
     .kind = NUMBER,
     .offset = AT(max_rounds),
     .min = 1,
     .max = 1000,
     .preset = 30},
    {.key = "parallel",
     .kind = NUMBER,
     .offset = AT(parallel),
     .min = 1,
     .max = STREAMS_MAX,
     .preset = 2},
    {.key = "delta_cache_bytes",
     .kind = NUMBER,
     .offset = AT(delta_cache_bytes),
     .max = DELTA_CACHE_MAX,
     .preset = 32 << 20},
    {.key = "compress",
     .kind = WORD,
     .offset = AT(compress),
     .words = compression_texts,
     .word_count = FM_COUNT(compression_texts),
     .preset = FM_COMPRESS_AUTO},
    {.key = "on_no_convergence",
     .kind = WORD,
     .offset = AT(on_no_convergence),
     .words = no_convergence_texts,
     .word_count = FM_COUNT(no_convergence_texts),
     .preset = FM_ON_NO_CONVERGENCE_DEFAULT},
    {.key = "new_network", .kind = NAME, .offset = AT(new_network)},
    {.key = "new_address", .kind = ADDRESS, .offset = AT(new_address)},
    {.key = "auto_converge", .kind = FLAG, .offset = AT(auto_converge)},
    TIMEOUT(timeout_ms, 300),
    TIMEOUT(preparation_timeout_ms, 120),
    TIMEOUT(execution_timeout_ms, 60),
    TIMEOUT(verification_timeout_ms, 30),
    {.key = "dry_run", .kind = FLAG, .offset = AT(dry_run)},
};

_Static_assert(sizeof(enum fm_strategy) == sizeof(unsigned int) &&
                   sizeof(enum fm_priority) == sizeof(unsigned int) &&
                   sizeof(enum fm_compression) == sizeof(unsigned int) &&
                   sizeof(enum fm_on_no_convergence) == sizeof(unsigned int),
               "WORD options are stored as unsigned int");

static const struct option *option_find(const char *key)
{
    for (size_t i = 0; i < FM_COUNT(options_known); i++) {
        if (fm_streq(options_known[i].key, key))
            return &options_known[i];
    }
    return NULL;
}

static void apply_preset(const struct option *option, void *field)
{
    if (option->kind == WORD)
        *(unsigned int *)field = (unsigned int)option->preset;
    else if (option->kind == NUMBER)
        *(uint64_t *)field = option->preset;
}

static int parse_name(const struct option *option, const json_t *value, char field[64],
                      struct fm_error *err)
{
    const char *name = json_string_value(value);

    if (!name)
        return fm_error_set(err, FM_E_INVALID, "'%s' must be a string", option->key);
    if (!option->required && name[0] == '\0')
        return 0;
    if (strlen(name) != json_string_length(value))
        return fm_error_set(err, FM_E_INVALID, "'%s' holds a NUL byte", option->key);
    if (fm_check_name(option->key, name, err) < 0)
        return -FM_E_INVALID;
    snprintf(field, 64, "%s", name);
    return 0;
}

static int parse_address(const struct option *option, const json_t *value, char field[64],
                         struct fm_error *err)
{
    const char *text = json_string_value(value);
    unsigned char bytes[16];

    if (!text || (*text && !fm_streq(text, "auto") && inet_pton(AF_INET, text, bytes) != 1 &&
                  inet_pton(AF_INET6, text, bytes) != 1))
        return fm_error_set(err, FM_E_INVALID,
                            "'%s' must be an IP address without a prefix, or \"auto\"",
                            option->key);
    snprintf(field, 64, "%s", text);
    return 0;
}

static int parse_word(const struct option *option, const json_t *value, unsigned int *field,
                      struct fm_error *err)
{
    char known[128] = "";
    const char *word = json_string_value(value);

    for (size_t i = 0; i < option->word_count; i++) {
        if (word && fm_streq(option->words[i], word)) {
            *field = (unsigned int)i;
            return 0;
        }
        snprintf(known + strlen(known), sizeof(known) - strlen(known), "%s%s", i ? ", " : "",
                 option->words[i]);
    }
    return word ? fm_error_set(err, FM_E_INVALID, "'%s' cannot be '%.40s'; use one of: %s",
                               option->key, word, known)
                : fm_error_set(err, FM_E_INVALID, "'%s' must be a string, one of: %s", option->key,
                               known);
}

static int parse_number(const struct option *option, const json_t *value, uint64_t *field,
                        struct fm_error *err)
{
    json_int_t number = json_integer_value(value);

    if (!json_is_integer(value) || number < 0 || (uint64_t)number < option->min ||
        (uint64_t)number > option->max)
        return fm_error_set(err, FM_E_INVALID,
                            "'%s' must be a whole number from %" PRIu64 " to %" PRIu64, option->key,
                            option->min, option->max);
    *field = (uint64_t)number;
    return 0;
}

static int parse_value(const struct option *option, const json_t *value, void *field,
                       struct fm_error *err)
{
    switch (option->kind) {
    case NAME:
        return parse_name(option, value, field, err);
    case ADDRESS:
        return parse_address(option, value, field, err);
    case WORD:
        return parse_word(option, value, field, err);
    case NUMBER:
        return parse_number(option, value, field, err);
    case FLAG:
        if (!json_is_boolean(value))
            return fm_error_set(err, FM_E_INVALID, "'%s' must be true or false", option->key);
        *(bool *)field = json_is_true(value);
        return 0;
    }
    return -FM_E_INVALID;
}

static int check_keys(const json_t *doc, struct fm_error *err)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)doc, key, value)
    {
        if (!option_find(key))
            return fm_error_set(err, FM_E_INVALID, "'%.60s' is not an option of a migration", key);
    }
    return 0;
}

int fm_migration_options_from_json(const json_t *doc, struct fm_migration_options *options,
                                   struct fm_error *err)
{
    struct fm_migration_options parsed = {0};

    if (!json_is_object(doc))
        return fm_error_set(err, FM_E_INVALID, "a migration request must be a JSON object");
    if (check_keys(doc, err) < 0)
        return -FM_E_INVALID;
    for (size_t i = 0; i < FM_COUNT(options_known); i++) {
        const struct option *option = &options_known[i];
        const json_t *value = json_object_get(doc, option->key);
        void *field = (char *)&parsed + option->offset;

        apply_preset(option, field);
        if (value && parse_value(option, value, field, err) < 0)
            return -FM_E_INVALID;
        if (!value && option->required)
            return fm_error_set(err, FM_E_INVALID, "'%s' is missing from the request", option->key);
    }
    if (fm_streq(parsed.source, parsed.destination))
        return fm_error_set(err, FM_E_INVALID,
                            "source and destination are both '%s'; name another destination",
                            parsed.destination);
    *options = parsed;
    return 0;
}

json_t *fm_migration_options_to_json(const struct fm_migration_options *options)
{
    json_t *doc = json_object();

    for (size_t i = 0; i < FM_COUNT(options_known); i++) {
        const struct option *option = &options_known[i];
        const void *field = (const char *)options + option->offset;
        json_t *value = NULL;

        switch (option->kind) {
        case NAME:
        case ADDRESS:
            value = json_string(field);
            break;
        case WORD:
            value = json_string(option->words[*(const unsigned int *)field]);
            break;
        case NUMBER:
            value = json_integer((json_int_t) * (const uint64_t *)field);
            break;
        case FLAG:
            value = json_boolean(*(const bool *)field);
            break;
        }
        json_object_set_new(doc, option->key, value);
    }
    return doc;
}
