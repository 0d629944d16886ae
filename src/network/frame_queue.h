/* Frame queue: frames in the order of their arrival. */
#ifndef FM_NETWORK_FRAME_QUEUE_H
#define FM_NETWORK_FRAME_QUEUE_H

#include <stddef.h>
#include <stdint.h>

struct fm_frame {
    struct fm_frame *next;
    size_t len;
    uint8_t bytes[];
};

/* {0} is empty. */
struct fm_frame_queue {
    struct fm_frame *first, *last;
    uint64_t bytes;
    uint32_t frames;
};

/* Copies. */
void fm_frame_queue_put(struct fm_frame_queue *queue, const uint8_t *bytes, size_t len);
/* The first one, which the caller frees; NULL when it is empty. */
struct fm_frame *fm_frame_queue_take(struct fm_frame_queue *queue);

#endif
