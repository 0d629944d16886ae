/* Checkpoint images over a real connection: early, complete, verified. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "state/checkpoint.h"
#include "state/image_file.h"
#include "state/restore.h"
#include "state/stream.h"
#include "wire_pair.h"

#define MIB ((size_t)1 << 20)

struct fixture {
    struct wire_pair pair;
    char dir[32];
    char from[48];
    char to[48];
    struct fm_error err;
    /* Of the receiving thread: */
    pthread_t thread;
    uint64_t max_bytes;
    struct fm_restore_receiver *receiver;
    json_t *manifest;
    int rc;
    struct fm_error receive_error;
};

static int set_up(void **state)
{
    static struct fixture f;

    f = (struct fixture){.dir = "/tmp/fm-image-XXXXXX", .max_bytes = 1u << 30};
    *state = &f;
    if (!mkdtemp(f.dir) || wire_pair_open(&f.pair) < 0)
        return -1;
    snprintf(f.from, sizeof(f.from), "%s/from", f.dir);
    snprintf(f.to, sizeof(f.to), "%s/to", f.dir);
    return mkdir(f.from, 0755) | mkdir(f.to, 0755);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    fm_fault_arm(NULL);
    json_decref(f->manifest);
    wire_pair_close(&f->pair);
    return fm_remove_tree(f->dir, NULL);
}

static char *path_in(const char *dir, const char *name)
{
    return fm_strf("%s/%s", dir, name);
}

/* Appends `len` bytes that differ at every place. */
static void grow(const struct fixture *f, const char *name, size_t len)
{
    struct stat st;

    fm_autofree char *path = path_in(f->from, name);
    fm_autofree uint8_t *data = fm_xmalloc(len + 1);
    fm_autoclose int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(((size_t)st.st_size + i) * 2654435761u >> 13);
    assert_int_equal(fm_write_full(fd, data, len), 0);
}

static void same_file(const struct fixture *f, const char *name)
{
    fm_autofree char *a = path_in(f->from, name);
    fm_autofree char *b = path_in(f->to, name);
    fm_autofree char *x = NULL;
    fm_autofree char *y = NULL;
    size_t n = 0;
    size_t m = 1;

    assert_int_equal(fm_file_read(a, 1u << 30, &x, &n, NULL), 0);
    assert_int_equal(fm_file_read(b, 1u << 30, &y, &m, NULL), 0);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
}

/* --- the receiving side, as a destination does it: IMAGE frames until FROZEN
 * ------------------------ */

static int receive_frames(struct fixture *f)
{
    struct fm_frame frame;

    for (;;) {
        int rc = fm_connection_recv(f->pair.b, &frame, &f->receive_error);
        if (rc < 0)
            return rc;
        if (frame.type == FM_FRAME_FROZEN)
            break;
        if (frame.type != FM_FRAME_IMAGE)
            return fm_error_set(&f->receive_error, FM_E_PROTOCOL, "got %s",
                                fm_frame_type_name(frame.type));
        rc = fm_restore_receive_image(f->receiver, f->pair.b, &frame, &f->receive_error);
        if (rc < 0)
            return rc;
    }
    json_auto_t *frozen = fm_frame_json(&frame, &f->receive_error);
    f->manifest = json_incref(json_object_get(frozen, "manifest"));
    return 0;
}

static void *receive(void *arg)
{
    struct fixture *f = arg;
    uint64_t bytes = 0;

    f->receiver = fm_restore_receive_begin(f->to, f->max_bytes, &f->receive_error);
    f->rc = receive_frames(f);
    if (f->rc < 0) {
        fm_restore_receive_abort(f->receiver);
        fm_connection_shutdown(f->pair.b);
    } else {
        f->rc = fm_restore_receive_finish(f->receiver, f->manifest, &bytes, &f->receive_error);
    }
    return NULL;
}

static void receive_begin(struct fixture *f)
{
    assert_int_equal(pthread_create(&f->thread, NULL, receive, f), 0);
}

static int receive_end(struct fixture *f)
{
    pthread_join(f->thread, NULL);
    return f->rc;
}

