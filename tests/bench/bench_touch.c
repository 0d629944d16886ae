/*
 * Touches memory and gives it back: a virtual machine's host provides the pages behind it at the
 * first touch, which is slow, and is no part of what the benchmark measures.
 */
#include "../workloads/workload.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    uint64_t size = argc == 2 ? wl_number("size", argv[1]) : 0;
    uint64_t step = (uint64_t)sysconf(_SC_PAGESIZE);
    volatile unsigned char *memory;

    if (size == 0)
        wl_die("usage: bench_touch SIZE");
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        wl_die("cannot map so much: %s", strerror(errno));
    for (uint64_t at = 0; at < size; at += step)
        memory[at] = 1;
    return WL_EXIT_OK;
}
