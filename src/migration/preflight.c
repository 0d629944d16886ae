#include "migration/preflight.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/text.h"
#include "migration/allocator.h"
#include "migration/policy.h"

#define CRIU_MAJOR 4
#define CRIU_MINOR 1

/* One comparison; documents are borrowed and may come from a peer: anything may be missing. */
struct comparison {
    const struct fm_container *container;
    const json_t *needs, *source, *destination, *state;
    json_t *findings;
    bool ok;
};

/* ---- findings ---- */

static void add(struct comparison *c, const char *check, const char *severity, const char *cure,
                const char *fmt, va_list ap)
{
    fm_autofree char *message = fm_vstrf(fmt, ap);
    bool ok = !severity;

    json_array_append_new(c->findings, json_pack("{s:s, s:b, s:s, s:s, s:s}", "check", check, "ok",
                                                 ok, "severity", severity ? severity : "error",
                                                 "message", message, "cure", cure));
    if (fm_streq(severity, "error"))
        c->ok = false;
}

__attribute__((format(printf, 3, 4))) static void passed(struct comparison *c, const char *check,
                                                         const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    add(c, check, NULL, "", fmt, ap);
    va_end(ap);
}

__attribute__((format(printf, 4, 5))) static void failed(struct comparison *c, const char *check,
                                                         const char *cure, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    add(c, check, "error", cure, fmt, ap);
    va_end(ap);
}

__attribute__((format(printf, 4, 5))) static void warned(struct comparison *c, const char *check,
                                                         const char *cure, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    add(c, check, "warning", cure, fmt, ap);
    va_end(ap);
}

/* ---- reading documents ---- */

static uint64_t number(const json_t *doc, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(doc, key));

    return value > 0 ? (uint64_t)value : 0;
}

static bool flag(const json_t *doc, const char *key)
{
    return json_is_true(json_object_get(doc, key));
}

/* Hosts are called by name when the facts carry one. */
static const char *destination_name(const struct comparison *c)
{
    const char *name = fm_json_text(c->destination, "name");

    return *name ? name : "the destination";
}

static const char *source_name(const struct comparison *c)
{
    const char *name = fm_json_text(c->source, "name");

    return *name ? name : "the source";
}

static bool parse_version(const char *s, int *major_number, int *minor_number)
{
    return sscanf(s, "%d.%d", major_number, minor_number) == 2;
}

/* a < b, as far as both can be read */
static bool is_older(const char *a, const char *b)
{
    int a_major, a_minor, b_major, b_minor;

    if (!parse_version(a, &a_major, &a_minor) || !parse_version(b, &b_major, &b_minor))
        return false;
    return a_major < b_major || (a_major == b_major && a_minor < b_minor);
}

/* ---- machine ---- */

static void compare_architecture(struct comparison *c)
{
    const char *from = fm_json_text(c->source, "arch");
    const char *to = fm_json_text(c->destination, "arch");

    if (fm_streq(from, to) && *from)
        passed(c, "architecture", "both hosts are %s", from);
    else
        failed(c, "architecture", "choose a destination of the same architecture",
               "%s is %s and %s is %s", source_name(c), *from ? from : "unknown",
               destination_name(c), *to ? to : "unknown");
}

/* /proc/cpuinfo mixes instructions that a program may have chosen with what concerns the kernel
 * alone (virtualisation, power, mitigations, cache allocation): only the first kind matters.
 * Families are given by their prefix, so that members yet to come count too. */