static void send_manifest(struct fixture *f, json_t *manifest)
{
    json_auto_t *frozen = json_pack("{s:O}", "manifest", manifest);

    assert_int_equal(fm_connection_send_json(f->pair.a, FM_FRAME_FROZEN, frozen, &f->err), 0);
}

/* Blocks until this many bytes have left the sender. */
static void wait_sent(const struct fixture *f, uint64_t bytes)
{
    uint64_t deadline = fm_now_us() + 10000000;

    while (fm_connection_sent(f->pair.a) < bytes && fm_now_us() < deadline)
        poll(NULL, 0, 1);
    assert_true(fm_connection_sent(f->pair.a) >= bytes);
}

/* --- tests
 * --------------------------------------------------------------------------------------------- */

static void images_arrive_while_they_are_written(void **state)
{
    struct fixture *f = *state;
    struct fm_checkpoint_stats stats;

    grow(f, "pages-1.img", 3 * MIB + 17);
    receive_begin(f);
    struct fm_checkpoint_sender *s = fm_checkpoint_send_begin(f->pair.a, f->from, &f->err);
    assert_non_null(s);
    wait_sent(f, 3 * MIB);
    grow(f, "pages-2.img", 2 * MIB);
    wait_sent(f, 5 * MIB);
    grow(f, "pages-1.img", 2 * MIB);
    wait_sent(f, 7 * MIB);
    grow(f, "core-1.img", 1000);
    grow(f, "inventory.img", 20);
    grow(f, "empty.img", 0);
    grow(f, "pages-3.img", 0);

    json_auto_t *manifest = fm_checkpoint_send_finish(s, &stats, &f->err);
    assert_non_null(manifest);
    assert_int_equal(stats.files, 6);
    assert_int_equal(stats.bytes, 7 * MIB + 17 + 1020);
    assert_int_equal(stats.early_bytes, 7 * MIB);
    send_manifest(f, manifest);
    if (receive_end(f) < 0)
        fail_msg("%s", f->receive_error.text);
    for (size_t i = 0; i < json_array_size(manifest); i++)
        same_file(f, json_string_value(json_object_get(json_array_get(manifest, i), "name")));
}

static void many_small_files_travel_together(void **state)
{
    struct fixture *f = *state;
    struct fm_checkpoint_stats stats;
    char name[32];

    for (size_t i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "core-%zu.img", i);
        grow(f, name, i * 137);
    }
    grow(f, "bundled.img", FM_IMAGE_BUNDLED_MAX);
    grow(f, "large.img", FM_IMAGE_BUNDLED_MAX + 1);
    grow(f, "larger.img", 3 * MIB + 1);
    receive_begin(f);
    struct fm_checkpoint_sender *s = fm_checkpoint_send_begin(f->pair.a, f->from, &f->err);
    json_auto_t *manifest = fm_checkpoint_send_finish(s, &stats, &f->err);
    assert_non_null(manifest);
    assert_int_equal(stats.files, 203);
    send_manifest(f, manifest);
    if (receive_end(f) < 0)
        fail_msg("%s", f->receive_error.text);
    for (size_t i = 0; i < json_array_size(manifest); i++)
        same_file(f, json_string_value(json_object_get(json_array_get(manifest, i), "name")));
}

static void only_regular_files_travel(void **state)
{
    struct fixture *f = *state;
    struct fm_checkpoint_stats stats;

    fm_autofree char *fifo = path_in(f->from, "fifo");
    fm_autofree char *link = path_in(f->from, "link.img");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink("/etc/passwd", link), 0);
    grow(f, ".hidden", 5);
    grow(f, "core-1.img", 5);
    receive_begin(f);
    struct fm_checkpoint_sender *s = fm_checkpoint_send_begin(f->pair.a, f->from, &f->err);
    json_auto_t *manifest = fm_checkpoint_send_finish(s, &stats, &f->err);
    assert_non_null(manifest);
    assert_int_equal(stats.files, 1);
    send_manifest(f, manifest);
    assert_int_equal(receive_end(f), 0);
}

