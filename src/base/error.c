#define FM_ERROR_IMPLEMENTATION
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Texts may carry bytes of others (a peer, a program's stderr); the operator gets one line. */
static void copy_line(char *to, size_t size, const char *from)
{
    size_t len = strnlen(from, size - 1);

    for (size_t i = 0; i < len; i++)
        to[i] = (unsigned char)from[i] < ' ' || from[i] == 0x7f ? ' ' : from[i];
    while (len > 0 && to[len - 1] == ' ')
        len--;
    to[len] = '\0';
}

/* Formats aside first: the arguments may point into err->text. */
static void set_text(struct fm_error *err, enum fm_code code, int sys_errno, const char *fmt,
                     va_list ap)
{
    char text[sizeof(err->text)];
    char reason[128];
    int used;

    if (!err)
        return;
    used = vsnprintf(text, sizeof(text), fmt, ap);
    if (sys_errno && used >= 0 && (size_t)used < sizeof(text))
        snprintf(text + used, sizeof(text) - (size_t)used, ": %s",
                 strerror_r(sys_errno, reason, sizeof(reason)));
    err->code = code;
    err->sys_errno = sys_errno;
    copy_line(err->text, sizeof(err->text), text);
}

int fm_error_set(struct fm_error *err, enum fm_code code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set_text(err, code, 0, fmt, ap);
    va_end(ap);
    return -(int)code;
}

static enum fm_code code_of_errno(int sys_errno)
{
    switch (sys_errno) {
    case ENOENT:
        return FM_E_NOT_FOUND;
    case EEXIST:
        return FM_E_EXISTS;
    case ENOSPC:
    case EDQUOT:
        return FM_E_NO_SPACE;
    case ETIMEDOUT:
        return FM_E_TIMEOUT;
    default:
        return FM_E_IO;
    }
}

int fm_error_errno(struct fm_error *err, int sys_errno, const char *fmt, ...)
{
    enum fm_code code = code_of_errno(sys_errno);
    va_list ap;

    va_start(ap, fmt);
    set_text(err, code, sys_errno, fmt, ap);
    va_end(ap);
    return -(int)code;
}

int fm_error_prefix(struct fm_error *err, const char *fmt, ...)
{
    char text[2 * sizeof(err->text) + 4]; /* the old text fits behind any prefix */
    va_list ap;
    int used;

    if (!err)
        return -FM_E_FAILED;
    if (err->code == FM_E_OK)
        err->code = FM_E_FAILED;

    va_start(ap, fmt);
    used = vsnprintf(text, sizeof(err->text), fmt, ap);
    va_end(ap);
    if (used >= 0 && (size_t)used < sizeof(err->text))
        snprintf(text + used, sizeof(text) - (size_t)used, ": %s", err->text);
    copy_line(err->text, sizeof(err->text), text);
    return -(int)err->code;
}

int fm_error_recode(struct fm_error *err, enum fm_code code)
{
    if (err)
        err->code = code;
    return -(int)code;
}

const char *fm_code_text(enum fm_code code)
{
    switch (code) {
#define X(name, value, text, exit_code)                                                            \
    case FM_E_##name:                                                                              \
        return text;
        FM_ERROR_CODES(X)
#undef X
    }
    return "unknown error";
}

const char *fm_code_name(enum fm_code code)
{
    switch (code) {
#define X(name, value, text, exit_code)                                                            \
    case FM_E_##name:                                                                              \
        return #name;
        FM_ERROR_CODES(X)
#undef X
    }
    return "FAILED";
}

enum fm_code fm_code_by_name(const char *name)
{
    if (!name)
        return FM_E_FAILED;
#define X(word, value, text, exit_code)                                                            \
    if (strcmp(name, #word) == 0)                                                                  \
        return FM_E_##word;
    FM_ERROR_CODES(X)
#undef X
    return FM_E_FAILED;
}

int fm_code_exit(enum fm_code code)
{
    switch (code) {
#define X(name, value, text, exit_code)                                                            \
    case FM_E_##name:                                                                              \
        return exit_code;
        FM_ERROR_CODES(X)
#undef X
    }
    return 1;
}
