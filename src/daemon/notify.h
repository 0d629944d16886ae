/* Tells systemd how we are (sd_notify(3), without its library). */
#ifndef FM_DAEMON_NOTIFY_H
#define FM_DAEMON_NOTIFY_H

/* Where to notify; {0} and no NOTIFY_SOCKET: nowhere. */
struct fm_notifier {
    int fd; /* connected; -1: nowhere */
};

/* Takes NOTIFY_SOCKET out of the environment: runc would take it for the container's own. */
void fm_notifier_open(struct fm_notifier *notifier);
void fm_notifier_close(struct fm_notifier *notifier);

/* Sends lines such as "READY=1\nSTATUS=idle". Never blocks, never fails. */
void fm_notifier_send(struct fm_notifier *notifier, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
