#include "dns_world.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "net_lab.h"

static const char *const zones[] = {"example.test", "0.10.in-addr.arpa", "1.10.in-addr.arpa",
                                    "d.f.ip6.arpa", NULL};

static const char *const records[] = {
    "ns 300 A 127.0.0.1\n"
    "web 300 A 10.0.0.5\n"
    "web 400 AAAA fd00::5\n"
    "four 300 A 10.0.0.8\n"
    "six 300 AAAA fd00::8\n"
    "quick 2 A 10.0.0.9\n"
    "pool 600 A 10.0.0.20\n"
    "pool 600 A 10.0.0.21\n"
    "pool 600 A 10.0.0.22\n"
    "alias 300 CNAME web\n"
    "*.wild 300 A 10.0.0.30\n",
    "5.0 900 PTR Web.example.test.\n"
    "8.0 901 PTR four.example.test.\n"
    "20.0 902 PTR pool.example.test.\n"
    "20.0 902 PTR host20.example.test.\n",
    "",
    "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 903 PTR web.example.test.\n",
};

static char *sh(const char *command)
{
    return lab_sh("/proc/self/ns/net", "%s", command);
}

void world_init(void)
{
    lab_init();
}

static void write_file(const char *name, const char *text)
{
    struct fm_error err = {0};
    fm_autofree char *path = fm_strf(WORLD_DIR "/%s", name);
    if (fm_file_write(path, text, strlen(text), 0644, &err) < 0) {
        fprintf(stderr, "dns_world: %s\n", err.text);
        exit(1);
    }
}

static void write_zones(void)
{
    for (size_t i = 0; zones[i]; i++) {
        fm_autofree char *text =
            fm_strf("$TTL 300\n@ SOA ns.example.test. admin.example.test. 1 3600 600 86400 60\n"
                    "@ NS ns.example.test.\n%s",
                    records[i]);
        fm_autofree char *name = fm_strf("%s.zone", zones[i]);
        write_file(name, text);
    }
    /* A set that no datagram of 512 bytes holds. */
    fm_autofree char *path = fm_strf(WORLD_DIR "/%s.zone", zones[0]);
    FILE *f = fopen(path, "ae");
    if (!f)
        exit(1);
    for (int i = 1; i <= 60; i++)
        fprintf(f, "many 300 A 10.0.2.%d\n", i);
    fclose(f);
}

static void configure_bind(void)
{
    struct fm_strv v = {0};
    fm_strv_addf(
        &v,
        "options { directory \"" WORLD_DIR "\"; listen-on port %d { 127.0.0.1; }; "
        "listen-on-v6 { none; }; recursion no; dnssec-validation no; notify no; "
        "pid-file none; session-keyfile none; lock-file none; };\n"
        "controls { };\n"
        "key " WORLD_KEY " { algorithm hmac-sha256; secret \"" WORLD_SECRET "\"; };\n"
        "key " WORLD_KEY512 " { algorithm hmac-sha512; secret \"" WORLD_SECRET512 "\"; };\n"
        "key " WORLD_GUEST " { algorithm hmac-sha256; secret \"" WORLD_GUEST_SECRET "\"; };\n",
        WORLD_PORT);
    for (size_t i = 0; zones[i]; i++)
        fm_strv_addf(&v,
                     "zone %s { type primary; file \"%s.zone\"; allow-transfer { any; }; "
                     "allow-update { key " WORLD_KEY "; key " WORLD_KEY512 "; }; };\n",
                     zones[i], zones[i]);
    fm_autofree char *text =
        fm_strf("%s%s%s%s%s", v.items[0], v.items[1], v.items[2], v.items[3], v.items[4]);
    write_file("named.conf", text);
    fm_strv_free(&v);
}

static void configure_knot(void)
{
    fm_autofree char *head = fm_strf(
        "server:\n  rundir: " WORLD_DIR "\n  listen: 127.0.0.1@%d\n"
        "database:\n  storage: " WORLD_DIR "/db\n"
        "log:\n  - target: stderr\n    any: info\n"
        "key:\n"
        "  - id: " WORLD_KEY "\n    algorithm: hmac-sha256\n    secret: " WORLD_SECRET "\n"
        "  - id: " WORLD_KEY512 "\n    algorithm: hmac-sha512\n    secret: " WORLD_SECRET512 "\n"
        "  - id: " WORLD_GUEST "\n    algorithm: hmac-sha256\n    secret: " WORLD_GUEST_SECRET "\n"
        "acl:\n"
        "  - id: update\n    key: [" WORLD_KEY ", " WORLD_KEY512 "]\n    action: update\n"
        "  - id: query\n    key: " WORLD_GUEST "\n    action: query\n"
        "  - id: transfer\n    address: 127.0.0.1\n    action: transfer\n",
        WORLD_PORT);
    fm_autofree char *text = fm_strf(
        "%szone:\n"
        "  - domain: %s\n    file: " WORLD_DIR "/%s.zone\n    acl: [update, query, transfer]\n"
        "  - domain: %s\n    file: " WORLD_DIR "/%s.zone\n    acl: [update, query, transfer]\n"
        "  - domain: %s\n    file: " WORLD_DIR "/%s.zone\n    acl: [update, query, transfer]\n"
        "  - domain: %s\n    file: " WORLD_DIR "/%s.zone\n    acl: [update, query, transfer]\n",
        head, zones[0], zones[0], zones[1], zones[1], zones[2], zones[2], zones[3], zones[3]);
    write_file("knot.conf", text);
}

