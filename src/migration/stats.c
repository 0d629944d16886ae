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
    put_count(doc, "rounds", s->rounds);
    put_count(doc, "throttle_percent", s->throttle_percent);
    put_count(doc, "memory_bytes", s->memory_bytes);
    put_count(doc, "dirty_bytes", s->dirty_bytes);
    put_count(doc, "dirty_rate", (uint64_t)s->dirty_rate);
    put_count(doc, "throughput", (uint64_t)s->throughput);
    put_ms(doc, "expected_downtime_ms", s->expected_downtime_ms);
    put_ms(doc, "rounds_ms", s->rounds_ms);
    put_ms(doc, "scan_ms", s->scan_ms);
    put_count(doc, "last_bytes", s->last_bytes);
    put_ms(doc, "pages_ms", s->pages_ms);
    put_ms(doc, "fill_ms", s->fill_ms);
    put_count(doc, "missing_bytes", s->missing_bytes);
    put_count(doc, "faults", s->faults);
    put_count(doc, "fault_us_max", s->fault_us_max);
    put_count(doc, "pages", s->pages.pages);
    put_count(doc, "zero_pages", s->pages.zero_pages);
    put_count(doc, "delta_pages", s->pages.delta_pages);
    put_count(doc, "normal_pages", s->pages.normal_pages);
    put_count(doc, "compressed_pages", s->pages.compressed_pages);
    put_count(doc, "page_bytes", s->pages.wire_bytes);
    put_count(doc, "wire_bytes", s->wire_bytes);
    put_count(doc, "image_bytes", s->image_bytes);
    put_count(doc, "early_bytes", s->early_bytes);
    put_count(doc, "file_bytes", s->file_bytes);
    put_count(doc, "layer_bytes", s->layer_bytes);
    put_count(doc, "last_file_bytes", s->last_file_bytes);
    put_count(doc, "file_passes", s->file_passes);
    put_count(doc, "held_frames", s->held_frames);
    put_count(doc, "released_frames", s->released_frames);
    put_count(doc, "forwarded_frames", s->forwarded_frames);
    put_count(doc, "dropped_frames", s->dropped_frames);
    return doc;
}
