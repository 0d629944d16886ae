/* Peers of a page stream that do not keep to the protocol: what they say is refused, and nothing of
 * it is used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "page_world.h"
#include "state/page_codec.h"
#include "wire/frame.h"

static const struct fm_page_sender_options plain = {.compression = FM_COMPRESS_NONE};

static void fill(uint8_t *memory, size_t size)
{
    memset(memory, 0xa5, size);
}

/* ---- A destination that speaks out of turn ---- */

/* A sender whose destinations are the test itself: one for each lane. */
struct stage {
    struct world w;
    struct fm_connection *destinations[LANES];
};

static void open_stage(struct stage *s, size_t lanes)
{
    struct fm_connection *connections[LANES];
    struct fm_error err = {0};

    *s = (struct stage){.w = {.size = 64 * fm_page_size()}};
    s->w.memory = mmap(NULL, s->w.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(s->w.memory != MAP_FAILED);
    start_child(&s->w, fill, NULL);
    for (size_t i = 0; i < lanes; i++) {
        assert_int_equal(wire_pair_connect(&pair), 0);
        connections[i] = FM_MOVE(pair.a);
        s->destinations[i] = FM_MOVE(pair.b);
    }
    s->w.sender = fm_page_sender_open(connections, lanes, &plain, &err);
    assert_non_null(s->w.sender);
}

static void close_stage(struct stage *s)
{
    fm_page_sender_close(s->w.sender);
    for (size_t i = 0; i < LANES; i++)
        fm_connection_close(s->destinations[i]);
    end_child(&s->w);
}

/* The next frame of this type; what comes before it is let pass. */
static json_t *await_frame(struct fm_connection *c, enum fm_frame_type type)
{
    struct fm_error err = {0};
    struct fm_frame frame;

    do {
        if (fm_connection_recv(c, &frame, &err) < 0)
            fail_msg("%s", err.text);
    } while (frame.type != type);
    return fm_frame_json(&frame, &err);
}

static void say(struct fm_connection *c, enum fm_frame_type type, const char *text)
{
    assert_int_equal(fm_connection_send(c, type, text, strlen(text), NULL), 0);
}

/* A destination's answer to the end of a round, and right ones to the ends that follow. */
struct answer {
    struct fm_connection *connection;
    enum fm_frame_type type;
    const char *text;
};

static void *give_answer(void *arg)
{
    const struct answer *a = arg;
    struct fm_error err = {0};
    struct fm_frame frame;

    for (const char *text = a->text; fm_connection_recv(a->connection, &frame, &err) == 0;) {
        if (frame.type != FM_FRAME_PAGES_SYNC)
            continue;
        if (text)
            fm_connection_send(a->connection, a->type, text, strlen(text), NULL);
        else
            fm_connection_send(a->connection, FM_FRAME_PAGES_SYNCED, frame.payload, frame.length,
                               NULL);
        text = NULL;
    }
    return NULL;
}

/* A sender that waits for the end of a round gets `text` for an answer. */
static int answered_with(enum fm_frame_type type, const char *text, struct fm_error *err)
{
    struct answer answer = {.type = type, .text = text};
    pthread_t thread;
    struct stage s;
    int rc;

    open_stage(&s, 1);
    answer.connection = s.destinations[0];
    assert_int_equal(pthread_create(&thread, NULL, give_answer, &answer), 0);
    add_all(&s.w, false);
    rc = fm_page_sender_sync(s.w.sender, WAIT_MS, err);
    fm_page_sender_close(FM_MOVE(s.w.sender));
    pthread_join(thread, NULL);
    close_stage(&s);
    return rc;
}

static void test_answers(void **state)
{
    static const struct {
        enum fm_frame_type type;
        const char *text;
        int code;
    } answers[] = {
        {FM_FRAME_PAGES_SYNCED, "{\"sequence\":1,\"bytes\":5}", 0}, /* the right one */
        {FM_FRAME_PAGES_SYNCED, "{\"sequence\":2}", FM_E_PROTOCOL},
        {FM_FRAME_PAGES_SYNCED, "{\"sequence\":0}", FM_E_PROTOCOL},
        {FM_FRAME_PAGES_SYNCED, "{\"sequence\":-1}", FM_E_PROTOCOL},
        {FM_FRAME_PAGES_SYNCED, "{\"sequence\":\"1\"}", FM_E_PROTOCOL},
        {FM_FRAME_PAGES_SYNCED, "{}", FM_E_PROTOCOL},
        {FM_FRAME_PAGES_SYNCED, "{\"sequence\":1", FM_E_PROTOCOL},
        {FM_FRAME_PAGES_WANT, "{\"pid\":1}", FM_E_PROTOCOL},
        {FM_FRAME_PAGES_WANT, "FMPG", FM_E_PROTOCOL},
        {FM_FRAME_PAGES, "FMPG", FM_E_PROTOCOL},
        {FM_FRAME_PAGES_SYNC, "{\"sequence\":1}", FM_E_PROTOCOL},
        {FM_FRAME_COMMIT, "{}", FM_E_PROTOCOL},
        {FM_FRAME_FAILED, "{\"code\":\"NO_SPACE\",\"message\":\"full\"}", FM_E_NO_SPACE},
        {FM_FRAME_FAILED, "{}", FM_E_FAILED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct fm_error err = {0};
        int rc = answered_with(answers[i].type, answers[i].text, &err);

        if (rc != -answers[i].code)
            fail_msg("%s %s: %d, %s", fm_frame_type_name(answers[i].type), answers[i].text, rc,
                     err.text);
    }
}

/* The end of a round is waited for again and again, and nothing goes out twice. */
static void test_never_synced(void **state)
{
    struct fm_error err = {0};
    struct fm_frame frame;
    unsigned barriers = 0;
    struct stage s;

    (void)state;
    open_stage(&s, 1);
    add_all(&s.w, false);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fm_page_sender_sync(s.w.sender, 20, &err), -FM_E_TIMEOUT);
    fm_connection_set_timeout(s.destinations[0], 200);
    while (fm_connection_recv(s.destinations[0], &frame, &err) == 0)
        barriers += frame.type == FM_FRAME_PAGES_SYNC;
    assert_int_equal(barriers, 1);
    close_stage(&s);
}

/* An answer that comes twice is one to nothing. */
static void test_synced_twice(void **state)
{
    struct fm_error err = {0};
    struct stage s;
    int rc = 0;

    (void)state;
    open_stage(&s, 1);
    add_all(&s.w, false);
    assert_int_equal(fm_page_sender_sync(s.w.sender, 20, &err), -FM_E_TIMEOUT);
    json_decref(await_frame(s.destinations[0], FM_FRAME_PAGES_SYNC));
    say(s.destinations[0], FM_FRAME_PAGES_SYNCED, "{\"sequence\":1,\"bytes\":0}");
    say(s.destinations[0], FM_FRAME_PAGES_SYNCED, "{\"sequence\":1,\"bytes\":0}");
    for (int i = 0; i < 100 && (rc == 0 || rc == -FM_E_TIMEOUT); i++)
        rc = fm_page_sender_sync(s.w.sender, 50, &err);
    assert_int_equal(rc, -FM_E_PROTOCOL);
    close_stage(&s);
}

/* Half of a stream is none: who is at the other ends has to notice. */
static void test_one_of_two_lost(void **state)
{
    struct fm_error err = {0};
    struct fm_frame frame;
    struct stage s;
    int rc;

    (void)state;
    open_stage(&s, 2);
    fm_connection_shutdown(s.destinations[0]);
    fm_connection_set_timeout(s.destinations[1], 5000);
    while ((rc = fm_connection_recv(s.destinations[1], &frame, &err)) == 0)
        continue;
    assert_int_equal(rc, -FM_E_CLOSED);
    assert_int_equal(fm_page_sender_sync(s.w.sender, WAIT_MS, &err), -FM_E_CLOSED);
    close_stage(&s);
}

/* Wishes for pages that there are not do not keep those from travelling that there are. */
static void test_senseless_wishes(void **state)
{
    static const char *const wishes[] = {
        "{\"pid\":0,\"address\":0}",
        "{\"pid\":-7,\"address\":-4096}",
        "{\"pid\":7,\"address\":1}",
        "{\"pid\":2147483648,\"address\":9223372036854775807}",
        "{\"pid\":7,\"address\":72057594037927936}",
    };
    struct fm_error err = {0};
    size_t pages = 0;
    struct fm_frame frame;
    struct stage s;

    (void)state;
    open_stage(&s, 1);
    for (size_t i = 0; i < 10000; i++)
        say(s.destinations[0], FM_FRAME_PAGES_WANT, wishes[i % (sizeof(wishes) / sizeof(*wishes))]);
    assert_int_equal(fm_page_sender_serve(s.w.sender, &err), 0);
    add_all(&s.w, true);
    assert_int_equal(fm_page_sender_sync(s.w.sender, 20, &err), -FM_E_TIMEOUT);
    do {
        struct fm_page_decoder *d = fm_page_decoder_new();
        struct fm_page_batch batch;

        assert_int_equal(fm_connection_recv(s.destinations[0], &frame, &err), 0);
        if (frame.type == FM_FRAME_PAGES) {
            assert_int_equal(fm_page_batch_decode(d, frame.payload, frame.length, &batch, &err), 0);
            for (size_t i = 0; i < batch.count; i++)
                pages += batch.runs[i].pages;
        }
        fm_page_decoder_free(d);
    } while (frame.type != FM_FRAME_PAGES_SYNC);
    assert_int_equal(pages, 64);
    close_stage(&s);
}

/* ---- A source that speaks out of turn ---- */

#define BASE UINT64_C(0x100000000000)

/* A store, its receiver, and a connection over which the test says what it likes. */
struct inlet {
    struct fm_page_store *store;
    struct fm_page_receiver *receiver;
    struct hearer hearer;
    struct fm_connection *source;
};

static void open_inlet(struct inlet *in)
{
    struct fm_error err = {0};

    *in = (struct inlet){0};
    snprintf(store_dir, sizeof(store_dir), "%s", STORE);
    assert_non_null(mkdtemp(store_dir));
    in->store = fm_page_store_open(store_dir,
                                   &(struct fm_page_room){.max_bytes = 64 * fm_page_size()}, &err);
    assert_non_null(in->store);
    in->receiver = fm_page_receiver_open(in->store, NULL, NULL);
    assert_int_equal(wire_pair_connect(&pair), 0);
    in->source = FM_MOVE(pair.a);
    in->hearer = (struct hearer){.connection = FM_MOVE(pair.b), .receiver = in->receiver};
    assert_int_equal(pthread_create(&in->hearer.thread, NULL, hear, &in->hearer), 0);
}

static void end_source(struct inlet *in)
{
    fm_connection_close(FM_MOVE(in->source));
    pthread_join(in->hearer.thread, NULL);
}

static void close_inlet(struct inlet *in)
{
    fm_connection_close(in->hearer.connection);
    fm_page_receiver_close(in->receiver);
    fm_page_store_close(in->store);
    fm_page_store_remove(store_dir, NULL);
}

/* Raw pages of `byte`, in one run. */
static void send_batch(struct inlet *in, pid_t inner_pid, uint64_t address, uint32_t pages,
                       uint8_t byte)
{
    struct fm_page_run run = {address, pages, (uint32_t)(pages * fm_page_size()), FM_PAGE_RAW};
    struct fm_page_batch batch = {
        .inner_pid = inner_pid, .body_size = run.bytes, .runs = &run, .count = 1};
    size_t len = FM_PAGE_BATCH_HEADER + run.bytes + FM_PAGE_BATCH_RUN;
    uint8_t *payload = fm_xmalloc(len);

    fm_page_batch_header(&batch, run.bytes, false, payload);
    memset(payload + FM_PAGE_BATCH_HEADER, byte, run.bytes);
    fm_page_batch_runs(&batch, payload + FM_PAGE_BATCH_HEADER + run.bytes);
    fm_connection_send(in->source, FM_FRAME_PAGES, payload, len, NULL);
    free(payload);
}

static void await_synced(struct inlet *in)
{
    say(in->source, FM_FRAME_PAGES_SYNC, "{\"sequence\":1}");
    json_decref(await_frame(in->source, FM_FRAME_PAGES_SYNCED));
}

/* The first page at BASE is what was sent first, those behind it are still zero. */
static void check_untouched(struct inlet *in, uint64_t pages)
{
    size_t page = fm_page_size();
    uint8_t *stored = fm_xmalloc(pages * page);

    assert_int_equal(fm_page_store_read(in->store, INNER_PID, BASE, stored, pages * page, NULL), 0);
    for (size_t i = 0; i < pages * page; i++)
        if (stored[i] != (i < page ? 1 : 0))
            fail_msg("byte %zu is %d", i, stored[i]);
    assert_int_equal(fm_page_store_bytes(in->store), page);
    free(stored);
}

typedef void (*abuse)(struct inlet *in);

static void flip_a_byte(struct inlet *in)
{
    fm_fault_arm("wire.corrupt-pages=fail:1");
    send_batch(in, INNER_PID, BASE, 2, 2);
    fm_fault_arm(NULL);
}

static void foreign_process(struct inlet *in)
{
    send_batch(in, FM_PAGE_PID_MAX + 1, BASE, 2, 2);
}

static void above_the_limit(struct inlet *in)
{
    send_batch(in, INNER_PID, FM_PAGE_ADDRESS_MAX - fm_page_size(), 2, 2);
}

static void too_many(struct inlet *in)
{
    send_batch(in, INNER_PID, BASE + fm_page_size(), 65, 2);
}

static void second_run_is_bad(struct inlet *in)
{
    size_t page = fm_page_size();
    struct fm_page_run runs[] = {
        {BASE, 1, (uint32_t)page, FM_PAGE_RAW},
        {BASE + 2 * page, 1, 16, FM_PAGE_DELTA}, /* a delta that makes no page */
    };
    struct fm_page_batch batch = {
        .inner_pid = INNER_PID, .body_size = page + 16, .runs = runs, .count = 2};
    size_t len = FM_PAGE_BATCH_HEADER + batch.body_size + 2 * FM_PAGE_BATCH_RUN;
    uint8_t *payload = fm_xmalloc(len);

    fm_page_batch_header(&batch, batch.body_size, false, payload);
    memset(payload + FM_PAGE_BATCH_HEADER, 0xff, batch.body_size);
    fm_page_batch_runs(&batch, payload + FM_PAGE_BATCH_HEADER + batch.body_size);
    fm_connection_send(in->source, FM_FRAME_PAGES, payload, len, NULL);
    free(payload);
}

static void no_sequence(struct inlet *in)
{
    say(in->source, FM_FRAME_PAGES_SYNC, "{}");
}

static void another_frame(struct inlet *in)
{
    say(in->source, FM_FRAME_DATA, "x");
}

static void test_source_abuses(void **state)
{
    static const struct {
        const char *what;
        abuse abuse;
        enum fm_code code;
    } cases[] = {
        {"a flipped byte", flip_a_byte, FM_E_CHECKSUM},
        {"no such process", foreign_process, FM_E_PROTOCOL},
        {"above the limit", above_the_limit, FM_E_PROTOCOL},
        {"more than was reserved", too_many, FM_E_NO_SPACE},
        {"a bad run behind a good one", second_run_is_bad, FM_E_PROTOCOL},
        {"a barrier without a number", no_sequence, FM_E_PROTOCOL},
        {"another frame", another_frame, FM_E_PROTOCOL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_t *answer;
        struct inlet in;

        open_inlet(&in);
        send_batch(&in, INNER_PID, BASE, 1, 1);
        await_synced(&in);
        cases[i].abuse(&in);
        answer = await_frame(in.source, FM_FRAME_ERROR);
        if (!answer ||
            fm_code_by_name(json_string_value(json_object_get(answer, "code"))) != cases[i].code)
            fail_msg("%s: %s", cases[i].what, in.hearer.err.text);
        json_decref(answer);
        check_untouched(&in, 8);
        /* Nothing is heard any more on that connection. */
        send_batch(&in, INNER_PID, BASE, 1, 3);
        end_source(&in);
        check_untouched(&in, 8);
        close_inlet(&in);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),          cmocka_unit_test(test_never_synced),
        cmocka_unit_test(test_synced_twice),     cmocka_unit_test(test_one_of_two_lost),
        cmocka_unit_test(test_senseless_wishes), cmocka_unit_test(test_source_abuses),
    };

    return cmocka_run_group_tests(tests, open_pair, close_pair);
}