static void wait_until_it_answers(void)
{
    for (uint64_t end_ms = fm_now_ms() + 20000; fm_now_ms() < end_ms; lab_sleep_ms(20)) {
        fm_autofree char *out = world_dig("ns.example.test", "A");
        if (fm_streq(out, "300 127.0.0.1\n"))
            return;
    }
    fm_autofree char *log = sh("tail -n 20 " WORLD_DIR "/log");
    fprintf(stderr, "dns_world: the server does not answer; its log:\n%s", log);
    exit(1);
}

void world_start(struct world *w, enum world_kind kind)
{
    *w = (struct world){.kind = kind};
    /* A copy, because Debian's AppArmor lets the installed named read its own directories only. */
    free(sh("rm -rf " WORLD_DIR "; mkdir -p " WORLD_DIR "/db; cp /usr/sbin/named " WORLD_DIR));
    write_zones();
    if (kind == WORLD_BIND)
        configure_bind();
    else
        configure_knot();
    fm_autofree char *command =
        fm_strf("exec %s >" WORLD_DIR "/log 2>&1",
                kind == WORLD_BIND ? WORLD_DIR "/named -4 -n 1 -f -g -c " WORLD_DIR "/named.conf"
                                   : "knotd -c " WORLD_DIR "/knot.conf");
    const char *argv[] = {"sh", "-c", command, NULL};
    struct fm_subprocess_options options = {
        .argv = argv,
        .stdin_fd = -1,
        .stdout_fd = -1,
        .stderr_fd = -1,
        .die_with_parent = true,
    };
    struct fm_error err = {0};
    if (fm_subprocess_start(&options, false, &w->pid, NULL, &err) < 0) {
        fprintf(stderr, "dns_world: %s\n", err.text);
        exit(1);
    }
    wait_until_it_answers();
}

void world_stop(struct world *w)
{
    if (w->pid <= 0)
        return;
    struct fm_error err = {0};
    kill(w->pid, SIGKILL);
    fm_subprocess_wait(w->pid, 0, NULL, &err);
    w->pid = 0;
}

struct fm_dns_config world_config(void)
{
    static const char *const reverse_zones[] = {"0.10.in-addr.arpa", "1.10.in-addr.arpa",
                                                "d.f.ip6.arpa", NULL};
    return (struct fm_dns_config){
        .server = "127.0.0.1",
        .port = WORLD_PORT,
        .zone = "example.test",
        .reverse_zones = reverse_zones,
        .key_name = WORLD_KEY,
        .secret = WORLD_SECRET,
        .timeout_ms = FM_DNS_TIMEOUT_MS,
        .retries = FM_DNS_RETRIES,
    };
}

char *world_dig(const char *name, const char *type)
{
    return lab_sh("/proc/self/ns/net",
                  "dig +time=1 +tries=1 +norec +noall +answer @127.0.0.1 -p %d %s %s 2>/dev/null | "
                  "awk '!/^;/ {print $2, $5}' | LC_ALL=C sort",
                  WORLD_PORT, name, type);
}

char *world_dump(void)
{
    return lab_sh("/proc/self/ns/net",
                  "dig @127.0.0.1 -p %d +onesoa +noall +answer %s AXFR %s AXFR %s AXFR %s AXFR | "
                  "grep -v -e SOA -e '^;' | tr -s '\\t ' ' ' | LC_ALL=C sort",
                  WORLD_PORT, zones[0], zones[1], zones[2], zones[3]);
}

void world_nsupdate(const char *zone, const char *lines)
{
    fm_autofree char *script =
        fm_strf("server 127.0.0.1 %d\nkey hmac-sha256:" WORLD_KEY " " WORLD_SECRET "\nzone %s\n%s\n"
                "send\n",
                WORLD_PORT, zone, lines);
    write_file("nsupdate", script);
    free(sh("nsupdate " WORLD_DIR "/nsupdate"));
}