static bool is_user_visible(const char *flag_name)
{
    static const char *const prefixes[] = {"avx", "amx", "sse", "ssse", "sha",   "sm3",      "sm4",
                                           "bmi", "fma", "aes", "vaes", "xsave", "prefetchi"};
    static const char *const names[] = {
        "fpu",        "tsc",       "cx8",       "cmov",       "mmx",         "mmxext",
        "fxsr",       "fxsr_opt",  "pni",       "pclmulqdq",  "cx16",        "movbe",
        "popcnt",     "f16c",      "rdrand",    "rdseed",     "rdtscp",      "rdpid",
        "lahf_lm",    "abm",       "3dnow",     "3dnowext",   "misalignsse", "3dnowprefetch",
        "xop",        "tbm",       "lwp",       "fsgsbase",   "hle",         "rtm",
        "mpx",        "adx",       "clflush",   "clflushopt", "clwb",        "clzero",
        "xgetbv1",    "pku",       "ospke",     "waitpkg",    "gfni",        "vpclmulqdq",
        "cldemote",   "movdiri",   "movdir64b", "serialize",  "tsxldtrk",    "rdpru",
        "user_shstk", "cmpccxadd", "enqcmd",    "raoint",     "uintr",       "hreset",
    };

    for (size_t i = 0; i < FM_COUNT(prefixes); i++) {
        if (fm_starts_with(flag_name, prefixes[i]))
            return true;
    }
    for (size_t i = 0; i < FM_COUNT(names); i++) {
        if (fm_streq(flag_name, names[i]))
            return true;
    }
    return false;
}

/* "avx2 fma"; NULL when nothing is missing; the caller frees it. Elsewhere than on x86 every flag
 * is a HWCAP, and so visible to programs. */
static char *missing_features(const struct comparison *c)
{
    const json_t *from = json_object_get(json_object_get(c->source, "cpu"), "flags");
    const json_t *to = json_object_get(json_object_get(c->destination, "cpu"), "flags");
    bool x86 = fm_streq(fm_json_text(c->source, "arch"), "x86_64");
    const json_t *item;
    char *missing = NULL;
    size_t i;

    json_array_foreach(from, i, item)
    {
        const char *name = json_string_value(item);
        char *longer;

        if (!name || (x86 && !is_user_visible(name)) || fm_json_has(to, name))
            continue;
        longer = fm_strf("%s%s%s", missing ? missing : "", missing ? " " : "", name);
        free(missing);
        missing = longer;
    }
    return missing;
}

static void compare_cpu_features(struct comparison *c)
{
    fm_autofree char *missing = missing_features(c);

    if (missing)
        failed(c, "cpu-features",
               "choose a destination with these features, or run the container where they are "
               "masked (a virtual machine with a common CPU model)",
               "the processor of %s lacks %.300s, which programs may use", destination_name(c),
               missing);
    else
        passed(c, "cpu-features", "%s has every CPU feature that programs use",
               destination_name(c));
}

/* A register image that does not fit cannot be restored. A larger one can, but the C library
 * measured the size at the program's start. */
static void compare_xsave(struct comparison *c)
{
    const json_t *from = json_object_get(c->source, "cpu");
    const json_t *to = json_object_get(c->destination, "cpu");
    uint64_t size_from = number(from, "xsave_bytes");
    uint64_t size_to = number(to, "xsave_bytes");
    uint64_t absent = number(from, "xfeatures") & ~number(to, "xfeatures");

    if (size_from > size_to || absent)
        failed(c, "cpu-xsave", "choose a destination whose processor saves the same registers",
               "%s saves %" PRIu64 " bytes of registers, %s %" PRIu64
               " (components missing: %#" PRIx64 ")",
               source_name(c), size_from, destination_name(c), size_to, absent);
    else if (size_from < size_to)
        warned(c, "cpu-xsave", "prefer a destination with the same processor model",
               "%s saves more registers (%" PRIu64 " bytes) than %s (%" PRIu64
               "); way back may be refused",
               destination_name(c), size_to, source_name(c), size_from);
    else
        passed(c, "cpu-xsave", "both save %" PRIu64 " bytes of registers", size_from);
}

static void compare_kernel(struct comparison *c)
{
    const char *from = fm_json_text(c->source, "kernel");
    const char *to = fm_json_text(c->destination, "kernel");

    if (is_older(to, from))
        warned(c, "kernel", "update the kernel of the destination",
               "the kernel of %s (%s) is older than that of %s (%s)", destination_name(c), to,
               source_name(c), from);
    else
        passed(c, "kernel", "kernel %s to kernel %s", from, to);
}

/* ---- programs ---- */

