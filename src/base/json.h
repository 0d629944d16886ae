/* Small questions to JSON documents, most of which come from elsewhere: anything may be missing. */
#ifndef FM_BASE_JSON_H
#define FM_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/text.h"

/* The text under a key; "" when there is none. Borrowed. */
static inline const char *fm_json_text(const json_t *doc, const char *key)
{
    const char *value = json_string_value(json_object_get(doc, key));

    return value ? value : "";
}

/* Whether the text is an element of the array. */
static inline bool fm_json_has(const json_t *array, const char *text)
{
    const json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
    {
        if (fm_streq(json_string_value(item), text))
            return true;
    }
    return false;
}

/* As fm_format_time; new reference. */
static inline json_t *fm_json_time(uint64_t realtime_us)
{
    char text[32];

    return json_string(fm_format_time(realtime_us, text, sizeof(text)));
}

#endif
