#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "wire_hosts.h"

/* ---- Bad peers ---- */

static void expect_refusal(const struct fm_tls_identity *who, const char *name,
                           const char *client_says, const char *server_says)
{
    struct fm_error err = {0}, server_err = {0};

    assert_null(
        fm_connection_open(who, "127.0.0.1", fm_listener_port(listener), name, WAIT_MS, &err));
    if (!strstr(err.text, client_says))
        fail_msg("client: %s", err.text);
    assert_int_equal(err.code, FM_E_AUTH);
    if (server_says) {
        assert_null(take_served(&server_err));
        if (!strstr(server_err.text, server_says))
            fail_msg("server: %s", server_err.text);
        assert_int_equal(server_err.code, FM_E_AUTH);
    } else { /* the server had no objection, and learns of it when it reads */
        struct fm_connection *c = take_served(NULL);
        struct fm_frame frame;

        assert_non_null(c);
        assert_int_equal(fm_connection_recv(c, &frame, &server_err), -FM_E_AUTH);
        fm_connection_close(c);
    }
}

static void another_authority_is_refused(void **state)
{
    (void)state;
    expect_refusal(s, "b", "certificate of 'b' is not signed by our authority",
                   "certificate of 's' is not signed by our authority");
}

static void another_name_is_refused(void **state)
{
    (void)state;
    expect_refusal(a, "host-x", "the certificate names 'b', not 'host-x'", NULL);
}

static void another_role_is_refused(void **state)
{
    (void)state;
    expect_refusal(u, "b", "refused our certificate; it wants role node",
                   "certificate of 'u' has role operator, not node");
}

/* A peer that speaks TLS and then does as it likes. */
struct raw {
    gnutls_session_t session;
    gnutls_certificate_credentials_t credentials;
    int fd;
};

static int dial(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)fm_listener_port(listener)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* `cert` NULL: none. The handshake's result is the caller's to judge. */
static struct raw raw_open(const char *cert, const char *priority, int *result)
{
    struct raw r = {.fd = dial()};

