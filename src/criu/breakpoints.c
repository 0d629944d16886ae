#include "criu/breakpoints.h"

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

int fm_breakpoints_prepare(void)
{
    struct perf_event_attr nothing = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(nothing),
        .config = PERF_COUNT_SW_DUMMY,
        .disabled = 1,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };

    return (int)syscall(SYS_perf_event_open, &nothing, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}
