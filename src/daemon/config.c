#include "daemon/config.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "daemon/config_file.h"
#include "daemon/yaml_file.h"

/* --- one key --- */

static int check_number(const char *path, const char *section, const char *key,
                        const uint32_t *value, uint32_t least, uint32_t greatest,
                        struct fm_error *err)
{
    fm_autofree char *text = NULL;

    if (!value || (*value >= least && *value <= greatest))
        return 0;
    text = fm_strf("%u is not within %u..%u", *value, least, greatest);
    return fm_yaml_file_error(path, section, key, text, err);
}

/* The length of the longest prefix that an address of this kind may have; 0: not an address. */
static int address_bits(const char *text, unsigned char bytes[16])
{
    if (inet_pton(AF_INET, text, bytes) == 1)
        return 32;
    return inet_pton(AF_INET6, text, bytes) == 1 ? 128 : 0;
}

/* Parses "10.88.0.0/16"; returns the kind's bits, 0 when it is something else. */
static int parse_subnet(const char *text, unsigned char bytes[16], int64_t *prefix)
{
    fm_autofree char *address = fm_xstrdup(text);
    char *slash = strchr(address, '/');
    int bits;

    if (!slash)
        return 0;
    *slash = '\0';
    bits = address_bits(address, bytes);
    return bits && fm_parse_int(slash + 1, 1, bits, prefix, NULL) == 0 ? bits : 0;
}

static bool is_address(const char *text)
{
    unsigned char bytes[16];

    return address_bits(text, bytes) != 0;
}

static bool is_address_or_empty(const char *text)
{
    return text[0] == '\0' || is_address(text);
}

static bool is_subnet(const char *text)
{
    unsigned char bytes[16];
    int64_t prefix;

    return parse_subnet(text, bytes, &prefix) != 0;
}

static bool is_absolute(const char *text)
{
    return text[0] == '/';
}

static bool is_absolute_or_empty(const char *text)
{
    return text[0] == '\0' || is_absolute(text);
}

static bool is_name_or_empty(const char *text)
{
    return text[0] == '\0' || fm_check_name("host", text, NULL) == 0;
}

static bool is_interface(const char *text)
{
    return text[0] != '\0' && strlen(text) < 16 && !strpbrk(text, "/ :");
}

static bool is_program(const char *text)
{
    return text[0] != '\0' && (is_absolute(text) || !strchr(text, '/'));
}

static bool is_level(const char *text)
{
    enum fm_log_level level;

    return fm_log_level_parse(text, &level) == 0;
}

static bool is_format(const char *text)
{
    enum fm_log_format format;

    return fm_log_format_parse(text, &format) == 0;
}

static bool is_size(const char *text)
{
    uint64_t bytes;

    return fm_parse_size(text, &bytes, NULL) == 0;
}

static bool is_uid(const char *text)
{
    int64_t uid;

    return fm_parse_int(text, 0, UINT32_MAX - 1, &uid, NULL) == 0;
}

