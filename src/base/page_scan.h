/* PAGEMAP_SCAN, as <linux/fs.h> has it since 6.7: older headers lack it.
 *
 * Source: Documentation/admin-guide/mm/pagemap.rst. */
#ifndef FM_BASE_PAGE_SCAN_H
#define FM_BASE_PAGE_SCAN_H

#include <stdint.h>
#include <sys/ioctl.h>

struct fm_page_region {
    uint64_t start, end, categories;
};

struct fm_page_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define FM_PAGE_SCAN _IOWR('f', 16, struct fm_page_scan)
#define FM_PAGE_SCAN_WP_MATCHING (UINT64_C(1) << 0)
#define FM_PAGE_SCAN_CHECK_WPASYNC (UINT64_C(1) << 1)

#define FM_PAGE_IS_WPALLOWED (UINT64_C(1) << 0)
#define FM_PAGE_IS_WRITTEN (UINT64_C(1) << 1)
#define FM_PAGE_IS_PRESENT (UINT64_C(1) << 3)
#define FM_PAGE_IS_SWAPPED (UINT64_C(1) << 4)
#define FM_PAGE_IS_PFNZERO (UINT64_C(1) << 5)
#define FM_PAGE_IS_SOFT_DIRTY (UINT64_C(1) << 7)
#define FM_PAGE_IS_GUARD (UINT64_C(1) << 8) /* 6.15 */

#endif
