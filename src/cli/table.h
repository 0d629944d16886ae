/* Tables for people: aligned columns, upper-case headings. */
#ifndef FM_CLI_TABLE_H
#define FM_CLI_TABLE_H

#include <stddef.h>

#include <jansson.h>

struct cli_column {
    const char *heading;
    const char *key; /* of each row's document; used when `text` is NULL */
    /* Writes the cell's text into buf; may be NULL. */
    const char *(*text)(const json_t *row, char *buf, size_t len);
};

/* Prints one line per document of `rows`; the headings alone when there is none. */
void cli_table(const struct cli_column *columns, size_t count, const json_t *rows);

#endif
