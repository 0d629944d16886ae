#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/cleanup.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "migration/preflight.h"

#define SMALL_FILE_MAX (1u << 20)
#define PROGRAM_TIMEOUT_MS 20000

/* ---- processor ---- */

/* The text after "key :" of the first such line; NULL when there is none. */
static char *field_of(const char *text, const char *key)
{
    size_t len = strlen(key);

    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        const char *end, *colon;

        line += *line == '\n';
        if (strncmp(line, key, len) != 0 || !strchr(" \t:", line[len]))
            continue;
        end = strchrnul(line, '\n');
        colon = memchr(line, ':', (size_t)(end - line));
        if (colon)
            return fm_trim(fm_xstrndup(colon + 1, (size_t)(end - colon - 1)));
    }
    return NULL;
}

/* "a b,c" → ["a","b","c"] */
static json_t *words_of(const char *text, const char *separators)
{
    fm_autofree char *copy = fm_xstrdup(text ? text : "");
    json_t *words = json_array();
    char *rest = copy;
    char *word;

    while ((word = strsep(&rest, separators))) {
        if (*fm_trim(word))
            json_array_append_new(words, json_string(word));
    }
    return words;
}

/* Size of the register image that the kernel saves with what is enabled now, and the enabled
 * components: Intel SDM vol. 1, chapter 13 (XSAVE), CPUID leaf 0DH. */
static void add_xsave(json_t *cpu)
{
    uint64_t bytes = 0, features = 0;
#if defined(__x86_64__)
    unsigned int a, b, c, d;

    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE)) {
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        features = (uint64_t)d << 32 | a;
        if (__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
            bytes = b;
    }
#endif
    json_object_set_new(cpu, "xsave_bytes", json_integer((json_int_t)bytes));
    json_object_set_new(cpu, "xfeatures", json_integer((json_int_t)features));
}

static json_t *cpu_facts(void)
{
    fm_autofree char *text = NULL;
    fm_autofree char *flags = NULL;
    fm_autofree char *model = NULL;
    json_t *cpu = json_object();
    size_t len;

    if (fm_file_read("/proc/cpuinfo", 16 * SMALL_FILE_MAX, &text, &len, NULL) == 0) {
        flags = field_of(text, "flags");
        if (!flags)
            flags = field_of(text, "Features");
        model = field_of(text, "model name");
    }
    json_object_set_new(cpu, "flags", words_of(flags, " "));
    json_object_set_new(cpu, "model", json_string(model ? model : ""));
    add_xsave(cpu);
    return cpu;
}

/* ---- programs ---- */

/* The last line that says what is wrong. */
static char *complaint_of(const struct fm_subprocess_result *result)
{
    fm_autofree char *text =
        fm_strf("%s\n%s", result->out ? result->out : "", result->err ? result->err : "");
    const char *best = "";
    char *rest = text;
    char *line;

    while ((line = strsep(&rest, "\n"))) {
        if (*fm_trim(line) && (strstr(line, "Error") || !strstr(best, "Error")))
            best = line;
    }
    return *best ? fm_xstrdup(best) : fm_strf("it exited with code %d", result->exit_code);
}

/* Returns 0 with *out (caller frees), or -1 with *out telling why not. */
static int ask_program(const char *program, const char *argument, char **out)
{
    const char *argv[] = {program, argument, NULL};
    struct fm_subprocess_options options = {
        .argv = argv,
        .stdin_fd = -1,
        .stdout_fd = -1,
        .stderr_fd = -1,
        .timeout_ms = PROGRAM_TIMEOUT_MS,
    };
    struct fm_subprocess_result result = {0};
    struct fm_error err = {0};
    bool good;

    if (fm_subprocess_run(&options, &result, &err) < 0) {
        *out = fm_xstrdup(err.text);
        fm_subprocess_result_clear(&result);
        return -1;
    }
    good = result.exit_code == 0;
    *out = good ? fm_xstrdup(result.out ? result.out : "") : complaint_of(&result);
    fm_subprocess_result_clear(&result);
    return good ? 0 : -1;
}

