#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/cleanup.h"

static void *must(void *p)
{
    if (!p) {
        fputs("ERROR: out of memory\n", stderr);
        abort();
    }
    return p;
}

void *fm_xmalloc(size_t size)
{
    return must(malloc(size ? size : 1));
}

void *fm_xcalloc(size_t count, size_t size)
{
    return must(calloc(count ? count : 1, size ? size : 1));
}

void *fm_xrealloc(void *p, size_t size)
{
    return must(realloc(p, size ? size : 1));
}

char *fm_xstrdup(const char *s)
{
    return s ? must(strdup(s)) : NULL;
}

char *fm_xstrndup(const char *s, size_t n)
{
    return s ? must(strndup(s, n)) : NULL;
}

char *fm_vstrf(const char *fmt, va_list ap)
{
    char *s = NULL;

    if (vasprintf(&s, fmt, ap) < 0)
        must(NULL);
    return s;
}

char *fm_strf(const char *fmt, ...)
{
    va_list ap;
    char *s;

    va_start(ap, fmt);
    s = fm_vstrf(fmt, ap);
    va_end(ap);
    return s;
}

bool fm_streq(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

bool fm_starts_with(const char *s, const char *prefix)
{
    return s && strncmp(s, prefix, strlen(prefix)) == 0;
}

bool fm_ends_with(const char *s, const char *suffix)
{
    size_t len = s ? strlen(s) : 0;
    size_t tail = strlen(suffix);

    return s && len >= tail && strcmp(s + len - tail, suffix) == 0;
}

char *fm_trim(char *s)
{
    size_t skip = strspn(s, " \t\r\n\v\f");
    size_t len = strlen(s + skip);

    memmove(s, s + skip, len + 1);
    while (len > 0 && isspace((unsigned char)s[len - 1]))
        s[--len] = '\0';
    return s;
}

/* Takes the string over. */
static void strv_push(struct fm_strv *v, char *s)
{
    v->items = fm_xrealloc(v->items, (v->count + 2) * sizeof(*v->items));
    v->items[v->count++] = s;
    v->items[v->count] = NULL;
}

void fm_strv_add(struct fm_strv *v, const char *s)
{
    strv_push(v, fm_xstrdup(s ? s : ""));
}

void fm_strv_addf(struct fm_strv *v, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    strv_push(v, fm_vstrf(fmt, ap));
    va_end(ap);
}

void fm_strv_add_all(struct fm_strv *v, const char *const *items)
{
    for (; items && *items; items++)
        fm_strv_add(v, *items);
}

void fm_strv_free(struct fm_strv *v)
{
    for (size_t i = 0; i < v->count; i++)
        free(v->items[i]);
    free(v->items);
    *v = (struct fm_strv){0};
}

/* A non-negative decimal number: the whole part, and billionths. Independent of the locale. */
struct decimal {
    uint64_t whole;
    uint32_t billionths;
};

/* Returns what follows the number, or NULL when there is none or it is too large. */
static const char *parse_decimal(const char *s, struct decimal *d)
{
    *d = (struct decimal){0};
    if (!isdigit((unsigned char)*s))
        return NULL;
    for (; isdigit((unsigned char)*s); s++) {
        if (__builtin_mul_overflow(d->whole, 10u, &d->whole) ||
            __builtin_add_overflow(d->whole, (uint64_t)(*s - '0'), &d->whole))
            return NULL;
    }
    if (*s != '.')
        return s;
    if (!isdigit((unsigned char)*++s))
        return NULL;
    for (uint32_t weight = 100000000; isdigit((unsigned char)*s); s++, weight /= 10)
        d->billionths += (uint32_t)(*s - '0') * weight;
    return s;
}

static int scale(const struct decimal *d, uint64_t factor, uint64_t *result)
{
    uint64_t part = (uint64_t)((unsigned __int128)d->billionths * factor / 1000000000u);

    return __builtin_mul_overflow(d->whole, factor, result) ||
                   __builtin_add_overflow(*result, part, result)
               ? -1
               : 0;
}

struct unit {
    const char *name;
    uint64_t factor;
};

/* The first unit is the one of a bare number. */
static int parse_with_unit(const char *s, const struct unit *units, size_t count, uint64_t *value)
{
    struct decimal d;
    const char *rest = s ? parse_decimal(s, &d) : NULL;

    if (!rest)
        return -1;
    while (*rest == ' ')
        rest++;
    for (size_t i = 0; i < count; i++) {
        if (strcasecmp(rest, units[i].name) == 0)
            return scale(&d, units[i].factor, value);
    }
    return -1;
}

int fm_parse_size(const char *s, uint64_t *bytes, struct fm_error *err)
{
    static const struct unit units[] = {
        {"", 1},
        {"B", 1},
        {"K", 1ull << 10},
        {"KB", 1ull << 10},
        {"KiB", 1ull << 10},
        {"M", 1ull << 20},
        {"MB", 1ull << 20},
        {"MiB", 1ull << 20},
        {"G", 1ull << 30},
        {"GB", 1ull << 30},
        {"GiB", 1ull << 30},
        {"T", 1ull << 40},
        {"TB", 1ull << 40},
        {"TiB", 1ull << 40},
    };

    if (parse_with_unit(s, units, FM_COUNT(units), bytes) < 0)
        return fm_error_set(err, FM_E_INVALID,
                            "'%s' is not a size; write for example 64M or 1.5GiB", s ? s : "");
    return 0;
}

int fm_parse_duration(const char *s, uint64_t *ms, struct fm_error *err)
{
    static const struct unit units[] = {
        {"", 1000},     {"ms", 1},      {"s", 1000},     {"m", 60000},
        {"min", 60000}, {"h", 3600000}, {"d", 86400000},
    };

    if (parse_with_unit(s, units, FM_COUNT(units), ms) < 0)
        return fm_error_set(err, FM_E_INVALID,
                            "'%s' is not a duration; write for example 50ms, 1.5s or 5m",
                            s ? s : "");
    return 0;
}

int fm_parse_int(const char *s, int64_t min, int64_t max, int64_t *value, struct fm_error *err)
{
    char *end = NULL;
    long long number;

    errno = 0;
    number = s ? strtoll(s, &end, 10) : 0;
    if (!s || end == s || *end || isspace((unsigned char)*s) || *s == '+' || errno ||
        number < min || number > max)
        return fm_error_set(err, FM_E_INVALID,
                            "'%s' is not a whole number from %" PRId64 " to %" PRId64, s ? s : "",
                            min, max);
    *value = number;
    return 0;
}

static bool is_ascii_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

int fm_check_name(const char *what, const char *name, struct fm_error *err)
{
    size_t len = name ? strlen(name) : 0;
    bool good = len >= 1 && len <= 63 && is_ascii_alnum(name[0]);

    for (size_t i = 1; good && i < len; i++)
        good = is_ascii_alnum(name[i]) || name[i] == '_' || name[i] == '.' || name[i] == '-';
    if (good)
        return 0;
    return fm_error_set(err, FM_E_INVALID,
                        "%s '%.80s' is not valid; use 1 to 63 letters, digits, '_', '.' and '-', "
                        "the first a letter or digit",
                        what, name ? name : "");
}

char *fm_format_size(uint64_t bytes, char *buf, size_t len)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes / 1024;
    size_t unit = 0;

    if (bytes < 1024) {
        snprintf(buf, len, "%u B", (unsigned int)bytes);
        return buf;
    }
    /* 1023.95 would print as 1024.0 */
    while (value >= 1023.95 && unit + 1 < FM_COUNT(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(buf, len, "%.1f %s", value, units[unit]);
    return buf;
}

char *fm_random_id(void)
{
    unsigned char bytes[6];

    while (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        ;
    return fm_strf("%02x%02x%02x%02x%02x%02x", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4],
                   bytes[5]);
}
