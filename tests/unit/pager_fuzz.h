/* A task that changes its address space at random and knows what each page has to hold. */
#ifndef FM_TEST_PAGER_FUZZ_H
#define FM_TEST_PAGER_FUZZ_H

#include <stdint.h>

/* A task_body; `seed` chooses what it does. Uses twice as much address space as it has pages. */
int fuzz_memory(int32_t inner_pid, unsigned char *memory, uint64_t pages, uintptr_t seed);

#endif
