#include "state/pager_kill.h"

#include <ctype.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/subprocess.h"
#include "base/text.h"

#define ROUNDS_MAX 100 /* a fork storm ends when its parents are dead */

struct pids {
    pid_t *items;
    size_t count, capacity;
};

static bool has(const struct pids *p, pid_t pid)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->items[i] == pid)
            return true;
    }
    return false;
}

static void add(struct pids *p, pid_t pid)
{
    if (p->count == p->capacity) {
        p->capacity = p->capacity ? 2 * p->capacity : 64;
        p->items = fm_xrealloc(p->items, p->capacity * sizeof(*p->items));
    }
    p->items[p->count++] = pid;
}

static pid_t parent_of(pid_t pid)
{
    char path[64];
    fm_autofree char *line = NULL;
    const char *rest;
    int parent = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    line = fm_file_line(path);
    rest = line ? strrchr(line, ')') : NULL;
    return rest && sscanf(rest, ") %*c %d", &parent) == 1 ? parent : 0;
}

/* Adds and stops the children of those that are known; true when there were some. */
static bool add_children(struct pids *known)
{
    fm_autoclosedir DIR *proc = opendir("/proc");
    const struct dirent *entry;
    bool found = false;

    while (proc && (entry = readdir(proc))) {
        pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;

        if (pid <= 1 || has(known, pid) || !has(known, parent_of(pid)))
            continue;
        kill(pid, SIGSTOP); /* else it forks on, and its children lose their parent */
        add(known, pid);
        found = true;
    }
    return found;
}

void fm_pager_kill_tasks(struct fm_pager_maps *maps)
{
    struct pids known = {0};

    for (uint32_t i = 0; i < maps->state->slots; i++) {
        const struct fm_pager_slot *slot = fm_pager_slot(maps, i);
        pid_t pid = slot && slot->kind == FM_PAGER_SLOT_TASK && slot->pidfd >= 0
                        ? fm_process_of_pidfd(slot->pidfd)
                        : 0;

        if (pid > 1 && !has(&known, pid)) {
            kill(pid, SIGSTOP);
            add(&known, pid);
        }
    }
    for (int round = 0; round < ROUNDS_MAX && add_children(&known); round++)
        ;
    for (size_t i = 0; i < known.count; i++)
        kill(known.items[i], SIGKILL);
    free(known.items);
}
