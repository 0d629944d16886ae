/* Deposit: userfaultfds that a container keeps itself while its memory is being filled.
 *
 * The kernel shows zeroes in place of missing pages once nobody holds a userfaultfd any more.
 * Pager, keeper and daemon may all be killed at once; so the container's init has one more
 * descriptor: a socket that is connected to itself, in whose queue the userfaultfds of all tasks
 * lie as SCM_RIGHTS. It lives as long as the tasks do, and tasks that are forked later need none of
 * their own. Whoever finds it again takes the userfaultfds out.
 *
 * The init can read and empty it as well. It could harm nobody but its container by that: nothing
 * else is ever in there, and what is taken out is looked at first. */
#ifndef FM_BASE_DEPOSIT_H
#define FM_BASE_DEPOSIT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FM_DEPOSIT_FDS_MAX 2

struct fm_deposit_item {
    uint32_t magic; /* set by fm_deposit_put */
    uint32_t slot;  /* of the pager's state, or one of those below */
    uint64_t serial;
};
/* No descriptor; `serial` tells it from others. */
#define FM_DEPOSIT_MARK UINT32_MAX
/* Of a child that has no slot yet; `serial` is the event of its fork. */
#define FM_DEPOSIT_FORK (UINT32_MAX - 1)

/* Makes one in the calling process, with close-on-exec and a number that is out of the way. -1 with
 * errno. */
int fm_deposit_make(void);
/* Tells it from all others. 0: `fd` is none. */
uint64_t fm_deposit_inode(int fd);
/* Its number in another process; -1: it does not have it (any more). */
int fm_deposit_number(pid_t pid, uint64_t inode);
/* Our own descriptor of the one that a process has; -1. */
int fm_deposit_open(pid_t pid, uint64_t inode);

/* None of these waits. */
/* Negative errno when it is full. */
int fm_deposit_put(int fd, const struct fm_deposit_item *item, const int *fds, size_t count);
/* Takes the first out and closes its descriptors. 0: there was none. `item->magic` is 0 for what
 * somebody else has put in. */
int fm_deposit_drop(int fd, struct fm_deposit_item *item);
/* Copies of the descriptors, which stay in it: call `begin`, then `next` until it returns 0, then
 * `end`. fds[] that there are not are -1; the others become the caller's. */
void fm_deposit_look_begin(int fd);
int fm_deposit_look_next(int fd, struct fm_deposit_item *item, int fds[FM_DEPOSIT_FDS_MAX]);
void fm_deposit_look_end(int fd);

#endif