static void check_criu(struct comparison *c, const json_t *host, const char *host_name)
{
    const json_t *criu = json_object_get(host, "criu");
    const char *version = fm_json_text(criu, "version");
    const char *check = fm_json_text(criu, "check");
    fm_autofree char *wanted = fm_strf("%d.%d", CRIU_MAJOR, CRIU_MINOR);

    if (!*version)
        failed(c, "criu-version", "install CRIU 4.1 or newer there (scripts/install-deps)",
               "CRIU does not run on %s: %s", host_name, *check ? check : "not found");
    else if (is_older(version, wanted))
        failed(c, "criu-version", "install CRIU 4.1 or newer there (scripts/install-deps)",
               "CRIU %s on %s is too old", version, host_name);
    else
        passed(c, "criu-version", "CRIU %s on %s", version, host_name);

    if (!*version)
        return;
    if (fm_streq(check, "ok"))
        passed(c, "criu-check", "`criu check` passes on %s", host_name);
    else
        failed(c, "criu-check", "run `criu check` there, and enable what it names in the kernel",
               "`criu check` fails on %s: %s", host_name, *check ? check : "no answer");
}

static void compare_runtime(struct comparison *c)
{
    const json_t *from = json_object_get(c->source, "runtime");
    const json_t *to = json_object_get(c->destination, "runtime");

    if (!*fm_json_text(to, "version"))
        failed(c, "runtime", "install it there", "the runtime %s does not run on %s",
               c->container->runtime ? c->container->runtime : fm_json_text(from, "name"),
               destination_name(c));
    else if (!fm_streq(fm_json_text(from, "version"), fm_json_text(to, "version")))
        warned(c, "runtime", "install the same version on both hosts", "%s %s on %s, %s %s on %s",
               fm_json_text(from, "name"), fm_json_text(from, "version"), source_name(c),
               fm_json_text(to, "name"), fm_json_text(to, "version"), destination_name(c));
    else
        passed(c, "runtime", "%s %s on both hosts", fm_json_text(to, "name"),
               fm_json_text(to, "version"));
}

/* ---- kernel facilities ---- */

static void compare_lsm(struct comparison *c)
{
    const char *lsm = fm_json_text(c->needs, "lsm");
    const char *profile = fm_json_text(c->needs, "lsm_profile");
    const json_t *profiles = json_object_get(c->destination, "apparmor_profiles");

    if (!*lsm)
        passed(c, "lsm", "the container needs no security profile");
    else if (!fm_json_has(json_object_get(c->destination, "lsm"), lsm))
        failed(c, "lsm",
               "choose a destination where it is enabled, or run the container unconfined",
               "the container is confined by %s profile '%s', and %s has no %s", lsm, profile,
               destination_name(c), lsm);
    else if (fm_streq(lsm, "apparmor") && !fm_json_has(profiles, profile))
        failed(c, "lsm", "load it there with apparmor_parser -r",
               "the AppArmor profile '%s' of the container is not loaded on %s", profile,
               destination_name(c));
    else
        passed(c, "lsm", "%s profile '%s' is there", lsm, profile);
}

/* Processes are put into the cgroup that the runtime makes, so the layout need not be the same. */
static void compare_cgroup(struct comparison *c)
{
    const char *from = fm_json_text(c->source, "cgroup");
    const char *to = fm_json_text(c->destination, "cgroup");

    if (fm_streq(from, to))
        passed(c, "cgroup", "both hosts have cgroup %s", from);
    else
        warned(
            c, "cgroup",
            "boot both hosts with the same layout (systemd.unified_cgroup_hierarchy=1)",
            "cgroup %s on %s and %s on %s: limits are set anew, cgroups inside the container are "
            "lost",
            from, source_name(c), to, destination_name(c));
}

/* CRIU keeps CLOCK_MONOTONIC going by a time namespace. */
static void compare_clocks(struct comparison *c)
{
    if (flag(c->destination, "time_ns"))
        passed(c, "clocks", "%s has time namespaces", destination_name(c));
    else if (flag(c->source, "time_ns") || flag(c->needs, "time_ns"))
        failed(c, "clocks", "choose a destination with Linux 5.6 or newer (CONFIG_TIME_NS)",
               "%s has no time namespaces: the container's monotonic clock would jump",
               destination_name(c));
    else
        warned(c, "clocks", "choose a destination with Linux 5.6 or newer (CONFIG_TIME_NS)",
               "no host has time namespaces: the container's monotonic clock jumps");
}