/* What a text must look like; keys that are not listed take anything. */
static const struct {
    const char *section, *key;
    bool (*good)(const char *text);
    const char *wanted;
} text_rules[] = {
    {"config", "host", is_name_or_empty, "a name of letters, digits, '_', '.' and '-'"},
    {"config", "advertise", is_address_or_empty, "an IP address"},
    {"config", "state_dir", is_absolute, "an absolute path"},
    {"config", "run_dir", is_absolute, "an absolute path"},
    {"listen", "api_address", is_address_or_empty, "an IP address, or \"\" for all"},
    {"listen", "wire_address", is_address_or_empty, "an IP address, or \"\" for all"},
    {"pki", "ca", is_absolute, "an absolute path"},
    {"pki", "cert", is_absolute, "an absolute path"},
    {"pki", "key", is_absolute, "an absolute path"},
    {"log", "level", is_level, "one of debug, info, warn, error"},
    {"log", "format", is_format, "one of text, json"},
    {"log", "file", is_absolute_or_empty, "an absolute path, or \"\" for stderr"},
    {"limits", "memory_reserve", is_size, "a size such as 256MiB"},
    {"container", "runc", is_program, "a program's name or absolute path"},
    {"container", "runc_root", is_absolute, "an absolute path"},
    {"container", "cgroup_parent", is_absolute, "an absolute path below the cgroup's root"},
    {"container", "criu", is_program, "a program's name or absolute path"},
    {"container", "interposer_dir", is_absolute, "an absolute path"},
    {"container", "shim", is_program, "a program's name or absolute path"},
    {"container", "pager", is_program, "a program's name or absolute path"},
    {"network", "bridge", is_interface, "an interface's name of at most 15 characters"},
    {"network", "vxlan", is_interface, "an interface's name of at most 15 characters"},
    {"network", "subnet", is_subnet, "a subnet such as 10.88.0.0/16"},
    {"network", "gateway", is_address_or_empty, "an IP address, or \"\" for none"},
    {"network", "followers", is_absolute, "an absolute path"},
    {"network", "peers", is_address, "an IP address"},
    {"api", "uids", is_uid, "a user's number"},
};

static int check_text(const char *path, const char *section, const char *key, const char *value,
                      struct fm_error *err)
{
    for (size_t i = 0; value && i < FM_COUNT(text_rules); i++) {
        fm_autofree char *text = NULL;

        if (!fm_streq(text_rules[i].section, section) || !fm_streq(text_rules[i].key, key) ||
            text_rules[i].good(value))
            continue;
        text = fm_strf("'%s' is not %s", value, text_rules[i].wanted);
        return fm_yaml_file_error(path, fm_streq(section, "config") ? NULL : section, key, text,
                                  err);
    }
    return 0;
}

/* --- one file --- */

