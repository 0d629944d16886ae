#include "network/frame_queue.h"

#include <string.h>

#include "base/text.h"

void fm_frame_queue_put(struct fm_frame_queue *queue, const uint8_t *bytes, size_t len)
{
    struct fm_frame *frame = fm_xmalloc(sizeof(*frame) + len);
    frame->next = NULL;
    frame->len = len;
    memcpy(frame->bytes, bytes, len);
    if (queue->last)
        queue->last->next = frame;
    else
        queue->first = frame;
    queue->last = frame;
    queue->frames++;
    queue->bytes += len;
}

struct fm_frame *fm_frame_queue_take(struct fm_frame_queue *queue)
{
    struct fm_frame *frame = queue->first;
    if (!frame)
        return NULL;
    queue->first = frame->next;
    if (!queue->first)
        queue->last = NULL;
    queue->frames--;
    queue->bytes -= frame->len;
    return frame;
}
