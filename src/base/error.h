/* Errors: one value that travels up and gains context on its way to the operator. */
#ifndef FM_BASE_ERROR_H
#define FM_BASE_ERROR_H

#include <stdbool.h>
#include <stddef.h>

/* Codes and the short text of each. The exit code of the command line follows from them. */
#define FM_ERROR_CODES(X)                                                                          \
    X(OK, 0, "ok", 0)                                                                              \
    X(FAILED, 1, "failed", 1)                                                                      \
    X(USAGE, 2, "usage", 2)                                                                        \
    X(NOT_FOUND, 3, "not found", 3)                                                                \
    X(REFUSED, 4, "refused", 4)                                                                    \
    X(ROLLED_BACK, 5, "rolled back", 5)                                                            \
    X(INVALID, 6, "invalid input", 2)                                                              \
    X(IO, 7, "i/o error", 1)                                                                       \
    X(TIMEOUT, 8, "timed out", 1)                                                                  \
    X(CANCELLED, 9, "cancelled", 1)                                                                \
    X(PROTOCOL, 10, "protocol error", 1)                                                           \
    X(CHECKSUM, 11, "checksum mismatch", 1)                                                        \
    X(EXISTS, 12, "already exists", 1)                                                             \
    X(UNREACHABLE, 13, "unreachable", 1)                                                           \
    X(NO_SPACE, 14, "no space", 1)                                                                 \
    X(AUTH, 15, "not authorised", 1)                                                               \
    X(CLOSED, 16, "connection closed", 1)

enum fm_code {
#define X(name, value, text, exit_code) FM_E_##name = value,
    FM_ERROR_CODES(X)
#undef X
};

/* An error value. Lives on the caller's stack, owns nothing; {0} means no error. */
struct fm_error {
    enum fm_code code;
    int sys_errno;   /* the errno behind it, 0 when there is none */
    char text[1024]; /* one line, no newline at the end */
};

/* Sets *err (which may be NULL). Returns -code, so that `return fm_error_set(...)` reads well. */
int fm_error_set(struct fm_error *err, enum fm_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As fm_error_set, with ": " and the text of `sys_errno` appended. ENOENT, EEXIST, ENOSPC and
 * ETIMEDOUT select the matching code; everything else is FM_E_IO. */
int fm_error_errno(struct fm_error *err, int sys_errno, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the text and returns -err->code (or -FM_E_FAILED without err). */
int fm_error_prefix(struct fm_error *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Replaces the code and keeps the text; returns -code. */
int fm_error_recode(struct fm_error *err, enum fm_code code);

/* What a function returns whose callee has filled in *err (which may be NULL): always negative. */
static inline int fm_error_result(const struct fm_error *err)
{
    return err && err->code ? -(int)err->code : -(int)FM_E_FAILED;
}

/* The name of a code ("not found") and its enum word ("NOT_FOUND"); never NULL. */
const char *fm_code_text(enum fm_code code);
const char *fm_code_name(enum fm_code code);
/* The code of an enum word, FM_E_FAILED when unknown. */
enum fm_code fm_code_by_name(const char *name);
/* Exit code that the command line uses for a code (interfaces: 0 1 2 3 4 5). */
int fm_code_exit(enum fm_code code);

/* The analyzer cannot see that these never return 0. */
#if defined(__clang_analyzer__) && !defined(FM_ERROR_IMPLEMENTATION)
#define fm_error_set(...) (fm_error_set(__VA_ARGS__), -1)
#define fm_error_errno(...) (fm_error_errno(__VA_ARGS__), -1)
#define fm_error_prefix(...) (fm_error_prefix(__VA_ARGS__), -1)
#define fm_error_recode(...) (fm_error_recode(__VA_ARGS__), -1)
#endif

#endif
