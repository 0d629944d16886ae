#include "api/routes.h"

#include <string.h>

#include "api/handlers.h"
#include "base/cleanup.h"
#include "base/text.h"

#define READ false
#define WRITE true

static const struct fm_api_route routes[] = {
    {"GET", "/healthz", READ, fm_api_health},
    {"GET", "/readyz", READ, fm_api_ready},
    {"GET", "/v1/events", READ, fm_api_events},
    {"GET", "/v1/hosts", READ, fm_api_host_list},
    {"POST", "/v1/hosts", WRITE, fm_api_host_add},
    {"GET", "/v1/hosts/{name}", READ, fm_api_host_show},
    {"DELETE", "/v1/hosts/{name}", WRITE, fm_api_host_remove},
    {"POST", "/v1/hosts/{name}/cordon", WRITE, fm_api_host_cordon},
    {"POST", "/v1/hosts/{name}/uncordon", WRITE, fm_api_host_uncordon},
    {"GET", "/v1/networks", READ, fm_api_network_list},
    {"POST", "/v1/networks", WRITE, fm_api_network_create},
    {"GET", "/v1/networks/verify", READ, fm_api_network_verify},
    {"POST", "/v1/networks/repair", WRITE, fm_api_network_repair},
    {"GET", "/v1/networks/{name}", READ, fm_api_network_show},
    {"DELETE", "/v1/networks/{name}", WRITE, fm_api_network_remove},
    {"GET", "/v1/containers", READ, fm_api_container_list},
    {"POST", "/v1/containers", WRITE, fm_api_container_run},
    {"GET", "/v1/containers/{name}", READ, fm_api_container_show},
    {"DELETE", "/v1/containers/{name}", WRITE, fm_api_container_remove},
    {"GET", "/v1/containers/{name}/logs", READ, fm_api_container_logs},
    {"POST", "/v1/containers/{name}/exec", WRITE, fm_api_container_exec},
    {"POST", "/v1/containers/{name}/stop", WRITE, fm_api_container_stop},
    {"GET", "/v1/containers/{name}/check", READ, fm_api_container_check},
    {"GET", "/v1/migrations", READ, fm_api_migration_list},
    {"POST", "/v1/migrations", WRITE, fm_api_migration_start},
    {"GET", "/v1/migrations/{id}", READ, fm_api_migration_show},
    {"DELETE", "/v1/migrations/{id}", WRITE, fm_api_migration_cancel},
};

const struct fm_api_route *fm_api_routes(size_t *count)
{
    *count = FM_COUNT(routes);
    return routes;
}

/* True when the path has the pattern's segments; *argument is then the one of the placeholder. */
static bool matches(const char *pattern, const char *path, char **argument)
{
    const char *open = strchr(pattern, '{');
    size_t before, len;

    *argument = NULL;
    if (!open)
        return fm_streq(pattern, path);
    before = (size_t)(open - pattern);
    if (strncmp(pattern, path, before) != 0)
        return false;
    len = strcspn(path + before, "/");
    if (len == 0 || !fm_streq(strchr(open, '}') + 1, path + before + len))
        return false;
    *argument = fm_xstrndup(path + before, len);
    return true;
}

const struct fm_api_route *fm_api_route_find(const char *method, const char *path, char **argument,
                                             char **allowed)
{
    fm_autofree char *methods = NULL;

    for (size_t i = 0; i < FM_COUNT(routes); i++) {
        fm_autofree char *found = NULL;
        fm_autofree char *others = NULL;

        if (!matches(routes[i].path, path, &found))
            continue;
        if (fm_streq(routes[i].method, method)) {
            *argument = FM_MOVE(found);
            *allowed = NULL;
            return &routes[i];
        }
        others = FM_MOVE(methods);
        methods =
            others ? fm_strf("%s, %s", others, routes[i].method) : fm_xstrdup(routes[i].method);
    }
    *argument = NULL;
    *allowed = FM_MOVE(methods);
    return NULL;
}