static void an_abort_leaves_the_connection_usable(void **state)
{
    struct fixture *f = *state;

    receive_begin(f);
    struct fm_checkpoint_sender *s = fm_checkpoint_send_begin(f->pair.a, f->from, &f->err);
    grow(f, "pages-1.img", 20 * MIB);
    wait_sent(f, 2 * MIB);
    fm_checkpoint_send_abort(s);
    assert_int_equal(fm_connection_send_json(f->pair.a, FM_FRAME_ABORT, NULL, &f->err), 0);
    assert_int_equal(receive_end(f), -FM_E_PROTOCOL);
    assert_string_equal(f->receive_error.text, "got ABORT");
    fm_checkpoint_send_abort(NULL);
}

static void a_changed_byte_is_a_checksum_mismatch(void **state)
{
    struct fixture *f = *state;

    grow(f, "pages-1.img", 3 * MIB);
    receive_begin(f);
    fm_fault_arm("wire.corrupt-data=fail:2");
    struct fm_checkpoint_sender *s = fm_checkpoint_send_begin(f->pair.a, f->from, &f->err);
    assert_int_equal(receive_end(f), -FM_E_CHECKSUM);
    json_auto_t *manifest = fm_checkpoint_send_finish(s, NULL, &f->err);
    (void)manifest;
}

static void a_dead_receiver_is_noticed(void **state)
{
    struct fixture *f = *state;

    fm_connection_close(f->pair.b);
    f->pair.b = NULL;
    grow(f, "pages-1.img", 40 * MIB);
    struct fm_checkpoint_sender *s = fm_checkpoint_send_begin(f->pair.a, f->from, &f->err);
    json_auto_t *manifest = fm_checkpoint_send_finish(s, NULL, &f->err);
    assert_null(manifest);
    assert_true(f->err.code != FM_E_OK);
    assert_true(f->err.text[0] != '\0');
}

static void a_missing_directory_is_reported(void **state)
{
    struct fixture *f = *state;

    assert_null(fm_checkpoint_send_begin(f->pair.a, "/nonexistent", &f->err));
    assert_int_equal(f->err.code, FM_E_NOT_FOUND);
    assert_null(fm_restore_receive_begin("/nonexistent", 1, &f->err));
}

static void more_than_was_reserved_is_refused(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    f->max_bytes = 2 * MIB + MIB / 2;
    grow(f, "pages-1.img", 2 * MIB);
    grow(f, "pages-2.img", 2 * MIB);
    receive_begin(f);
    struct fm_checkpoint_sender *s = fm_checkpoint_send_begin(f->pair.a, f->from, &f->err);
    assert_int_equal(receive_end(f), -FM_E_NO_SPACE);
    json_auto_t *manifest = fm_checkpoint_send_finish(s, NULL, &f->err);
    (void)manifest;
    fm_autofree char *first = path_in(f->to, "pages-1.img");
    fm_autofree char *second = path_in(f->to, "pages-2.img");
    uint64_t written = 0;
    written += stat(first, &st) == 0 ? (uint64_t)st.st_size : 0;
    written += stat(second, &st) == 0 ? (uint64_t)st.st_size : 0;
    assert_true(written <= f->max_bytes);
}

/* A restore that was armed early has read descriptors.json already; the one that comes replaces it.
 */
static void a_file_that_is_there_is_replaced_not_followed(void **state)
{
    struct fixture *f = *state;

    fm_autofree char *victim = path_in(f->dir, "victim");
    fm_autofree char *planted = path_in(f->to, "descriptors.json");
    assert_int_equal(fm_file_write(victim, "keep", 4, 0600, NULL), 0);
    assert_int_equal(symlink(victim, planted), 0);
    grow(f, "descriptors.json", 30);
    receive_begin(f);
    struct fm_checkpoint_sender *s = fm_checkpoint_send_begin(f->pair.a, f->from, &f->err);
    json_auto_t *manifest = fm_checkpoint_send_finish(s, NULL, &f->err);
    send_manifest(f, manifest);
    assert_int_equal(receive_end(f), 0);
    same_file(f, "descriptors.json");
    fm_autofree char *text = fm_file_line(victim);
    assert_string_equal(text, "keep");
}

