#include "daemon/yaml_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <yaml.h>

#include "base/cleanup.h"
#include "base/text.h"

/* --- positions in the file --- */

/* Parses the file; on a syntax error says where. The document must be deleted when 0 is returned.
 */
static int parse_document(const char *path, yaml_document_t *document, struct fm_error *err)
{
    fm_autofclose FILE *file = fopen(path, "re");
    yaml_parser_t parser;
    int ret = 0;

    if (!file)
        return fm_error_errno(err, errno, "cannot read the configuration %s", path);
    if (!yaml_parser_initialize(&parser))
        abort();
    yaml_parser_set_input_file(&parser, file);
    if (!yaml_parser_load(&parser, document))
        ret = fm_error_set(err, FM_E_INVALID, "%s:%zu:%zu: %s", path, parser.problem_mark.line + 1,
                           parser.problem_mark.column + 1,
                           parser.problem ? parser.problem : "not YAML");
    yaml_parser_delete(&parser);
    return ret;
}

/* The last pair of a mapping with this key, NULL when there is none. */
static yaml_node_pair_t *find_pair(yaml_document_t *document, yaml_node_t *node, const char *key)
{
    yaml_node_pair_t *found = NULL;

    if (!node || node->type != YAML_MAPPING_NODE)
        return NULL;
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        yaml_node_t *name = yaml_document_get_node(document, pair->key);

        if (name->type == YAML_SCALAR_NODE && fm_streq((const char *)name->data.scalar.value, key))
            found = pair;
    }
    return found;
}

/* Where the key is written; line 1, column 1 when it is not found. `section` NULL: at the top. */
static void locate(const char *path, const char *section, const char *key, size_t *line,
                   size_t *column)
{
    yaml_document_t document;
    yaml_node_pair_t *pair = NULL;
    yaml_node_t *node;

    *line = *column = 1;
    if (parse_document(path, &document, NULL) < 0)
        return;
    node = yaml_document_get_root_node(&document);
    if (section) {
        pair = find_pair(&document, node, section);
        node = pair ? yaml_document_get_node(&document, pair->value) : NULL;
    }
    pair = find_pair(&document, node, key);
    if (pair) {
        node = yaml_document_get_node(&document, pair->key);
        *line = node->start_mark.line + 1;
        *column = node->start_mark.column + 1;
    }
    yaml_document_delete(&document);
}

int fm_yaml_file_error(const char *path, const char *section, const char *key, const char *message,
                       struct fm_error *err)
{
    size_t line, column;

    locate(path, section, key, &line, &column);
    return fm_error_set(err, FM_E_INVALID, "%s:%zu:%zu: %s%s%s: %s", path, line, column,
                        section ? section : "", section ? "." : "", key, message);
}

/* --- what libcyaml complains about --- */

struct complaint {
    char text[256];
    char section[64], key[64]; /* "" when not known */
    bool key_itself;           /* the key is wrong, not its value */
    size_t line, column;
};

static void complain(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
    struct complaint *complaint = ctx;
    char text[256], field[64];
    size_t line, column;

    (void)level;
    vsnprintf(text, sizeof(text), fmt, args);
    fm_trim(text);
    if (sscanf(text, "Load: Unexpected key: %63[^\n]", complaint->key) == 1) {
        complaint->key_itself = true;
        snprintf(complaint->text, sizeof(complaint->text), "unknown key");
    } else if (sscanf(text, "Load: Mapping field already seen: %63[^\n]", complaint->key) == 1) {
        complaint->key_itself = true;
        snprintf(complaint->text, sizeof(complaint->text), "given twice");
    } else if (sscanf(text, "in mapping field '%63[^']' (line: %zu, column: %zu)", field, &line,
                      &column) == 3) {
        /* Innermost first; what is outside of a known key is its section. */
        if (complaint->key[0] == '\0')
            snprintf(complaint->key, sizeof(complaint->key), "%s", field);
        else if (!fm_streq(complaint->key, field) || !complaint->key_itself)
            snprintf(complaint->section, sizeof(complaint->section), "%s", field);
        if (complaint->line == 0) {
            complaint->line = line;
            complaint->column = column;
        }
    } else if (sscanf(text, "in sequence entry '%*u' (line: %zu, column: %zu)", &line, &column) ==
               2) {
        complaint->line = line;
        complaint->column = column;
    } else if (fm_starts_with(text, "Load: ") && !strstr(text, "Backtrace") &&
               complaint->text[0] == '\0') {
        snprintf(complaint->text, sizeof(complaint->text), "%s", text + strlen("Load: "));
    }
}

static int explain(const char *path, const struct complaint *complaint, cyaml_err_t code,
                   struct fm_error *err)
{
    const char *section = complaint->section[0] ? complaint->section : NULL;
    const char *text = complaint->text[0] ? complaint->text : cyaml_strerror(code);

    if (complaint->key_itself)
        return fm_yaml_file_error(path, section, complaint->key, text, err);
    return fm_error_set(err, FM_E_INVALID, "%s:%zu:%zu: %s%s%s%s%s", path,
                        complaint->line ? complaint->line : 1,
                        complaint->column ? complaint->column : 1, complaint->section,
                        section ? "." : "", complaint->key, complaint->key[0] ? ": " : "", text);
}

static const cyaml_config_t *loader(cyaml_config_t *config, struct complaint *complaint)
{
    *config = (cyaml_config_t){
        .log_fn = complain,
        .log_ctx = complaint,
        .log_level = CYAML_LOG_ERROR,
        .mem_fn = cyaml_mem,
    };
    return config;
}

int fm_yaml_file_read(const char *path, const cyaml_schema_value_t *schema, void **data,
                      struct fm_error *err)
{
    struct complaint complaint = {0};
    yaml_document_t document;
    cyaml_config_t config;
    cyaml_err_t code;
    int ret = parse_document(path, &document, err);

    if (ret < 0)
        return ret;
    yaml_document_delete(&document);
    *data = NULL;
    code = cyaml_load_file(path, loader(&config, &complaint), schema, data, NULL);
    return code == CYAML_OK ? 0 : explain(path, &complaint, code, err);
}

void fm_yaml_file_free(const cyaml_schema_value_t *schema, void *data)
{
    cyaml_config_t config;

    cyaml_free(loader(&config, NULL), schema, data, 0);
}
