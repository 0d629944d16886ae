#include "dns_steps.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

struct world world;
struct fm_follower follower;

void dns_open_with(const struct fm_dns_config *config)
{
    struct fm_error err = {0};
    fm_dns_close(&follower);
    if (fm_dns_open(config, &follower, &err) < 0)
        fail_msg("%s", err.text);
}

struct fm_move dns_move_of(const char *container, const char *old_ip, const char *new_ip,
                           const char *old_ip6, const char *new_ip6)
{
    return (struct fm_move){
        .migration = "0123456789ab",
        .container = container,
        .network = "default",
        .mac = "02:00:00:00:00:01",
        .old_ip = old_ip,
        .new_ip = new_ip,
        .old_ip6 = old_ip6,
        .new_ip6 = new_ip6,
        .source = "host-a",
        .destination = "host-b",
        .source_address = "192.0.2.1",
        .destination_address = "192.0.2.2",
    };
}

const struct fm_move *dns_web(void)
{
    static struct fm_move move;
    move = dns_move_of("web", "10.0.0.5", "10.1.0.6", "fd00::5", "fd00:1::6");
    return &move;
}

int dns_try_step(enum step step, const struct fm_move *move, json_t **before, struct fm_error *err)
{
    const struct fm_follower_ops *ops = follower.ops;
    *err = (struct fm_error){0};
    switch (step) {
    case READ:
        return ops->read(follower.ctx, move, before, err);
    case PREPARE:
        return ops->prepare(follower.ctx, move, *before, err);
    case SWITCH_OVER:
        return ops->switch_over(follower.ctx, move, *before, err);
    case FINISH:
        return ops->finish(follower.ctx, move, *before, err);
    case UNDO:
        return ops->undo(follower.ctx, move, *before, err);
    }
    return -1;
}

void dns_do_step(enum step step, const struct fm_move *move, json_t **before)
{
    struct fm_error err;
    if (dns_try_step(step, move, before, &err) < 0)
        fail_msg("step %d: %s", (int)step, err.text);
}

void dns_fail_step(enum step step, const struct fm_move *move, json_t **before, enum fm_code code,
                   const char *expected)
{
    struct fm_error err;
    int rc = dns_try_step(step, move, before, &err);
    print_message("    %s\n", err.text);
    assert_int_equal(rc, -(int)code);
    if (!strstr(err.text, expected))
        fail_msg("'%s' does not say '%s'", err.text, expected);
}

json_t *dns_read_move(const struct fm_move *move)
{
    json_t *before = NULL;
    dns_do_step(READ, move, &before);
    assert_non_null(before);
    return before;
}

void dns_says(const char *name, const char *type, const char *expected)
{
    fm_autofree char *out = world_dig(name, type);
    if (!fm_streq(out, expected))
        fail_msg("%s %s is '%s', not '%s'", name, type, out, expected);
}

const char *dns_in_its_case(const char *text)
{
    static char lower[64];
    if (world.kind == WORLD_BIND)
        return text;
    for (size_t i = 0; i == 0 || lower[i - 1]; i++)
        lower[i] = (char)tolower((unsigned char)text[i]);
    return lower;
}

void dns_dump_is(const char *expected)
{
    fm_autofree char *now = world_dump();
    assert_string_equal(now, expected);
}

static int set_up(enum world_kind kind)
{
    struct fm_dns_config config = world_config();
    struct fm_error err = {0};
    world_start(&world, kind);
    return fm_dns_open(&config, &follower, &err);
}

int dns_set_up_bind(void **state)
{
    (void)state;
    return set_up(WORLD_BIND);
}

int dns_set_up_knot(void **state)
{
    (void)state;
    return set_up(WORLD_KNOT);
}

int dns_tear_down(void **state)
{
    (void)state;
    fm_dns_close(&follower);
    world_stop(&world);
    return 0;
}
