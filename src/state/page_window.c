#include "state/page_window.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/text.h"

#define WINDOW_BYTES (UINT64_C(256) << 20)
#define WINDOWS_MAX 256u /* more are done without */

struct fm_page_window {
    uint64_t number; /* of it in the file */
    uint8_t *memory;
    struct fm_page_window *next;
};

static struct fm_page_window *map(struct fm_page_windows *w, int fd, uint64_t number)
{
    struct fm_page_window *window;
    void *memory;

    if (w->count == WINDOWS_MAX)
        return NULL;
    memory = mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                  (off_t)(number * WINDOW_BYTES));
    if (memory == MAP_FAILED)
        return NULL;
    window = fm_xmalloc(sizeof(*window));
    *window = (struct fm_page_window){number, memory, w->first};
    w->first = window;
    w->count++;
    return window;
}

uint8_t *fm_page_window_find(struct fm_page_windows *w, int fd, uint64_t offset)
{
    uint64_t number = offset / WINDOW_BYTES;
    struct fm_page_window *window = w->first;

    while (window && window->number != number)
        window = window->next;
    if (!window)
        window = map(w, fd, number);
    return window ? window->memory + offset % WINDOW_BYTES : NULL;
}

void fm_page_windows_clear(struct fm_page_windows *w)
{
    while (w->first) {
        struct fm_page_window *window = w->first;

        w->first = window->next;
        munmap(window->memory, WINDOW_BYTES);
        free(window);
    }
    w->count = 0;
}
