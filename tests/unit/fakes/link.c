/* A link straight into the other host's peer: one stack, no threads, no bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "fakes/world.h"

struct fm_link {
    struct host *from, *to;
    unsigned int incarnation; /* of the daemon that it reached */
    bool broken;
    bool busy; /* with a request: the other side notices after it */
    struct fm_conversation conversation;
    char images_dir[256]; /* being sent; "" none */
    json_t *asked;        /* in the first half of a call */
};

static bool is_cut(const struct fm_link *link)
{
    return link->broken || link->to->away || link->from->away || !link->to->up ||
           link->to->incarnation != link->incarnation;
}

/* The other side notices. */
static void cut(struct fm_link *link)
{
    bool there = !is_cut(link);

    link->broken = true;
    if (!there || !link->conversation.brought || link->busy)
        return;
    struct on_host on = world_enter_host(link->to);
    fm_incoming_orphaned(link->conversation.brought);
    world_leave_host(&on);
}

static int closed(struct fm_link *link, struct fm_error *err)
{
    cut(link);
    return fm_error_set(err, FM_E_CLOSED, "connection to %s is closed", link->to->name);
}

static struct fm_link *link_open(void *ctx, const struct fm_host *host, uint64_t rate,
                                 uint64_t timeout_ms, struct fm_error *err)
{
    struct host *from = ctx;
    struct passage p;

    (void)rate;
    (void)timeout_ms;
    if (!world_enter(&p, "link.open") || world_leave(&p, 0, err) < 0) {
        fm_error_set(err, FM_E_UNREACHABLE, "host '%s' is offline: injected", host->name);
        return NULL;
    }
    struct host *to = fm_streq(host->name, HOST_A->name)   ? HOST_A
                      : fm_streq(host->name, HOST_B->name) ? HOST_B
                                                           : NULL;
    if (!to || !to->up || to->away || from->away) {
        fm_error_set(err, FM_E_UNREACHABLE, "host '%s' is offline", host->name);
        return NULL;
    }
    struct fm_link *link = fm_xcalloc(1, sizeof(*link));
    *link = (struct fm_link){.from = from, .to = to, .incarnation = to->incarnation};
    link->conversation = (struct fm_conversation){.service = &to->peers, .peer = from->name};
    return link;
}

static void link_close(struct fm_link *link)
{
    if (!link)
        return;
    cut(link);
    json_decref(link->asked);
    free(link);
}

static void link_shutdown(struct fm_link *link)
{
    cut(link);
}

static uint64_t link_bytes(const struct fm_link *link)
{
    (void)link;
    return 1;
}

/* What peer.c does around a request; the error crosses the wire as code and text. */
static json_t *serve(struct fm_link *link, int type, const json_t *body, struct fm_error *err)
{
    struct fm_error theirs = {0};
    json_auto_t *empty = json_object();
    struct on_host on = world_enter_host(link->to);
    link->busy = true;
    json_t *answer =
        fm_peer_answer(&link->conversation, (enum fm_frame_type)type, body ? body : empty, &theirs);
    bool dead = world_is_dead(), cut_meanwhile = link->broken && !dead;

    link->busy = false;
    if (cut_meanwhile && link->conversation.brought)
        fm_incoming_orphaned(link->conversation.brought);
    dead = dead || cut_meanwhile;
    world_leave_host(&on);
    if (dead) {
        json_decref(answer);
        closed(link, err);
        return NULL;
    }
    if (answer)
        return answer;
    fm_error_set(err, theirs.code ? theirs.code : FM_E_FAILED, "%s", theirs.text);
    if (type == FM_FRAME_TREE)
        cut(link);
    return NULL;
}

static json_t *link_call(struct fm_link *link, int frame_type, const json_t *body,
                         uint64_t timeout_ms, struct fm_error *err)
{
    struct passage p;

    (void)timeout_ms;
    if (!world_enter(&p, fm_frame_type_name((uint16_t)frame_type)) || is_cut(link)) {
        closed(link, err);
        return NULL;
    }
    json_t *answer = serve(link, frame_type, body, err);
    if (answer && world_leave(&p, 0, err) == 0)
        return answer;
    if (!answer) {
        world_leave(&p, -1, err);
        return NULL;
    }
    json_decref(answer);
    closed(link, err); /* the answer is lost */
    return NULL;
}

static int link_ask(struct fm_link *link, int frame_type, const json_t *body, struct fm_error *err)
{
    (void)frame_type;
    (void)err;
    json_decref(link->asked);
    link->asked = json_deep_copy(body);
    return 0;
}

static json_t *link_answer(struct fm_link *link, int frame_type, uint64_t timeout_ms,
                           struct fm_error *err)
{
    json_auto_t *body = link->asked;

    link->asked = NULL;
    return link_call(link, frame_type, body, timeout_ms, err);
}

static int link_send_tree(struct fm_link *link, const char *migration, const char *name,
                          const char *dir, const struct fm_tree_selection *selection,
                          uint64_t *bytes, struct fm_error *err)
{
    json_auto_t *body = json_pack("{s:s, s:s}", "migration", migration, "name", name);

    (void)dir;
    (void)selection;
    (void)bytes;
    json_auto_t *answer = link_call(link, FM_FRAME_TREE, body, 0, err);
    return answer ? 0 : fm_error_result(err);
}

static int link_send_file(struct fm_link *link, const char *migration, const char *name,
                          const char *path, uint64_t offset, uint64_t *size, struct fm_error *err)
{
    struct passage p;

    (void)migration;
    (void)name;
    (void)path;
    if (!world_enter(&p, "link.send_file") || is_cut(link))
        return closed(link, err);
    *size = offset;
    return world_leave(&p, 0, err);
}

static int link_images_begin(struct fm_link *link, const char *dir, struct fm_error *err)
{
    struct passage p;

    if (!world_enter(&p, "link.images_begin"))
        return world_fail(&p, err);
    snprintf(link->images_dir, sizeof(link->images_dir), "%s", dir);
    return world_leave(&p, 0, err);
}

/* The images are there, and not yet verified. */
static void deliver(struct fm_link *link)
{
    struct images *mine = images_at(link->from, link->images_dir, false);
    const char *id = link->images_dir + strlen(link->from->migrations_dir) + 1;
    fm_autofree char *dir = fm_strf("%s/%.*s", link->to->migrations_dir, (int)strcspn(id, "/"), id);
    struct images *theirs = images_at(link->to, dir, true);

    if (mine && theirs)
        theirs->version = mine->version;
}

static json_t *link_images_finish(struct fm_link *link, uint64_t *bytes, uint64_t *early,
                                  struct fm_error *err)
{
    struct passage p;

    *bytes = *early = 0;
    if (!world_enter(&p, "link.images_finish") || is_cut(link)) {
        closed(link, err);
        return NULL;
    }
    deliver(link);
    link->images_dir[0] = '\0';
    return world_leave(&p, 0, err) < 0 ? NULL : json_array();
}

static void link_images_abort(struct fm_link *link)
{
    link->images_dir[0] = '\0';
}

const struct fm_link_ops fake_link_ops = {
    .open = link_open,
    .close = link_close,
    .shutdown = link_shutdown,
    .bytes = link_bytes,
    .call = link_call,
    .ask = link_ask,
    .answer = link_answer,
    .send_tree = link_send_tree,
    .send_file = link_send_file,
    .images_begin = link_images_begin,
    .images_finish = link_images_finish,
    .images_abort = link_images_abort,
};