/* ---- resources ---- */

static void compare_memory(struct comparison *c)
{
    uint64_t need = fm_with_margin(number(c->needs, "memory_bytes"));
    uint64_t available = number(c->destination, "memory_available");
    char need_text[32], available_text[32];

    fm_format_size(need, need_text, sizeof(need_text));
    fm_format_size(available, available_text, sizeof(available_text));
    if (need > available)
        failed(c, "memory", "free memory there, or choose another destination",
               "%s has %s free memory, '%s' needs %s (resident + %d %%)", destination_name(c),
               available_text, c->container->name, need_text, FM_RESERVE_MARGIN_PERCENT);
    else
        passed(c, "memory", "needs %s memory, %s has %s", need_text, destination_name(c),
               available_text);
}

static void compare_hugepages(struct comparison *c)
{
    uint64_t need = number(c->needs, "hugepages_bytes");
    uint64_t available = number(c->destination, "hugepages_free_bytes");
    char need_text[32], available_text[32];

    if (need == 0)
        return;
    fm_format_size(need, need_text, sizeof(need_text));
    fm_format_size(available, available_text, sizeof(available_text));
    if (need > available)
        failed(c, "hugepages", "raise vm.nr_hugepages there",
               "%s has %s in free huge pages, '%s' uses %s", destination_name(c), available_text,
               c->container->name, need_text);
    else
        passed(c, "hugepages", "needs %s in huge pages, %s has %s", need_text, destination_name(c),
               available_text);
}

static uint64_t sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* Layers: those that the destination has not. The checkpoint lies on its disk for the time of the
 * restore. */
static void compare_disk(struct comparison *c)
{
    uint64_t layers = fm_with_margin(number(c->needs, "layer_bytes"));
    uint64_t files = fm_with_margin(number(c->needs, "disk_bytes"));
    uint64_t images = fm_with_margin(number(c->needs, "memory_bytes"));
    uint64_t need = sum(layers, sum(files, images));
    uint64_t available = number(c->destination, "disk_free");
    char need_text[32], layers_text[32], files_text[32], images_text[32], available_text[32];

    fm_format_size(need, need_text, sizeof(need_text));
    fm_format_size(available, available_text, sizeof(available_text));
    if (need > available)
        failed(c, "disk", "free disk space there, or choose another destination",
               "%s has %s free disk, '%s' needs %s (layers %s, files %s, checkpoint %s)",
               destination_name(c), available_text, c->container->name, need_text,
               fm_format_size(layers, layers_text, sizeof(layers_text)),
               fm_format_size(files, files_text, sizeof(files_text)),
               fm_format_size(images, images_text, sizeof(images_text)));
    else
        passed(c, "disk", "needs %s disk, %s has %s", need_text, destination_name(c),
               available_text);
}

/* ---- what is there already, and what is not ---- */

static void compare_policy(struct comparison *c)
{
    struct fm_policy_request request = {
        .container = c->container,
        .source = source_name(c),
        .destination = destination_name(c),
        .destination_cordoned = flag(c->state, "cordoned"),
    };
    struct fm_error err = {0};
    char *cure;

    if (fm_policy_decide(&request, &err) == 0) {
        passed(c, "policy", "the move is allowed");
        return;
    }
    cure = strstr(err.text, "; ");
    if (cure)
        *cure = '\0';
    failed(c, "policy", cure ? cure + 2 : "", "%s", err.text);
}

static void compare_names(struct comparison *c)
{
    const char *name = c->container->name;

    if (flag(c->state, "container_exists"))
        failed(c, "name", "remove or rename that one", "%s has a container '%s' already",
               destination_name(c), name);
    else
        passed(c, "name", "the name '%s' is free on %s", name, destination_name(c));
    if (!c->container->ip)
        return;
    if (flag(c->state, "address_in_use"))
        failed(c, "address", "remove what uses it there", "the address %s is in use on %s already",
               c->container->ip, destination_name(c));
    else
        passed(c, "address", "the address %s is free on %s", c->container->ip, destination_name(c));
}

