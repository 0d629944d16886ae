#include "daemon/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/text.h"

void fm_notifier_open(struct fm_notifier *notifier)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t len;

    notifier->fd = -1;
    if (!path || strlen(path) < 2 || strlen(path) >= sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, path, strlen(path));
    len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (path[0] == '@')
        address.sun_path[0] = '\0'; /* a name in the abstract namespace */
    notifier->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (notifier->fd >= 0 && connect(notifier->fd, (struct sockaddr *)&address, len) < 0)
        fm_notifier_close(notifier);
    unsetenv("NOTIFY_SOCKET");
}

void fm_notifier_close(struct fm_notifier *notifier)
{
    if (notifier->fd >= 0)
        close(notifier->fd);
    notifier->fd = -1;
}

void fm_notifier_send(struct fm_notifier *notifier, const char *fmt, ...)
{
    fm_autofree char *text = NULL;
    va_list ap;

    if (notifier->fd < 0)
        return;
    va_start(ap, fmt);
    text = fm_vstrf(fmt, ap);
    va_end(ap);
    send(notifier->fd, text, strlen(text), MSG_NOSIGNAL);
}
