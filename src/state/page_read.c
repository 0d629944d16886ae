#include "state/page_read.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "state/memory.h"

#define BATCH_BYTES (1u << 20)

size_t fm_page_batch_max(void)
{
    size_t pages = BATCH_BYTES / fm_page_size();

    return pages < 1 ? 1 : pages < FM_PAGE_READ_MAX ? pages : FM_PAGE_READ_MAX;
}

/* Describes pages [first, …) of the list as few vectors. */
static size_t gather(const struct fm_page_list *list, size_t first, uint64_t page,
                     struct iovec vectors[FM_PAGE_READ_MAX])
{
    size_t n = 0;

    for (size_t i = first; i < list->count; i++) {
        uint64_t address = list->addresses[i];

        if (n > 0 && i > first && list->addresses[i - 1] + page == address)
            vectors[n - 1].iov_len += page;
        else
            vectors[n++] = (struct iovec){(void *)(uintptr_t)address, page};
    }
    return n;
}

/* How many pages from `first` on could be read at once; negative errno when not even one. */
static ssize_t read_many(const struct fm_page_list *list, size_t first, uint8_t *buf, uint64_t page)
{
    struct iovec remote[FM_PAGE_READ_MAX];
    struct iovec local = {buf, (list->count - first) * page};
    size_t n = gather(list, first, page, remote);
    ssize_t got = process_vm_readv(list->pid, &local, 1, remote, n, 0);

    if (got < 0)
        return -errno;
    return got / (ssize_t)page > 0 ? got / (ssize_t)page : -EFAULT;
}

/* Also reads what the process itself may not: the kernel forces access through this file. */
static int read_forced(const struct fm_page_list *list, uint64_t address, uint8_t *buf,
                       uint64_t page, int *fd)
{
    char path[64];
    ssize_t n;

    if (*fd < 0) {
        snprintf(path, sizeof(path), "/proc/%d/mem", (int)list->pid);
        *fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (*fd < 0)
        return -errno;
    n = pread(*fd, buf, page, (off_t)address);
    if (n < 0)
        return -errno;
    return (uint64_t)n == page ? 0 : -EFAULT;
}

static int unreadable(const struct fm_page_list *list, uint64_t address, int error,
                      struct fm_error *err)
{
    fm_error_errno(err, error, "cannot read the page at %#" PRIx64 " of process %d", address,
                   (int)list->pid);
    return fm_error_recode(err, FM_E_IO);
}

int fm_pages_read(struct fm_page_list *list, uint8_t *buf, bool frozen, struct fm_error *err)
{
    uint64_t page = fm_page_size();
    fm_autoclose int mem_fd = -1;
    size_t kept = 0;

    for (size_t i = 0; i < list->count;) {
        uint8_t *to = buf + kept * page;
        ssize_t n = read_many(list, i, to, page);

        if (n == -ESRCH && !frozen)
            break;
        if (n == -EFAULT || n == -EIO)
            n = read_forced(list, list->addresses[i], to, page, &mem_fd) == 0 ? 1 : 0;
        if (n == 0 && frozen)
            return unreadable(list, list->addresses[i], EFAULT, err);
        if (n < 0)
            return unreadable(list, list->addresses[i], (int)-n, err);
        for (ssize_t k = 0; k < n; k++)
            list->addresses[kept++] = list->addresses[i++];
        if (n == 0)
            i++;
    }
    list->count = kept;
    return 0;
}
