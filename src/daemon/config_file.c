#include "daemon/config_file.h"

#include "daemon/yaml_file.h"

#define LIST_LIMIT 256
#define KEY_FLAGS (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)
/* `section:` with nothing below it (all commented out) is no mistake. */
#define SECTION_FLAGS (CYAML_FLAG_POINTER_NULL_STR | CYAML_FLAG_OPTIONAL)

/* --- the schema, from the list of keys --- */

static const cyaml_schema_value_t list_entry = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED),
};

#define FIELD_T(section, key, ...)                                                                 \
    CYAML_FIELD_STRING_PTR(#key, KEY_FLAGS, struct raw_##section, key, 0, CYAML_UNLIMITED),
#define FIELD_N(section, key, ...) CYAML_FIELD_UINT_PTR(#key, KEY_FLAGS, struct raw_##section, key),
#define FIELD_L(section, key)                                                                      \
    CYAML_FIELD_SEQUENCE(#key, KEY_FLAGS, struct raw_##section, key, &list_entry, 0, LIST_LIMIT),
#define FIELDS(section, KEYS)                                                                      \
    static const cyaml_schema_field_t section##_fields[] = {KEYS(FIELD_T, FIELD_N, FIELD_L)        \
                                                                CYAML_FIELD_END};
#define SECTION_FIELD(section, KEYS)                                                               \
    CYAML_FIELD_MAPPING_PTR(#section, SECTION_FLAGS, struct raw_config, section, section##_fields),

FM_CONFIG_SECTIONS(FIELDS)

static const cyaml_schema_field_t root_fields[] = {FM_CONFIG_KEYS_ROOT(
    FIELD_T, FIELD_N, FIELD_L) FM_CONFIG_SECTIONS(SECTION_FIELD) CYAML_FIELD_END};

static const cyaml_schema_value_t root = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw_config, root_fields),
};

int fm_config_file_read(const char *path, struct raw_config **raw, struct fm_error *err)
{
    return fm_yaml_file_read(path, &root, (void **)raw, err);
}

void fm_config_file_free(struct raw_config *raw)
{
    fm_yaml_file_free(&root, raw);
}
