#include "migration/stats.h"

static void put_ms(json_t *doc, const char *key, double ms)
{
    json_object_set_new(doc, key, json_real(ms));
}

static void put_count(json_t *doc, const char *key, uint64_t value)
{
    json_object_set_new(doc, key, json_integer((json_int_t)value));
}

json_t *fm_migration_stats_to_json(const struct fm_migration_stats *s)
{
    json_t *doc = json_object();

    put_count(doc, "started_us", s->started_us);
    put_count(doc, "ended_us", s->ended_us);
    put_ms(doc, "freeze_ms", s->freeze_ms);
    put_ms(doc, "dump_ms", s->dump_ms);
    put_ms(doc, "transfer_ms", s->transfer_ms);
    put_ms(doc, "restore_ms", s->restore_ms);
    put_ms(doc, "decide_ms", s->decide_ms);
    put_ms(doc, "resume_ms", s->resume_ms);
    put_ms(doc, "total_ms", s->total_ms);
    put_ms(doc, "downtime_rollback_ms", s->downtime_rollback_ms);
    put_count(doc, "wire_bytes", s->wire_bytes);
    put_count(doc, "image_bytes", s->image_bytes);
    put_count(doc, "early_bytes", s->early_bytes);
    put_count(doc, "file_bytes", s->file_bytes);
    put_count(doc, "layer_bytes", s->layer_bytes);
    put_count(doc, "held_frames", s->held_frames);
    put_count(doc, "released_frames", s->released_frames);
    put_count(doc, "forwarded_frames", s->forwarded_frames);
    put_count(doc, "dropped_frames", s->dropped_frames);
    return doc;
}