/* --- hostile senders
 * ----------------------------------------------------------------------------------------- */

static void send_image(struct fixture *f, const char *name, json_int_t offset, const char *text)
{
    struct fm_stream stream;

    json_auto_t *image = json_pack("{s:s,s:I}", "name", name, "offset", offset);
    fm_stream_init(&stream, f->pair.a);
    fm_connection_send_json(f->pair.a, FM_FRAME_IMAGE, image, NULL);
    if (text) {
        fm_stream_send(&stream, text, strlen(text), NULL);
        fm_stream_send_end(&stream, NULL);
    }
    fm_stream_clear(&stream);
}

static void unusable_names_are_refused(void **state)
{
    static const char *const names[] = {"../evil", "/tmp/fm-evil", "a/b", ".", "..", ".hidden",
                                        "",        "a b",          "a\nb"};
    struct fixture *f = *state;

    for (size_t i = 0; i < FM_COUNT(names); i++) {
        assert_false(fm_image_name_valid(names[i]));
        wire_pair_disconnect(&f->pair);
        assert_int_equal(wire_pair_connect(&f->pair), 0);
        receive_begin(f);
        send_image(f, names[i], 0, NULL);
        assert_int_equal(receive_end(f), -FM_E_PROTOCOL);
    }
    char longest[FM_IMAGE_NAME_MAX + 2];
    memset(longest, 'a', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    assert_false(fm_image_name_valid(longest));
    longest[sizeof(longest) - 2] = '\0';
    assert_true(fm_image_name_valid(longest));
    assert_false(fm_image_name_valid(NULL));
}

static void offsets_must_fit(void **state)
{
    static const json_int_t offsets[] = {1, 6, -1, INT64_MAX, INT64_MIN};
    struct fixture *f = *state;

    for (size_t i = 0; i < FM_COUNT(offsets); i++) {
        wire_pair_disconnect(&f->pair);
        assert_int_equal(wire_pair_connect(&f->pair), 0);
        receive_begin(f);
        send_image(f, "a.img", 0, "12345");
        send_image(f, "a.img", offsets[i], NULL);
        assert_int_equal(receive_end(f), -FM_E_PROTOCOL);
    }
}

static int receive_bundle(struct fixture *f, const char *bundle, const char *text)
{
    struct fm_stream stream;

    wire_pair_disconnect(&f->pair);
    assert_int_equal(wire_pair_connect(&f->pair), 0);
    receive_begin(f);
    json_auto_t *image = json_pack("{s:o}", "bundle", json_loads(bundle, 0, NULL));
    fm_stream_init(&stream, f->pair.a);
    fm_connection_send_json(f->pair.a, FM_FRAME_IMAGE, image, NULL);
    fm_stream_send(&stream, text, strlen(text), NULL);
    fm_stream_send_end(&stream, NULL);
    fm_stream_clear(&stream);
    fm_connection_send_json(f->pair.a, FM_FRAME_FROZEN, NULL, NULL);
    return receive_end(f);
}

static void bundles_must_fit(void **state)
{
    static const struct {
        const char *bundle;
        const char *text;
    } wrong[] = {
        {"[{\"name\":\"a\",\"bytes\":5}]", "1234"},
        {"[{\"name\":\"a\",\"bytes\":5}]", "123456"},
        {"[{\"name\":\"a\",\"bytes\":5}]", ""},
        {"[{\"name\":\"a\",\"bytes\":0}]", "1"},
        {"[{\"name\":\"a\",\"bytes\":-1}]", ""},
        {"[{\"name\":\"a\",\"bytes\":9223372036854775807}]", "1"},
        {"[{\"name\":\"a\",\"bytes\":1},{\"name\":\"a\",\"bytes\":1}]", "11"},
        {"[{\"name\":\"../a\",\"bytes\":1}]", "1"},
        {"[{\"name\":\"a\"}]", "1"},
        {"[7]", "1"},
        {"{}", "1"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < FM_COUNT(wrong); i++) {
        if (receive_bundle(f, wrong[i].bundle, wrong[i].text) != -FM_E_PROTOCOL)
            fail_msg("bundle %zu: %s", i, f->receive_error.text);
    }
    /* The same, well-formed, is refused only for its missing manifest. */
    assert_int_equal(receive_bundle(f, "[{\"name\":\"a\",\"bytes\":1}]", "1"), -FM_E_PROTOCOL);
    assert_non_null(strstr(f->receive_error.text, "manifest"));
    f->max_bytes = 4;
    assert_int_equal(receive_bundle(f, "[{\"name\":\"a\",\"bytes\":5}]", "12345"), -FM_E_NO_SPACE);
}

static int receive_with_manifest(struct fixture *f, json_t *manifest)
{
    wire_pair_disconnect(&f->pair);
    assert_int_equal(wire_pair_connect(&f->pair), 0);
    json_decref(f->manifest);
    f->manifest = NULL;
    receive_begin(f);
    send_image(f, "a.img", 0, "12345");
    send_image(f, "b.img", 0, "");
    json_auto_t *owned = manifest;
    send_manifest(f, owned);
    return receive_end(f);
}

static void the_manifest_must_match(void **state)
{
    struct fixture *f = *state;
    struct fm_stream a;
    struct fm_stream b;
    char da[FM_STREAM_DIGEST_SIZE];
    char db[FM_STREAM_DIGEST_SIZE];

    /* The digests, without a wire. */
    receive_begin(f);
    fm_stream_init(&a, f->pair.a);
    fm_stream_init(&b, f->pair.a);
    fm_stream_send(&a, "12345", 5, NULL);
    fm_stream_digest(&a, da);
    fm_stream_digest(&b, db);
    fm_stream_clear(&a);
    fm_stream_clear(&b);
    assert_int_equal(receive_end(f), -FM_E_PROTOCOL);

    static const char ok[] = "[{s:s,s:i,s:s},{s:s,s:i,s:s}]";
#define FILE_(name, bytes, digest) "name", name, "bytes", bytes, "digest", digest
    assert_int_equal(
        receive_with_manifest(f, json_pack(ok, FILE_("a.img", 5, da), FILE_("b.img", 0, db))), 0);
    assert_int_equal(
        receive_with_manifest(f, json_pack(ok, FILE_("a.img", 5, db), FILE_("b.img", 0, db))),
        -FM_E_CHECKSUM);
    assert_int_equal(
        receive_with_manifest(f, json_pack(ok, FILE_("a.img", 4, da), FILE_("b.img", 0, db))),
        -FM_E_CHECKSUM);
    assert_int_equal(
        receive_with_manifest(f, json_pack(ok, FILE_("a.img", 5, da), FILE_("c.img", 0, db))),
        -FM_E_CHECKSUM);
    assert_int_equal(
        receive_with_manifest(f, json_pack(ok, FILE_("a.img", 5, da), FILE_("a.img", 5, da))),
        -FM_E_PROTOCOL);
    assert_int_equal(receive_with_manifest(f, json_pack("[{s:s,s:i,s:s}]", FILE_("a.img", 5, da))),
                     -FM_E_CHECKSUM);
    assert_int_equal(receive_with_manifest(f, json_pack("[i,i]", 1, 2)), -FM_E_PROTOCOL);
    assert_int_equal(receive_with_manifest(f, json_pack("{s:i}", "a", 1)), -FM_E_PROTOCOL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(images_arrive_while_they_are_written),
        TEST(many_small_files_travel_together),
        TEST(only_regular_files_travel),
        TEST(an_abort_leaves_the_connection_usable),
        TEST(a_changed_byte_is_a_checksum_mismatch),
        TEST(a_dead_receiver_is_noticed),
        TEST(a_missing_directory_is_reported),
        TEST(more_than_was_reserved_is_refused),
        TEST(a_file_that_is_there_is_replaced_not_followed),
        TEST(unusable_names_are_refused),
        TEST(offsets_must_fit),
        TEST(bundles_must_fit),
        TEST(the_manifest_must_match),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
