#include "state/pager_ranges.h"

#include <endian.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "state/pager_state.h"

#define BYTES_MAX (64u << 20)

void fm_pager_ranges_clear(struct fm_pager_ranges *r)
{
    free(r->data);
    *r = (struct fm_pager_ranges){0};
}

void fm_pager_ranges_at(const struct fm_pager_ranges *r, size_t i, uint64_t *start, uint64_t *end)
{
    uint64_t pair[2];

    memcpy(pair, r->data + i * sizeof(pair), sizeof(pair));
    *start = le64toh(pair[0]);
    *end = le64toh(pair[1]);
}

int fm_pager_ranges_read(struct fm_pager_ranges *r, const char *store_dir, int32_t inner_pid,
                         const char *kind, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/%d.%s", store_dir, inner_pid, kind);
    uint64_t last = 0, start, end;
    size_t len;
    bool fine;

    if (fm_file_read(path, BYTES_MAX, &r->data, &len, err) < 0)
        return fm_error_result(err);
    r->count = len / 16;
    fine = len % 16 == 0;
    for (size_t i = 0; i < r->count && fine; i++, last = end) {
        fm_pager_ranges_at(r, i, &start, &end);
        fine = start >= last && end > start && start % fm_pager_page() == 0 &&
               end % fm_pager_page() == 0;
    }
    if (fine)
        return 0;
    fm_pager_ranges_clear(r);
    return fm_error_set(err, FM_E_PROTOCOL, "'%s' is damaged", path);
}