    gnutls_certificate_allocate_credentials(&r.credentials);
    if (cert) {
        fm_autofree char *pem = fm_strf("%s/ours/%s.pem", scratch, cert);
        fm_autofree char *key = fm_strf("%s/ours/%s.key", scratch, cert);

        assert_int_equal(
            gnutls_certificate_set_x509_key_file(r.credentials, pem, key, GNUTLS_X509_FMT_PEM), 0);
    }
    gnutls_init(&r.session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    gnutls_priority_set_direct(r.session, priority, NULL);
    gnutls_credentials_set(r.session, GNUTLS_CRD_CERTIFICATE, r.credentials);
    gnutls_transport_set_int(r.session, r.fd);
    do {
        *result = gnutls_handshake(r.session);
    } while (*result < 0 && !gnutls_error_is_fatal(*result));
    return r;
}

/* Reads the server's greeting: a close with unread bytes would reset the connection. */
static void raw_greet(struct raw *r)
{
    char word[4];

    assert_int_equal(gnutls_record_recv(r->session, word, sizeof(word)), sizeof(word));
}

static void raw_close(struct raw *r)
{
    gnutls_deinit(r->session);
    gnutls_certificate_free_credentials(r->credentials);
    close(r->fd);
}

static void expect_server_error(enum fm_code code, const char *says)
{
    struct fm_error err = {0};

    assert_null(take_served(&err));
    if (!strstr(err.text, says))
        fail_msg("%s", err.text);
    assert_int_equal(err.code, code);
}

static void an_expired_certificate_is_refused(void **state)
{
    int result;
    struct raw r = raw_open("late", "NORMAL", &result);
    char byte;
    ssize_t n;

    (void)state;
    expect_server_error(FM_E_AUTH, "certificate of 'late' expired on 20");
    n = gnutls_record_recv(r.session, &byte, 1);
    assert_int_equal(n, GNUTLS_E_FATAL_ALERT_RECEIVED);
    assert_int_equal(gnutls_alert_get(r.session), GNUTLS_A_CERTIFICATE_EXPIRED);
    raw_close(&r);
}

static void no_certificate_is_refused(void **state)
{
    int result;
    struct raw r = raw_open(NULL, "NORMAL", &result);

    (void)state;
    expect_server_error(FM_E_AUTH, "presented no certificate");
    raw_close(&r);
}

static void tls_1_2_is_refused(void **state)
{
    int result;
    struct raw r = raw_open("a", "NORMAL:-VERS-ALL:+VERS-TLS1.2", &result);

    (void)state;
    assert_true(result < 0);
    expect_server_error(FM_E_PROTOCOL, "does not speak TLS 1.3");
    raw_close(&r);
}

static void plain_text_is_refused(void **state)
{
    fm_autoclose int fd = dial();

    (void)state;
    assert_int_equal(fm_write_full(fd, "GET / HTTP/1.1\r\n\r\n", 18), 0);
    expect_server_error(FM_E_PROTOCOL, "does not speak TLS 1.3");
}

static void a_peer_that_hangs_up_is_reported(void **state)
{
    close(dial());
    (void)state;
    expect_server_error(FM_E_UNREACHABLE, "while shaking hands");
}

static void nobody_there_is_unreachable(void **state)
{
    fm_autoclose int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    struct fm_error err = {0};
    int port;

    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    port = ntohs(address.sin_port);
    assert_null(fm_connection_open(a, "127.0.0.1", port, "b", WAIT_MS, &err));
    assert_int_equal(err.code, FM_E_UNREACHABLE);
    assert_non_null(strstr(err.text, "is fleximigrated running there?"));

    assert_int_equal(listen(fd, 1), 0); /* it takes the connection and stays silent */
    assert_null(fm_connection_open(a, "127.0.0.1", port, "b", 50, &err));
    assert_int_equal(err.code, FM_E_TIMEOUT);
    assert_null(fm_connection_open(a, "no-such-host.invalid", port, "b", WAIT_MS, &err));
    assert_int_equal(err.code, FM_E_UNREACHABLE);
}

/* ---- Bad frames ---- */

static void frame_header(uint8_t out[FM_FRAME_HEADER_SIZE], const char *payload, uint64_t sequence)
{
    struct fm_frame_header header = {.type = FM_FRAME_PING, .sequence = sequence};

    header.length = (uint32_t)strlen(payload);
    fm_frame_checksum(payload, header.length, header.checksum);
    fm_frame_header_encode(&header, out);
}

/* Sends these bytes from a proper node and hangs up; tells what the server makes of it. */
static void expect_recv_error(const void *bytes, size_t len, enum fm_code code, const char *says)
{
    int result;
    struct raw r = raw_open("a", "NORMAL", &result);
    struct fm_connection *c = take_served(NULL);
    struct fm_error err = {0}, again = {0};
    struct fm_frame frame;

    assert_int_equal(result, 0);
    assert_non_null(c);
    assert_int_equal(gnutls_record_send(r.session, bytes, len), (ssize_t)len);
    raw_greet(&r);
    raw_close(&r);
    fm_connection_recv(c, &frame, &err);
    if (!strstr(err.text, says))
        fail_msg("%s", err.text);
    assert_int_equal(err.code, code);
    /* Nothing that follows is looked at. */
    assert_int_equal(fm_connection_recv(c, &frame, &again), -(int)code);
    assert_string_equal(again.text, err.text);
    fm_connection_close(c);
}

static void broken_frames_end_the_connection(void **state)
{
    uint8_t bytes[FM_FRAME_HEADER_SIZE + 2];

    (void)state;
    memset(bytes, 0xa5, sizeof(bytes));
    expect_recv_error(bytes, sizeof(bytes), FM_E_PROTOCOL, "not a frame of ours");

    frame_header(bytes, "{}", 0);
    memcpy(bytes + FM_FRAME_HEADER_SIZE, "{]", 2);
    expect_recv_error(bytes, sizeof(bytes), FM_E_CHECKSUM, "arrived damaged");

    memcpy(bytes + FM_FRAME_HEADER_SIZE, "{}", 2);
    expect_recv_error(bytes, FM_FRAME_HEADER_SIZE + 1, FM_E_PROTOCOL, "in the middle of a frame");
    expect_recv_error(bytes, FM_FRAME_HEADER_SIZE - 1, FM_E_PROTOCOL, "in the middle of a frame");

    frame_header(bytes, "{}", 1);
    expect_recv_error(bytes, sizeof(bytes), FM_E_PROTOCOL, "frame 1 where 0 was expected");

    frame_header(bytes, "{}", 0);
    bytes[8] = 0x7f;
    expect_recv_error(bytes, sizeof(bytes), FM_E_PROTOCOL, "over the limit");
}

static void a_peer_that_dies_is_noticed(void **state)
{
    int result;
    struct raw r = raw_open("a", "NORMAL", &result);
    struct fm_connection *c = take_served(NULL);
    struct fm_error err = {0};
    struct fm_frame frame;

    (void)state;
    raw_greet(&r);
    raw_close(&r);
    assert_int_equal(fm_connection_recv(c, &frame, &err), -FM_E_CLOSED);
    assert_string_equal(err.text, "a went away without closing the connection");
    fm_connection_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_authority_is_refused),
        cmocka_unit_test(another_name_is_refused),
        cmocka_unit_test(another_role_is_refused),
        cmocka_unit_test(an_expired_certificate_is_refused),
        cmocka_unit_test(no_certificate_is_refused),
        cmocka_unit_test(tls_1_2_is_refused),
        cmocka_unit_test(plain_text_is_refused),
        cmocka_unit_test(a_peer_that_hangs_up_is_reported),
        cmocka_unit_test(nobody_there_is_unreachable),
        cmocka_unit_test(broken_frames_end_the_connection),
        cmocka_unit_test(a_peer_that_dies_is_noticed),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