/* "Version: 4.1.1\n…" or "runc version 1.1.5+ds1\n…" → "4.1.1", "1.1.5+ds1" */
static json_t *version_in(const char *text)
{
    const char *at = strstr(text, "ersion");

    at = at ? at + strlen("ersion") : text;
    while (*at && !isdigit((unsigned char)*at) && *at != '\n')
        at++;
    return json_stringn(at, strcspn(at, " \n"));
}

static json_t *criu_facts(const char *criu)
{
    fm_autofree char *version = NULL;
    fm_autofree char *check = NULL;
    json_t *doc = json_object();

    if (ask_program(criu, "--version", &version) < 0) {
        json_object_set_new(doc, "version", json_string(""));
        json_object_set_new(doc, "check", json_string(version));
        return doc;
    }
    json_object_set_new(doc, "version", version_in(version));
    if (ask_program(criu, "check", &check) < 0)
        json_object_set_new(doc, "check", json_string(check));
    else
        json_object_set_new(doc, "check", json_string("ok"));
    return doc;
}

static json_t *runtime_facts(const char *program)
{
    const char *slash = strrchr(program, '/');
    fm_autofree char *version = NULL;
    json_t *doc = json_object();

    json_object_set_new(doc, "name", json_string(slash ? slash + 1 : program));
    if (ask_program(program, "--version", &version) == 0)
        json_object_set_new(doc, "version", version_in(version));
    else
        json_object_set_new(doc, "version", json_string(""));
    return doc;
}

/* What was found good stays good until the program is replaced; what was not is asked again, so
 * that a repair shows at once. */
static struct {
    pthread_mutex_t lock;
    json_t *programs; /* key → facts */
} cache = {.lock = PTHREAD_MUTEX_INITIALIZER};

static char *cache_key(const char *program)
{
    struct stat st = {0};

    if (strchr(program, '/'))
        stat(program, &st);
    return fm_strf("%s@%" PRIu64 ".%09ld", program, (uint64_t)st.st_mtim.tv_sec,
                   st.st_mtim.tv_nsec);
}

static bool worth_keeping(const json_t *facts)
{
    const char *check = json_string_value(json_object_get(facts, "check"));

    return *json_string_value(json_object_get(facts, "version")) &&
           (!check || fm_streq(check, "ok"));
}

static json_t *program_facts(const char *program, json_t *(*collect)(const char *program))
{
    fm_autofree char *key = cache_key(program);
    json_t *facts;

    /* Held while the program runs: the second to ask waits for the answer instead of asking too. */
    pthread_mutex_lock(&cache.lock);
    if (!cache.programs)
        cache.programs = json_object();
    facts = json_incref(json_object_get(cache.programs, key));
    if (!facts) {
        facts = collect(program);
        if (worth_keeping(facts))
            json_object_set(cache.programs, key, facts);
    }
    pthread_mutex_unlock(&cache.lock);
    return facts;
}

/* ---- kernel ---- */

/* Kernel documentation, admin-guide/LSM. securityfs is not mounted everywhere. */
static json_t *lsm_facts(void)
{
    fm_autofree char *list = fm_file_line("/sys/kernel/security/lsm");
    fm_autofree char *apparmor = NULL;
    json_t *names;

    if (list)
        return words_of(list, ",");
    names = json_array();
    apparmor = fm_file_line("/sys/module/apparmor/parameters/enabled");
    if (fm_streq(apparmor, "Y"))
        json_array_append_new(names, json_string("apparmor"));
    if (fm_file_exists("/sys/fs/selinux/enforce"))
        json_array_append_new(names, json_string("selinux"));
    return names;
}

