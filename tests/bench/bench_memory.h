/**
 * @file
 * @brief The protocol between bench_memory and its client: wl_frame, echoed.
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include <stdint.h>

#define BENCH_MEMORY_PORT "7003"

/** A frame of this id asks for a check of all pages; the answer's seq is the number of wrong ones.
 */
#define BENCH_MEMORY_CHECK UINT64_C(0x636865636b)

#endif
