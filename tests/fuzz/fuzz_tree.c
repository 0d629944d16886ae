/* libFuzzer: an archive from a hostile source. Nothing may come to be outside of the directory.
 *
 * Input: 2 bytes of chunk size, 2 bytes of length and the list of paths, 2 bytes of length and the
 * list of vanished paths, then the archive. Run it as an ordinary user: it makes whatever the
 * archive says. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "state/tree_stream.h"
#include "fake_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHUNKS 512u

static struct {
    const uint8_t *data[3]; /* list, archive, vanished */
    size_t size[3];
    int stream;
    size_t chunk;
} input;

int fm_connection_recv(struct fm_connection *c, struct fm_frame *frame, struct fm_error *err)
{
    if (input.stream >= 3)
        return fm_error_set(err, FM_E_CLOSED, "the input is at its end");
    c->data = input.data[input.stream];
    c->size = input.size[input.stream];
    if (c->size > 0) {
        fake_wire_data(c, input.chunk < c->size ? input.chunk : c->size, frame);
        input.data[input.stream] = c->data;
        input.size[input.stream] = c->size;
    } else {
        fake_wire_end(c, frame);
        fake_wire_restart(c);
        input.stream++;
    }
    return 0;
}

static void cut_input(const uint8_t *data, size_t size)
{
    struct fm_connection c = {0};

    fake_wire_open(&c, data, size);
    input.stream = 0;
    input.chunk = fake_wire_number(&c) % CHUNKS + 1;
    for (int i = 0; i <= 2; i += 2) {
        size_t n = fake_wire_number(&c);
        input.size[i] = n < c.size ? n : c.size;
        input.data[i] = c.data;
        c.data += input.size[i];
        c.size -= input.size[i];
    }
    input.data[1] = c.data;
    input.size[1] = c.size;
    fake_wire_close(&c);
}

/* Headers get the checksum that they should have, or hardly a mutation would be looked at (POSIX
 * ustar: the sum of the header's bytes, its own field counting as blanks). */
static uint8_t *mend_headers(const uint8_t *data, size_t size)
{
    uint8_t *archive = fm_xmalloc(size + 1);

    memcpy(archive, data, size);
    for (size_t at = 0; at + 512 <= size; at += 512) {
        uint8_t *header = archive + at;
        unsigned sum = 0;
        if (memcmp(header + 257, "ustar", 5) != 0)
            continue;
        memset(header + 148, ' ', 8);
        for (size_t i = 0; i < 512; i++)
            sum += header[i];
        snprintf((char *)header + 148, 7, "%06o", sum);
    }
    return archive;
}

/* Beside the directory lies a file that must stay as it is, and nothing else. */
static void check_outside(const char *outside)
{
    struct dirent *e;
    struct stat st;
    int entries = 0;

    fm_autoclosedir DIR *d = opendir(outside);
    while (d && (e = readdir(d)))
        entries++;
    if (!d || entries != 4 || fstatat(dirfd(d), "secret", &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISREG(st.st_mode) || st.st_size != 6 || st.st_nlink != 1 || (st.st_mode & 0777) != 0604)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char outside[] = "/tmp/fm-fuzz-tree-XXXXXX";
    static char inside[64];
    static char secret[64];
    struct fm_tree_stats stats;
    struct fm_error err = {0};
    struct fm_connection c;

    if (!inside[0]) {
        if (!mkdtemp(outside))
            abort();
        snprintf(inside, sizeof(inside), "%s/inside", outside);
        snprintf(secret, sizeof(secret), "%s/secret", outside);
        if (fm_file_write(secret, "secret", 6, 0604, &err) < 0)
            abort();
    }
    if (mkdir(inside, 0700) < 0)
        abort();

    cut_input(data, size);
    fm_autofree uint8_t *archive = mend_headers(input.data[1], input.size[1]);
    input.data[1] = archive;
    fake_wire_open(&c, NULL, 0);
    if (fm_tree_receive(&c, inside, 1 << 20, &stats, &err) < 0 && !err.text[0])
        abort();
    fake_wire_close(&c);
    check_outside(outside);

    chmod(inside, 0700);
    if (fm_remove_tree(inside, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return 0;
}
