/* libFuzzer: what a peer may send as a batch of pages, and as the delta of one. */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "state/memory.h"
#include "state/page_codec.h"
#include "state/page_delta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(const struct fm_error *err)
{
    if ((err->code != FM_E_PROTOCOL && err->code != FM_E_CHECKSUM) || !err->text[0])
        abort();
}

static void check_delta(const uint8_t *delta, size_t len)
{
    static uint8_t *page;
    struct fm_error err = {0};

    if (!page)
        page = fm_xmalloc(fm_page_size());
    memset(page, 0, fm_page_size());
    if (fm_page_delta_apply(page, fm_page_size(), delta, len, &err) < 0)
        check_error(&err);
}

/* What was accepted lies within its bounds, in order, and every byte of it can be read. */
static void check_batch(const struct fm_page_batch *batch)
{
    const uint8_t *content = batch->body;
    uint64_t last = 0, sum = 0;

    for (size_t i = 0; i < batch->count; i++) {
        const struct fm_page_run *run = &batch->runs[i];
        uint64_t end = run->address + run->pages * fm_page_size();

        if (run->address < last || end <= run->address || end > FM_PAGE_ADDRESS_MAX ||
            run->address % fm_page_size() || run->bytes > batch->body_size)
            abort();
        for (uint32_t k = 0; k < run->bytes; k++)
            sum += content[k];
        if (run->kind == FM_PAGE_DELTA)
            check_delta(content, run->bytes);
        content += run->bytes;
        last = end;
    }
    if (content != batch->body + batch->body_size || batch->inner_pid < 1 ||
        batch->body_size > FM_PAGE_BATCH_BODY_MAX || sum > batch->body_size * UINT64_C(255))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fm_page_decoder *decoder;
    struct fm_page_batch batch;
    struct fm_error err = {0};

    if (!decoder)
        decoder = fm_page_decoder_new();
    if (fm_page_batch_decode(decoder, data, size, &batch, &err) < 0)
        check_error(&err);
    else
        check_batch(&batch);
    check_delta(data, size);
    return 0;
}