#define CHECK_T(section, key, ...)                                                                 \
    if (check_text(path, #section, #key, raw->key, err) < 0)                                       \
        return -FM_E_INVALID;
#define CHECK_N(section, key, fallback, least, greatest)                                           \
    if (check_number(path, #section, #key, raw->key, least, greatest, err) < 0)                    \
        return -FM_E_INVALID;
#define CHECK_L(section, key)                                                                      \
    for (unsigned i = 0; i < raw->key##_count; i++)                                                \
        if (check_text(path, #section, #key, raw->key[i], err) < 0)                                \
            return -FM_E_INVALID;
#define CHECK_SECTION(section, KEYS)                                                               \
    static int check_##section(const char *path, const struct raw_##section *raw,                  \
                               struct fm_error *err)                                               \
    {                                                                                              \
        if (!raw)                                                                                  \
            return 0;                                                                              \
        KEYS(CHECK_T, CHECK_N, CHECK_L)                                                            \
        return 0;                                                                                  \
    }

FM_CONFIG_SECTIONS(CHECK_SECTION)
CHECK_SECTION(config, FM_CONFIG_KEYS_ROOT)

static int check_file(const char *path, const struct raw_config *raw, struct fm_error *err)
{
#define CHECK_CALL(section, KEYS)                                                                  \
    if (check_##section(path, raw->section, err) < 0)                                              \
        return -FM_E_INVALID;
    FM_CONFIG_SECTIONS(CHECK_CALL)
    return check_config(path, raw, err);
}

/* What the later file gives takes the place of what the earlier one gave. */
#define TAKE_T(section, key, ...)                                                                  \
    if (from->key) {                                                                               \
        free(into->key);                                                                           \
        into->key = FM_MOVE(from->key);                                                            \
    }
#define TAKE_N(section, key, ...) TAKE_T(section, key)
#define TAKE_L(section, key)                                                                       \
    if (from->key) {                                                                               \
        for (unsigned i = 0; i < into->key##_count; i++)                                           \
            free(into->key[i]);                                                                    \
        free(into->key);                                                                           \
        into->key = FM_MOVE(from->key);                                                            \
        into->key##_count = from->key##_count;                                                     \
        from->key##_count = 0;                                                                     \
    }
#define TAKE_SECTION(section, KEYS)                                                                \
    static void take_##section(struct raw_##section *into, struct raw_##section *from)             \
    {                                                                                              \
        if (!from)                                                                                 \
            return;                                                                                \
        KEYS(TAKE_T, TAKE_N, TAKE_L)                                                               \
    }

FM_CONFIG_SECTIONS(TAKE_SECTION)
TAKE_SECTION(config, FM_CONFIG_KEYS_ROOT)

static int read_into(struct raw_config *into, const char *path, struct fm_error *err)
{
    struct raw_config *from = NULL;
    int ret = fm_config_file_read(path, &from, err);

    if (ret == 0 && from)
        ret = check_file(path, from, err);
    if (ret == 0 && from) {
#define TAKE_CALL(section, KEYS) take_##section(into->section, from->section);
        FM_CONFIG_SECTIONS(TAKE_CALL)
        take_config(into, from);
    }
    fm_config_file_free(from);
    return ret;
}

/* --- all files --- */

static int is_yaml(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && fm_ends_with(entry->d_name, ".yaml");
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_directory(struct raw_config *into, const char *path, struct fm_error *err)
{
    const char *slash = strrchr(path, '/');
    fm_autofree char *dir =
        slash ? fm_strf("%.*s/conf.d", (int)(slash - path), path) : fm_xstrdup("conf.d");
    struct dirent **entries = NULL;
    int count = scandir(dir, &entries, is_yaml, by_bytes);
    int ret = 0;

    if (count < 0 && errno != ENOENT)
        return fm_error_errno(err, errno, "cannot read the configuration directory %s", dir);
    for (int i = 0; i < count; i++) {
        fm_autofree char *file = fm_strf("%s/%s", dir, entries[i]->d_name);

        if (ret == 0)
            ret = read_into(into, file, err);
        free(entries[i]);
    }
    free(entries);
    return ret;
}

/* --- the result --- */

static char *text_or(char **given, const char *fallback)
{
    return *given ? FM_MOVE(*given) : fm_xstrdup(fallback);
}

static void fill_root(struct fm_config *config, struct raw_config *raw)
{
#define FILL_ROOT_T(section, key, fallback) config->key = text_or(&raw->key, fallback);
#define FILL_NOTHING(...)
    FM_CONFIG_KEYS_ROOT(FILL_ROOT_T, FILL_NOTHING, FILL_NOTHING)
    if (config->host[0] == '\0') {
        char name[HOST_NAME_MAX + 1] = "";

        gethostname(name, sizeof(name) - 1);
        free(config->host);
        config->host = fm_xstrdup(name);
    }
}

static void fill_parsed(struct fm_config *config, struct raw_config *raw)
{
    fm_autofree char *reserve = text_or(&raw->limits->memory_reserve, "256MiB");
    fm_autofree char *level = text_or(&raw->log->level, "info");
    fm_autofree char *format = text_or(&raw->log->format, "text");
    int64_t uid;

    /* All were checked when their file was read. */
    (void)fm_parse_size(reserve, &config->limits.memory_reserve, NULL);
    (void)fm_log_level_parse(level, &config->log.level);
    (void)fm_log_format_parse(format, &config->log.format);
    for (unsigned i = 0; i < raw->network->peers_count; i++)
        fm_strv_add(&config->network.peers, raw->network->peers[i]);
    config->api.uid_count = raw->api->uids_count;
    config->api.uids = fm_xcalloc(raw->api->uids_count + 1, sizeof(uid_t));
    for (unsigned i = 0; i < raw->api->uids_count; i++)
        if (fm_parse_int(raw->api->uids[i], 0, UINT32_MAX - 1, &uid, NULL) == 0)
            config->api.uids[i] = (uid_t)uid;
}

static void fill(struct fm_config *config, struct raw_config *raw)
{
#define FILL_T(section, key, fallback) config->section.key = text_or(&raw->section->key, fallback);
#define FILL_N(section, key, fallback, least, greatest)                                            \
    config->section.key = raw->section->key ? *raw->section->key : (fallback);
    fill_parsed(config, raw);
    fill_root(config, raw);
    FM_CONFIG_KEYS_LISTEN(FILL_T, FILL_N, FILL_NOTHING)
    FM_CONFIG_KEYS_PKI(FILL_T, FILL_N, FILL_NOTHING)
    FM_CONFIG_KEYS_CONTAINER(FILL_T, FILL_N, FILL_NOTHING)
    FM_CONFIG_KEYS_NETWORK(FILL_T, FILL_N, FILL_NOTHING)
    FM_CONFIG_KEYS_LIMITS(FILL_NOTHING, FILL_N, FILL_NOTHING)
    config->log.file = text_or(&raw->log->file, "");
}

static bool in_subnet(const char *address, const char *subnet)
{
    unsigned char a[16] = {0}, s[16] = {0};
    int64_t prefix = 0;
    int bits = parse_subnet(subnet, s, &prefix);

    if (bits != address_bits(address, a))
        return false;
    for (int64_t i = 0; i < prefix; i++)
        if ((a[i / 8] ^ s[i / 8]) & (0x80 >> (i % 8)))
            return false;
    return true;
}

/* What only all keys together can tell. */
static int check_together(const char *path, const struct fm_config *config, struct fm_error *err)
{
    if (fm_check_name("host", config->host, err) < 0)
        return fm_error_prefix(err, "%s: the machine's name does not do; set 'host'", path);
    if (config->network.gateway[0] && !in_subnet(config->network.gateway, config->network.subnet))
        return fm_error_set(err, FM_E_INVALID, "%s: network.gateway %s is not in network.subnet %s",
                            path, config->network.gateway, config->network.subnet);
    if (config->listen.api_port == config->listen.wire_port)
        return fm_error_set(err, FM_E_INVALID,
                            "%s: listen.api_port and listen.wire_port are both %u", path,
                            config->listen.api_port);
    return 0;
}

int fm_config_load(const char *path, struct fm_config *config, struct fm_error *err)
{
    const char *main_file = path ? path : FM_CONFIG_PATH;
    struct raw_config *raw = fm_xcalloc(1, sizeof(*raw));
    int ret = 0;

    *config = (struct fm_config){0};
#define MAKE_SECTION(section, KEYS) raw->section = fm_xcalloc(1, sizeof(*raw->section));
    FM_CONFIG_SECTIONS(MAKE_SECTION)
    if (path || fm_file_exists(main_file))
        ret = read_into(raw, main_file, err);
    if (ret == 0)
        ret = read_directory(raw, main_file, err);
    if (ret == 0) {
        fill(config, raw);
        ret = check_together(main_file, config, err);
    }
    fm_config_file_free(raw);
    if (ret < 0)
        fm_config_free(config);
    return ret;
}

void fm_config_free(struct fm_config *config)
{
#define FREE_T(section, key, ...) free(config->section.key);
#define FREE_ROOT_T(section, key, ...) free(config->key);
    FM_CONFIG_KEYS_ROOT(FREE_ROOT_T, FILL_NOTHING, FILL_NOTHING)
    FM_CONFIG_KEYS_LISTEN(FREE_T, FILL_NOTHING, FILL_NOTHING)
    FM_CONFIG_KEYS_PKI(FREE_T, FILL_NOTHING, FILL_NOTHING)
    FM_CONFIG_KEYS_CONTAINER(FREE_T, FILL_NOTHING, FILL_NOTHING)
    FM_CONFIG_KEYS_NETWORK(FREE_T, FILL_NOTHING, FILL_NOTHING)
    free(config->log.file);
    fm_strv_free(&config->network.peers);
    free(config->api.uids);
    *config = (struct fm_config){0};
}
