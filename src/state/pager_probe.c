#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "state/pager.h"
#include "state/pager_protocol.h"
#include "state/pager_state.h"

#define TIMEOUT_MS 5000
#define PATTERN 0x5a

/* What CRIU asks for, and without which a fork or mremap would lose pages. */
#define FEATURES                                                                                   \
    (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |              \
     UFFD_FEATURE_EVENT_UNMAP)

/* ---- The child: as a restored task; only calls that are safe after a fork ---- */

static int open_registered(void *area)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
    struct uffdio_register range = {
        .range = {.start = (uintptr_t)area, .len = fm_pager_page()},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &range) < 0)
        return -1;
    return fd;
}

static void be_task(int socket)
{
    volatile const unsigned char *area =
        mmap(NULL, fm_pager_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = area == MAP_FAILED ? -1 : open_registered((void *)(uintptr_t)area);
    struct fm_pager_message m = {.kind = FM_PAGER_HOLD, .address = (uintptr_t)area};

    if (fd < 0)
        _exit(errno & 0x7f ? errno & 0x7f : 1);
    fm_pager_send(socket, &m, &fd, 1, 0);
    close(fd);
    _exit(area[0] == PATTERN && area[fm_pager_page() - 1] == PATTERN ? 0 : 1);
}

/* ---- The parent: as the pager ---- */

static int serve(int socket, struct fm_error *err)
{
    struct pollfd ready = {.fd = socket, .events = POLLIN};
    unsigned char page[65536]; /* no machine has larger base pages */
    struct fm_pager_message m;
    int fds[FM_PAGER_FDS_MAX] = {-1, -1};
    struct uffd_msg fault;
    int ret;

    memset(page, PATTERN, sizeof(page));
    if (poll(&ready, 1, TIMEOUT_MS) <= 0 || fm_pager_receive(socket, &m, fds, 0) <= 0)
        return 0; /* the child's exit code says why */
    struct uffdio_copy copy = {.dst = m.address, .src = (uintptr_t)page, .len = fm_pager_page()};
    fm_autoclose int fd = fds[0];
    ready.fd = fd;
    if (poll(&ready, 1, TIMEOUT_MS) <= 0 || read(fd, &fault, sizeof(fault)) != sizeof(fault))
        return fm_error_set(err, FM_E_FAILED, "userfaultfd reports no page fault");
    ret = ioctl(fd, UFFDIO_COPY, &copy);
    return ret < 0 ? fm_error_errno(err, errno, "userfaultfd cannot fill memory") : 0;
}

int fm_pager_probe(struct fm_error *err)
{
    int pair[2], status = 0, ret;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return fm_error_errno(err, errno, "cannot make a socket");
    fm_autoclose int ours = pair[0];
    pid = fork();
    if (pid == 0)
        be_task(pair[1]);
    ret = errno;
    close(pair[1]);
    if (pid < 0)
        return fm_error_errno(err, ret, "cannot start a process");
    ret = serve(ours, err);
    if (ret < 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (ret < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return ret;
    return fm_error_errno(err, WIFEXITED(status) ? WEXITSTATUS(status) : EFAULT,
                          "userfaultfd does not work here as memory on demand needs it; enable "
                          "CONFIG_USERFAULTFD in the kernel and run as root");
}
