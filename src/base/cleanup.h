/* Ownership at the declaration: resources that are released when their scope ends. */
#ifndef FM_BASE_CLEANUP_H
#define FM_BASE_CLEANUP_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void fm_cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void fm_cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void fm_cleanup_fclose(FILE **f)
{
    if (*f)
        fclose(*f);
}

static inline void fm_cleanup_closedir(DIR **d)
{
    if (*d)
        closedir(*d);
}

#define fm_cleanup(fn) __attribute__((cleanup(fn)))
#define fm_autofree fm_cleanup(fm_cleanup_free)
#define fm_autoclose fm_cleanup(fm_cleanup_close)
#define fm_autofclose fm_cleanup(fm_cleanup_fclose)
#define fm_autoclosedir fm_cleanup(fm_cleanup_closedir)

/* Hands the pointer over and forgets it here. */
#define FM_MOVE(ptr)                                                                               \
    ({                                                                                             \
        __typeof__(ptr) fm_moved_ = (ptr);                                                         \
        (ptr) = NULL;                                                                              \
        fm_moved_;                                                                                 \
    })

/* The same for file descriptors. */
#define FM_MOVE_FD(fd)                                                                             \
    ({                                                                                             \
        int fm_moved_ = (fd);                                                                      \
        (fd) = -1;                                                                                 \
        fm_moved_;                                                                                 \
    })

#define FM_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
