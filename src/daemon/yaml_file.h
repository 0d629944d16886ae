/* A YAML file by a schema of libcyaml, and errors that say where in it they are. */
#ifndef FM_DAEMON_YAML_FILE_H
#define FM_DAEMON_YAML_FILE_H

#include <cyaml/cyaml.h>

#include "base/error.h"

/* *data is what the schema makes of it, NULL when the file says nothing. Unknown keys are errors;
 * all of them start with FILE:LINE:COLUMN. */
int fm_yaml_file_read(const char *path, const cyaml_schema_value_t *schema, void **data,
                      struct fm_error *err);
void fm_yaml_file_free(const cyaml_schema_value_t *schema, void *data); /* NULL is fine */

/* Sets an error about a key of the file, "FILE:LINE:COLUMN: SECTION.KEY: message". `section` NULL:
 * a key at the top. */
int fm_yaml_file_error(const char *path, const char *section, const char *key, const char *message,
                       struct fm_error *err);

#endif
