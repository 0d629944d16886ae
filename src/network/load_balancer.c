#include "network/load_balancer.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/subprocess.h"
#include "network/haproxy.h"
#include "network/load_balancer_internal.h"

#define DEFAULT_TIMEOUT_MS 5000

bool fm_load_balancer_concerns(const struct fm_load_balancer *lb, const char *container)
{
    for (size_t i = 0; i < lb->containers.count; i++)
        if (fm_streq(lb->containers.items[i], container))
            return true;
    return lb->all;
}

int fm_load_balancer_result(const struct fm_load_balancer *lb, int rc, struct fm_error *err)
{
    if (rc < 0 && lb->name)
        fm_error_prefix(err, "load balancer '%s'", lb->name);
    return rc;
}

/* ---- a command ---- */

static void add_environment(struct fm_strv *env, const char *phase, const struct fm_move *move)
{
    const struct {
        const char *name, *value;
    } all[] = {
        {"PHASE", phase},
        {"MIGRATION", move->migration},
        {"CONTAINER", move->container},
        {"NETWORK", move->network},
        {"MAC", move->mac},
        {"OLD_IP", move->old_ip},
        {"NEW_IP", move->new_ip},
        {"OLD_IP6", move->old_ip6},
        {"NEW_IP6", move->new_ip6},
        {"SOURCE", move->source},
        {"DESTINATION", move->destination},
        {"SOURCE_ADDRESS", move->source_address},
        {"DESTINATION_ADDRESS", move->destination_address},
    };
    for (size_t i = 0; i < FM_COUNT(all); i++)
        fm_strv_addf(env, "FLEXIMIGRATE_%s=%s", all[i].name, all[i].value);
}

static int run_command(const struct fm_load_balancer *lb, const char *phase,
                       const struct fm_move *move, struct fm_error *err)
{
    fm_cleanup(fm_strv_free) struct fm_strv env = {0};
    add_environment(&env, phase, move);
    struct fm_subprocess_options options = {
        .argv = (const char *const *)lb->command.items,
        .env = (const char *const *)env.items,
        .stdin_fd = -1,
        .new_session = true, /* what ends it ends its children as well */
        .timeout_ms = lb->timeout_ms,
        .cancel = move->cancel,
    };
    int rc = fm_subprocess_check(&options, NULL, err);
    if (rc < 0)
        fm_error_prefix(err, "command for phase '%s' of '%s'", phase, move->container);
    return fm_load_balancer_result(lb, rc, err);
}

/* Only the command knows what there is; an empty note says that it is concerned. */
static int command_read(void *ctx, const struct fm_move *move, json_t **before,
                        struct fm_error *err)
{
    (void)err;
    *before = fm_load_balancer_concerns(ctx, move->container) ? json_object() : NULL;
    return 0;
}

static int command_prepare(void *ctx, const struct fm_move *move, const json_t *before,
                           struct fm_error *err)
{
    (void)before;
    return run_command(ctx, "prepare", move, err);
}

static int command_switch(void *ctx, const struct fm_move *move, const json_t *before,
                          struct fm_error *err)
{
    (void)before;
    return run_command(ctx, "switch", move, err);
}

static int command_finish(void *ctx, const struct fm_move *move, const json_t *before,
                          struct fm_error *err)
{
    (void)before;
    return run_command(ctx, "finish", move, err);
}

static int command_undo(void *ctx, const struct fm_move *move, const json_t *before,
                        struct fm_error *err)
{
    (void)before;
    return run_command(ctx, "undo", move, err);
}

static const struct fm_follower_ops command_ops = {
    .kind = "load-balancer",
    .read = command_read,
    .prepare = command_prepare,
    .switch_over = command_switch,
    .finish = command_finish,
    .undo = command_undo,
};

/* ---- opening ---- */

static int check_haproxy(const struct fm_load_balancer_config *config, struct fm_error *err)
{
    const struct fm_haproxy_config *h = config->haproxy;
    if (!h->socket || !h->backend)
        return fm_error_set(err, FM_E_INVALID, "HAProxy needs its stats socket and a backend");
    if (h->server && !(config->containers && config->containers[0] && !config->containers[1]))
        return fm_error_set(err, FM_E_INVALID,
                            "server '%s' of HAProxy needs the one container that it is", h->server);
    if (h->drain_percent > 100)
        return fm_error_set(err, FM_E_INVALID, "a weight cannot be drained to %u percent",
                            h->drain_percent);
    int rc = fm_haproxy_check_socket(h->socket, err);
    if (rc == 0)
        rc = fm_haproxy_check_name("backend", h->backend, err);
    if (rc == 0 && h->server)
        rc = fm_haproxy_check_name("server", h->server, err);
    return rc;
}

static int check_config(const struct fm_load_balancer_config *config, struct fm_error *err)
{
    bool has_command = config->command && config->command[0];
    if (has_command == (config->haproxy != NULL))
        return fm_error_set(err, FM_E_INVALID, "it needs either HAProxy or a command");
    return config->haproxy ? check_haproxy(config, err) : 0;
}

static void load_balancer_free(struct fm_load_balancer *lb)
{
    fm_strv_free(&lb->containers);
    fm_strv_free(&lb->command);
    free(lb->name);
    free(lb->socket);
    free(lb->backend);
    free(lb->server);
    free(lb);
}

int fm_load_balancer_open(const struct fm_load_balancer_config *config,
                          struct fm_follower *follower, struct fm_error *err)
{
    *follower = (struct fm_follower){0};
    int rc = check_config(config, err);
    if (rc < 0)
        return fm_error_prefix(err, "load balancer '%s'", config->name ? config->name : "");
    struct fm_load_balancer *lb = fm_xcalloc(1, sizeof(*lb));
    lb->name = fm_xstrdup(config->name);
    lb->all = !config->containers;
    lb->timeout_ms = config->timeout_ms ? config->timeout_ms : DEFAULT_TIMEOUT_MS;
    if (config->containers)
        fm_strv_add_all(&lb->containers, config->containers);
    if (config->command)
        fm_strv_add_all(&lb->command, config->command);
    if (config->haproxy) {
        lb->socket = fm_xstrdup(config->haproxy->socket);
        lb->backend = fm_xstrdup(config->haproxy->backend);
        lb->server = fm_xstrdup(config->haproxy->server);
        lb->drain_percent = config->haproxy->drain_percent;
        lb->drain_wait_ms = config->haproxy->drain_wait_ms;
    }
    *follower = (struct fm_follower){
        .ops = config->haproxy ? &fm_haproxy_follower_ops : &command_ops, .ctx = lb};
    return 0;
}

void fm_load_balancer_close(struct fm_follower *follower)
{
    if (follower->ctx)
        load_balancer_free(follower->ctx);
    *follower = (struct fm_follower){0};
}
