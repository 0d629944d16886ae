/* Event bus: who happens to listen hears what the migrations say. */
#ifndef FM_MIGRATION_EVENTS_H
#define FM_MIGRATION_EVENTS_H

#include <stddef.h>

#include <jansson.h>

struct fm_events;

/* `event` is borrowed. Events of one thread arrive in order; several threads may call at once. */
typedef void (*fm_events_fn)(const json_t *event, void *ctx);

struct fm_events *fm_events_new(void);
/* Nobody publishes any more. NULL is fine. */
void fm_events_free(struct fm_events *events);

/* Returns a handle ≥ 0, never given twice. Also from inside a subscriber; what is being published
 * at that moment is not delivered to the new one. */
int fm_events_subscribe(struct fm_events *events, fm_events_fn fn, void *ctx);
/* After it returns fn is not running and is not called again. From inside fn itself it does not
 * wait for that call. An unknown handle is ignored. */
void fm_events_unsubscribe(struct fm_events *events, int handle);

/* Calls every subscriber in the caller's thread, without holding a lock. Takes the reference over.
 */
void fm_events_publish(struct fm_events *events, json_t *event);

size_t fm_events_subscribers(struct fm_events *events);

#endif