static void compare_network(struct comparison *c)
{
    const char *why = fm_json_text(c->state, "network");

    if (!c->container->ip)
        return;
    if (*why)
        failed(c, "network", "", "on %s: %s", destination_name(c), why);
    else
        passed(c, "network", "its network can be on %s", destination_name(c));
}

static void compare_missing(struct comparison *c)
{
    const json_t *sources = json_object_get(c->state, "missing_sources");
    const json_t *devices = json_object_get(c->state, "missing_devices");
    const json_t *item;
    size_t i;

    json_array_foreach(sources, i, item)
    {
        failed(c, "mounts", "make it there, or run the container without this mount",
               "%s has no '%s', which the container mounts", destination_name(c),
               json_string_value(item) ? json_string_value(item) : "");
    }
    if (json_array_size(sources) == 0)
        passed(c, "mounts", "all %zu mounted directories are on %s or are copied",
               json_array_size(json_object_get(c->needs, "mounts")), destination_name(c));
    json_array_foreach(devices, i, item)
    {
        failed(c, "devices", "choose a destination with this device",
               "%s has no device '%s', which the container uses", destination_name(c),
               json_string_value(item) ? json_string_value(item) : "");
    }
    if (json_array_size(devices) == 0)
        passed(c, "devices", "%s has every device", destination_name(c));
}

/* ---- what CRIU cannot dump ---- */

static void compare_obstacles(struct comparison *c)
{
    const json_t *obstacles = json_object_get(c->needs, "obstacles");
    const json_t *item;
    size_t i;

    json_array_foreach(obstacles, i, item)
    {
        if (fm_streq(fm_json_text(item, "severity"), "warning"))
            warned(c, fm_json_text(item, "check"), fm_json_text(item, "cure"), "%s",
                   fm_json_text(item, "message"));
        else
            failed(c, fm_json_text(item, "check"), fm_json_text(item, "cure"), "%s",
                   fm_json_text(item, "message"));
    }
    if (json_array_size(obstacles) == 0)
        passed(c, "checkpoint", "nothing in the container that CRIU cannot dump");
}

json_t *fm_preflight_compare(const struct fm_container *container, const json_t *needs,
                             const json_t *source, const json_t *destination,
                             const json_t *destination_state)
{
    struct comparison c = {
        .container = container,
        .needs = needs,
        .source = source,
        .destination = destination,
        .state = destination_state,
        .findings = json_array(),
        .ok = true,
    };

    compare_policy(&c);
    compare_names(&c);
    compare_network(&c);
    compare_architecture(&c);
    compare_cpu_features(&c);
    compare_xsave(&c);
    compare_kernel(&c);
    check_criu(&c, source, source_name(&c));
    check_criu(&c, destination, destination_name(&c));
    compare_runtime(&c);
    compare_lsm(&c);
    compare_cgroup(&c);
    compare_clocks(&c);
    compare_memory(&c);
    compare_hugepages(&c);
    compare_disk(&c);
    compare_missing(&c);
    compare_obstacles(&c);
    return json_pack("{s:b, s:o}", "ok", c.ok, "findings", c.findings);
}

int fm_preflight_verdict(const json_t *result, struct fm_error *err)
{
    const json_t *finding;
    size_t i;

    if (flag(result, "ok"))
        return 0;
    json_array_foreach(json_object_get(result, "findings"), i, finding)
    {
        const char *cure = fm_json_text(finding, "cure");

        if (!flag(finding, "ok") && fm_streq(fm_json_text(finding, "severity"), "error"))
            return fm_error_set(err, FM_E_REFUSED, "%s%s%s", fm_json_text(finding, "message"),
                                *cure ? "; " : "", cure);
    }
    return fm_error_set(err, FM_E_REFUSED, "the preflight check gave no result");
}
