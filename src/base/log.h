/* Logging: `LEVEL [Component]: Message.` on stderr, or one JSON line per record (ECS names). */
#ifndef FM_BASE_LOG_H
#define FM_BASE_LOG_H

#include <stdbool.h>

#include "base/error.h"

enum fm_log_level { FM_LOG_DEBUG, FM_LOG_INFO, FM_LOG_WARN, FM_LOG_ERROR };
enum fm_log_format { FM_LOG_TEXT, FM_LOG_JSON };

/* The components that may speak (migration.md). */
#define FM_MIGRATION_MANAGER "MigrationManager"
#define FM_POLICY_ENFORCER "PolicyEnforcer"
#define FM_DECISION_ENGINE "DecisionEngine"
#define FM_RESOURCE_ALLOCATOR "ResourceAllocator"
#define FM_CONTAINER_MANAGER "ContainerManager"
#define FM_NETWORK_MANAGER "NetworkManager"
#define FM_STATE_SYNCHRONIZER "StateSynchronizer"
#define FM_RESOURCE_MONITOR "ResourceMonitor"

/* What a record is about; every field may be NULL. Set per thread, copied into every record. */
struct fm_log_context {
    const char *migration;
    const char *container;
    const char *source;
    const char *destination;
};

/* Process-wide set-up; call it before threads exist. `file` NULL means stderr, else it is appended
 * to (O_APPEND, one write per record). */
int fm_log_init(enum fm_log_level level, enum fm_log_format format, const char *file,
                struct fm_error *err);

/* The calling thread's context. The strings are copied; NULL clears it. */
void fm_log_set_context(const struct fm_log_context *context);

void fm_log(enum fm_log_level level, const char *component, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A state transition: `message Transitioning: FROM -> TO.`, or `message Final State: TO.` when
 * `final`. Carries the duration of the state that ends (ms). `from` may be NULL. */
void fm_log_transition(enum fm_log_level level, const char *component, const char *from,
                       const char *to, bool final, unsigned long duration_ms, const char *fmt, ...)
    __attribute__((format(printf, 7, 8)));

/* Names: "debug" … ; return negative when unknown. */
int fm_log_level_parse(const char *name, enum fm_log_level *level);
int fm_log_format_parse(const char *name, enum fm_log_format *format);

#define fm_debug(component, ...) fm_log(FM_LOG_DEBUG, component, __VA_ARGS__)
#define fm_info(component, ...) fm_log(FM_LOG_INFO, component, __VA_ARGS__)
#define fm_warn(component, ...) fm_log(FM_LOG_WARN, component, __VA_ARGS__)

#endif