/* Lines such as "docker-default (enforce)". */
static json_t *apparmor_profiles(void)
{
    json_t *names = json_array();
    fm_autofclose FILE *f = fopen("/sys/kernel/security/apparmor/profiles", "re");
    fm_autofree char *line = NULL;
    size_t size = 0;

    while (f && getline(&line, &size, f) > 0) {
        char *mode = strstr(line, " (");

        if (mode)
            *mode = '\0';
        json_array_append_new(names, json_string(fm_trim(line)));
    }
    return names;
}

static const char *cgroup_layout(void)
{
    struct statfs top, unified;

    if (statfs("/sys/fs/cgroup", &top) < 0)
        return "none";
    if (top.f_type == CGROUP2_SUPER_MAGIC)
        return "v2";
    if (statfs("/sys/fs/cgroup/unified", &unified) == 0 && unified.f_type == CGROUP2_SUPER_MAGIC)
        return "hybrid";
    return "v1";
}

static json_int_t meminfo(const char *text, const char *key, json_int_t unit)
{
    fm_autofree char *value = field_of(text, key);

    return value ? (json_int_t)strtoll(value, NULL, 10) * unit : 0;
}

static int add_memory(json_t *doc, struct fm_error *err)
{
    fm_autofree char *text = NULL;
    size_t len;

    if (fm_file_read("/proc/meminfo", SMALL_FILE_MAX, &text, &len, err) < 0)
        return fm_error_prefix(err, "cannot tell the free memory");
    json_object_set_new(doc, "memory_bytes", json_integer(meminfo(text, "MemTotal", 1024)));
    json_object_set_new(doc, "memory_available", json_integer(meminfo(text, "MemAvailable", 1024)));
    json_object_set_new(
        doc, "hugepages_free_bytes",
        json_integer(meminfo(text, "HugePages_Free", 1) * meminfo(text, "Hugepagesize", 1024)));
    return 0;
}

uint64_t fm_facts_memory_available(void)
{
    fm_autofree char *text = NULL;
    size_t len;
    json_int_t bytes = 0;

    if (fm_file_read("/proc/meminfo", SMALL_FILE_MAX, &text, &len, NULL) == 0)
        bytes = meminfo(text, "MemAvailable", 1024);
    return bytes > 0 ? (uint64_t)bytes : 0;
}

static int add_disk(json_t *doc, const char *state_dir, struct fm_error *err)
{
    uint64_t bytes;

    if (fm_disk_free(state_dir, &bytes, err) < 0)
        return -err->code;
    json_object_set_new(doc, "disk_free", json_integer((json_int_t)bytes));
    return 0;
}

json_t *fm_facts_host(const char *criu, const char *runtime_program, const char *state_dir,
                      struct fm_error *err)
{
    json_auto_t *doc = json_object();
    struct fm_error local = {0};
    struct utsname system;

    if (!err)
        err = &local;
    if (uname(&system) < 0) {
        fm_error_errno(err, errno, "cannot tell the kernel's version");
        return NULL;
    }
    json_object_set_new(doc, "arch", json_string(system.machine));
    json_object_set_new(doc, "kernel", json_string(system.release));
    json_object_set_new(doc, "cpus", json_integer(get_nprocs()));
    json_object_set_new(doc, "cpu", cpu_facts());
    json_object_set_new(doc, "criu", program_facts(criu, criu_facts));
    json_object_set_new(doc, "runtime", program_facts(runtime_program, runtime_facts));
    json_object_set_new(doc, "lsm", lsm_facts());
    json_object_set_new(doc, "apparmor_profiles", apparmor_profiles());
    json_object_set_new(doc, "cgroup", json_string(cgroup_layout()));
    json_object_set_new(doc, "time_ns", json_boolean(fm_file_exists("/proc/self/ns/time")));
    if (add_memory(doc, err) < 0 || add_disk(doc, state_dir, err) < 0)
        return NULL;
    return json_incref(doc);
}
