/* Page windows: parts of a sparse file of pages, mapped, so that a single page of it costs no
 * system call. Not thread-safe, but what is found stays where it is. */
#ifndef FM_STATE_PAGE_WINDOW_H
#define FM_STATE_PAGE_WINDOW_H

#include <stddef.h>
#include <stdint.h>

struct fm_page_window;

struct fm_page_windows { /* {0} to begin with */
    struct fm_page_window *first;
    size_t count;
};

/* Where the page at this offset of the file lies; it must exist. NULL: it cannot be mapped. */
uint8_t *fm_page_window_find(struct fm_page_windows *w, int fd, uint64_t offset);
void fm_page_windows_clear(struct fm_page_windows *w);

#endif
