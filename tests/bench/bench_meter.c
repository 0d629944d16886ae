/*
 * Watches the memory of groups of processes, 20 times a second until SIGTERM, and prints how far
 * each group, and their sum, rose above where it was at the start:
 * {"NAME":{"start":BYTES,"extra":BYTES},…,"all":{…}}.
 */
#include "../workloads/workload.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PERIOD_MS 50
#define MAX_GROUPS 8

struct group {
    char *name;
    char *files; /* with commas between */
    uint64_t start, peak;
};

/* A cgroup that does not exist, or not any more, uses nothing. */
static uint64_t number_in(const char *path)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 0;
    if (read(fd, text, sizeof(text) - 1) < 0)
        text[0] = '\0';
    close(fd);
    return strtoull(text, NULL, 10);
}

static uint64_t use_of(const struct group *group)
{
    char files[1024];
    char *rest = files;
    char *file;
    uint64_t sum = 0;

    snprintf(files, sizeof(files), "%s", group->files);
    while ((file = strsep(&rest, ",")))
        sum += number_in(file);
    return sum;
}

static void note(struct group *group, uint64_t now, bool first)
{
    if (first)
        group->start = now;
    if (now > group->peak)
        group->peak = now;
}

static void print(const struct group *group, const char *before)
{
    printf("%s\"%s\":{\"start\":%" PRIu64 ",\"extra\":%" PRIu64 "}", before, group->name,
           group->start, group->peak > group->start ? group->peak - group->start : 0);
}

int main(int argc, char **argv)
{
    struct group groups[MAX_GROUPS];
    struct group all = {.name = (char[]){"all"}};
    struct pollfd stop = {.fd = wl_stop_signals(), .events = POLLIN};
    int count = argc - 1;
    bool first = true;

    if (count < 1 || count > MAX_GROUPS)
        wl_die("usage: bench_meter NAME=FILE[,FILE…]…");
    for (int i = 0; i < count; i++) {
        char *files = argv[i + 1];

        groups[i] = (struct group){.name = strsep(&files, "=")};
        groups[i].files = files;
        if (!files)
            wl_die("no files in '%s'", argv[i + 1]);
    }
    do {
        uint64_t sum = 0;

        for (int i = 0; i < count; i++) {
            uint64_t now = use_of(&groups[i]);

            note(&groups[i], now, first);
            sum += now;
        }
        note(&all, sum, first);
        first = false;
    } while (poll(&stop, 1, PERIOD_MS) == 0);
    for (int i = 0; i < count; i++)
        print(&groups[i], i ? "," : "{");
    print(&all, ",");
    puts("}");
    return WL_EXIT_OK;
}
