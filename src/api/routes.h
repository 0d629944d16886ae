/* Every path of the API with its method, its role and its handler; docs/openapi.yaml is checked
 * against it. */
#ifndef FM_API_ROUTES_H
#define FM_API_ROUTES_H

#include "api/request.h"

struct fm_api_route {
    const char *method;
    const char *path; /* "{name}" and "{id}" stand for one segment; at most one per path */
    bool writes;      /* viewers may not */
    fm_api_handler handle;
};

const struct fm_api_route *fm_api_routes(size_t *count);

/* Finds the route. When only the method is wrong NULL is returned and *allowed (the caller frees
 * it) lists the methods that exist, else *allowed is NULL. *argument (the caller frees it) is the
 * segment that the placeholder stands for. */
const struct fm_api_route *fm_api_route_find(const char *method, const char *path, char **argument,
                                             char **allowed);

#endif
