/* Strings, string lists, sizes and durations as people write them. Out of memory aborts. */
#ifndef FM_BASE_TEXT_H
#define FM_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

void *fm_xmalloc(size_t size);
void *fm_xcalloc(size_t count, size_t size);
void *fm_xrealloc(void *p, size_t size);
char *fm_xstrdup(const char *s); /* NULL stays NULL */
char *fm_xstrndup(const char *s, size_t n);
/* A new string; the caller frees it. Never NULL. */
char *fm_strf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
char *fm_vstrf(const char *fmt, va_list ap);

bool fm_streq(const char *a, const char *b); /* NULL equals only NULL */
bool fm_starts_with(const char *s, const char *prefix);
bool fm_ends_with(const char *s, const char *suffix);
/* Strips leading and trailing white space in place; returns its argument. */
char *fm_trim(char *s);

/* A NULL-terminated list of strings, as execve wants it. {0} is an empty list. */
struct fm_strv {
    char **items; /* NULL when empty, else NULL-terminated */
    size_t count;
};
void fm_strv_add(struct fm_strv *v, const char *s); /* copies */
void fm_strv_addf(struct fm_strv *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fm_strv_add_all(struct fm_strv *v, const char *const *items); /* NULL-terminated; copies */
void fm_strv_free(struct fm_strv *v);                              /* and zeroes it */

/* "64M", "1.5GiB", "4096" → bytes (K, M, G, T are powers of 1024). */
int fm_parse_size(const char *s, uint64_t *bytes, struct fm_error *err);
/* "50ms", "1.5s", "300", "5m" → milliseconds; a bare number is seconds. */
int fm_parse_duration(const char *s, uint64_t *ms, struct fm_error *err);
/* Whole decimal number within [min, max]. */
int fm_parse_int(const char *s, int64_t min, int64_t max, int64_t *value, struct fm_error *err);
/* Container, host and network names: [A-Za-z0-9][A-Za-z0-9_.-]{0,62}. `what` names it in the error.
 */
int fm_check_name(const char *what, const char *name, struct fm_error *err);
/* "1.4 MiB"; writes into buf and returns it. */
char *fm_format_size(uint64_t bytes, char *buf, size_t len);

/* 16 random bytes' worth of lower-case hex, for migration ids: 12 characters; the caller frees it.
 */
char *fm_random_id(void);

#endif
