#include "cli/table.h"

#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define CELL 256
#define GAP 2

/* Columns that a UTF-8 text takes on the terminal (one for each character). */
static size_t width_of(const char *text)
{
    size_t width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static const char *cell(const struct cli_column *column, const json_t *row, char *buf)
{
    return column->text ? column->text(row, buf, CELL) : cli_text(row, column->key, buf, CELL);
}

static size_t column_width(const struct cli_column *column, const json_t *rows)
{
    size_t widest = width_of(column->heading), i;
    const json_t *row;
    char buf[CELL];

    json_array_foreach(rows, i, row)
    {
        size_t width = width_of(cell(column, row, buf));

        if (width > widest)
            widest = width;
    }
    return widest;
}

static void print_cell(const char *text, size_t width, bool last)
{
    printf("%s%*s", text, last ? 0 : (int)(width - width_of(text) + GAP), "");
}

void cli_table(const struct cli_column *columns, size_t count, const json_t *rows)
{
    size_t *widths = fm_xcalloc(count, sizeof(*widths));
    const json_t *row;
    char buf[CELL];
    size_t i;

    for (size_t c = 0; c < count; c++) {
        widths[c] = column_width(&columns[c], rows);
        print_cell(columns[c].heading, widths[c], c + 1 == count);
    }
    putchar('\n');
    json_array_foreach(rows, i, row)
    {
        for (size_t c = 0; c < count; c++)
            print_cell(cell(&columns[c], row, buf), widths[c], c + 1 == count);
        putchar('\n');
    }
    free(widths);
}
