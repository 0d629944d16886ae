/* Handler: a container's log, as it is or followed. */
#include "api/handlers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/text.h"

#define BLOCK 32768
#define TAIL_MAX 1000000

/* A log that is sent while it grows. */
struct follower {
    int log_fd;
    int watch_fd;      /* inotify */
    int stop_fd;       /* the server's */
    int connection_fd; /* the client's */
    off_t offset;
};

static void follower_free(void *ctx)
{
    struct follower *follower = ctx;

    close(follower->log_fd);
    close(follower->watch_fd);
    free(follower);
}

/* Blocks until there may be more to read; false when the answer is to end. */
static bool wait_for_more(struct follower *follower)
{
    struct pollfd fds[] = {
        {.fd = follower->watch_fd, .events = POLLIN},
        {.fd = follower->stop_fd, .events = POLLIN},
        {.fd = follower->connection_fd, .events = POLLRDHUP},
    };
    char events[4096];
    struct stat st;

    if (fstat(follower->log_fd, &st) < 0 || st.st_nlink == 0)
        return false;
    if (poll(fds, FM_COUNT(fds), -1) < 0)
        return errno == EINTR;
    if (fds[1].revents || fds[2].revents)
        return false;
    return read(follower->watch_fd, events, sizeof(events)) > 0 || errno == EAGAIN;
}

static ssize_t follower_read(void *ctx, uint64_t pos, char *buf, size_t max)
{
    struct follower *follower = ctx;
    ssize_t n;

    (void)pos;
    do {
        n = pread(follower->log_fd, buf, max, follower->offset);
        if (n < 0)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (n > 0) {
            follower->offset += n;
            return n;
        }
    } while (wait_for_more(follower));
    return MHD_CONTENT_READER_END_OF_STREAM;
}

/* The offset at which the last `lines` lines begin. */
static off_t tail_offset(int fd, off_t size, int64_t lines)
{
    char block[BLOCK];
    off_t end = size;

    while (end > 0) {
        off_t start = end > BLOCK ? end - BLOCK : 0;
        ssize_t n = pread(fd, block, (size_t)(end - start), start);

        if (n != end - start)
            return start;
        while (n-- > 0)
            /* The newline at the very end closes the last line and begins none. */
            if (block[n] == '\n' && start + n + 1 < size && lines-- <= 1)
                return start + n + 1;
        end = start;
    }
    return 0;
}

static int parse_tail(const struct fm_api_request *request, int64_t *lines, struct fm_error *err)
{
    const char *text = fm_api_query(request, "tail");

    *lines = -1;
    if (text && fm_parse_int(text, 0, TAIL_MAX, lines, err) < 0)
        return fm_error_prefix(err, "the parameter 'tail'");
    return 0;
}

static struct MHD_Response *follow(const struct fm_api_request *request, int fd, const char *path,
                                   off_t offset)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct follower *follower = fm_xcalloc(1, sizeof(*follower));

    follower->log_fd = fd;
    follower->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    follower->stop_fd = request->context->stop_fd;
    follower->connection_fd = info ? info->connect_fd : -1;
    follower->offset = offset;
    if (follower->watch_fd < 0 ||
        inotify_add_watch(follower->watch_fd, path, IN_MODIFY | IN_ATTRIB) < 0) {
        follower_free(follower);
        return NULL;
    }
    return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, follower_read, follower,
                                             follower_free);
}

int fm_api_container_logs(const struct fm_api_request *request, struct fm_api_reply *reply,
                          struct fm_error *err)
{
    fm_autofree char *path =
        fm_manager_container_log(request->context->manager, request->argument, err);
    fm_autoclose int fd = -1;
    struct stat st;
    int64_t lines;
    off_t start;

    if (!path)
        return -(int)err->code;
    if (parse_tail(request, &lines, err) < 0)
        return -(int)err->code;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return fm_error_errno(err, errno, "cannot read the log of '%s'", request->argument);

    start = lines == 0 ? st.st_size : lines > 0 ? tail_offset(fd, st.st_size, lines) : 0;
    reply->status = MHD_HTTP_OK;
    reply->lasting = fm_api_query_flag(request, "follow");
    if (reply->lasting)
        reply->response = follow(request, FM_MOVE_FD(fd), path, start);
    else
        reply->response = MHD_create_response_from_fd_at_offset64((uint64_t)(st.st_size - start),
                                                                  FM_MOVE_FD(fd), (uint64_t)start);
    if (!reply->response)
        return fm_error_set(err, FM_E_IO, "cannot follow the log of '%s': out of inotify watches",
                            request->argument);
    MHD_add_response_header(reply->response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            "text/plain; charset=utf-8");
    return 0;
}
