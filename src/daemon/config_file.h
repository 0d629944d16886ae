/* One configuration file as it is written: what is not given is NULL. */
#ifndef FM_DAEMON_CONFIG_FILE_H
#define FM_DAEMON_CONFIG_FILE_H

#include <stdint.h>

#include "base/error.h"
#include "daemon/config_keys.h"

#define FM_RAW_T(section, key, ...) char *key;
#define FM_RAW_N(section, key, ...) uint32_t *key;
#define FM_RAW_L(section, key)                                                                     \
    char **key;                                                                                    \
    unsigned key##_count;
#define FM_RAW_STRUCT(section, KEYS)                                                               \
    struct raw_##section {                                                                         \
        KEYS(FM_RAW_T, FM_RAW_N, FM_RAW_L)                                                         \
    };
#define FM_RAW_MEMBER(section, KEYS) struct raw_##section *section;

FM_CONFIG_SECTIONS(FM_RAW_STRUCT)

struct raw_config {
    FM_CONFIG_KEYS_ROOT(FM_RAW_T, FM_RAW_N, FM_RAW_L)
    FM_CONFIG_SECTIONS(FM_RAW_MEMBER)
};

/* *raw is NULL when the file says nothing. Errors start with FILE:LINE:COLUMN. */
int fm_config_file_read(const char *path, struct raw_config **raw, struct fm_error *err);
void fm_config_file_free(struct raw_config *raw);

#endif
