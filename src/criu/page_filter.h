/* Between the page filter and those who use it. */
#ifndef FM_CRIU_PAGE_FILTER_H
#define FM_CRIU_PAGE_FILTER_H

/* Names the directory with <host pid>.hide, .unguarded and .smaps. */
#define FM_FILTER_ENVIRONMENT "FLEXIMIGRATE_FILTER_DIR"

#endif
