#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gnutls/x509.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "wire/authority.h"
#include "wire/tls.h"
#include "scratch.h"

static int issue(const char *ca, const char *name, const char *role, int days, const char *out,
                 struct fm_error *err)
{
    static const char *const addresses[] = {"10.0.0.1", "fd00::1", "a.example"};
    const struct fm_certificate_request request = {
        .name = name,
        .role = role,
        .addresses = addresses,
        .address_count = FM_COUNT(addresses),
        .days = days,
        .out_dir = at(out),
    };

    return fm_authority_issue(at(ca), &request, err);
}

static int make_authorities(void **state)
{
    struct fm_error err = {0};

    if (make_scratch(state) < 0 || fm_authority_init(at("ca"), "Test CA", 30, &err) < 0 ||
        fm_authority_init(at("ca2"), "Other CA", 30, &err) < 0 ||
        issue("ca", "a", FM_ROLE_NODE, 30, "pki", &err) < 0 ||
        issue("ca", "old", FM_ROLE_NODE, -1, "pki", &err) < 0 ||
        issue("ca2", "b", FM_ROLE_NODE, 30, "pki2", &err) < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static struct fm_tls_identity *load(const char *ca, const char *cert, const char *key,
                                    struct fm_error *err)
{
    const struct fm_tls_paths paths = {.ca = at(ca), .cert = at(cert), .key = at(key)};

    return fm_tls_identity_load(&paths, err);
}

static void a_good_pair_loads(void **state)
{
    struct fm_error err = {0};
    struct fm_tls_identity *identity = load("pki/ca.pem", "pki/a.pem", "pki/a.key", &err);

    (void)state;
    assert_non_null(identity);
    assert_string_equal(fm_tls_identity_name(identity), "a");
    assert_non_null(fm_tls_identity_credentials(identity));
    fm_tls_identity_free(identity);
    fm_tls_identity_free(NULL);
}

static void bad_pairs_say_what_to_do(void **state)
{
    static const struct {
        const char *ca, *cert, *key;
        enum fm_code code;
        const char *says;
    } bad[] = {
        {"pki/ca.pem", "pki/old.pem", "pki/old.key", FM_E_AUTH, "old.pem expired on 20"},
        {"pki/ca.pem", "pki2/b.pem", "pki2/b.key", FM_E_AUTH, "b.pem is not signed by "},
        {"pki/ca.pem", "pki/a.pem", "pki/old.key", FM_E_AUTH, "old.key does not belong to"},
        {"none.pem", "pki/a.pem", "pki/a.key", FM_E_NOT_FOUND, "none.pem"},
        {"pki/ca.pem", "none.pem", "pki/a.key", FM_E_NOT_FOUND, "none.pem"},
        {"pki/ca.pem", "pki/a.pem", "none.key", FM_E_NOT_FOUND, "none.key"},
        {"pki/ca.pem", "pki/a.key", "pki/a.key", FM_E_INVALID, "a.key' is not a PEM certificate"},
        {"pki/ca.pem", "pki/a.pem", "text", FM_E_INVALID, "text' is not a PEM private key"},
    };

    (void)state;
    assert_int_equal(fm_file_write(at("text"), "hello\n", 6, 0600, NULL), 0);
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct fm_error err = {0};

        assert_null(load(bad[i].ca, bad[i].cert, bad[i].key, &err));
        assert_non_null(strstr(err.text, bad[i].says));
        assert_int_equal(err.code, bad[i].code);
    }
}

static void an_open_key_is_refused(void **state)
{
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(chmod(at("pki/a.key"), 0640), 0);
    assert_null(load("pki/ca.pem", "pki/a.pem", "pki/a.key", &err));
    assert_int_equal(err.code, FM_E_AUTH);
    assert_non_null(strstr(err.text, "chmod 600 /tmp/"));
    assert_int_equal(chmod(at("pki/a.key"), 0600), 0);
}

static void keys_are_private(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(stat(at("ca/ca.key"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(stat(at("pki/a.key"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_false(fm_file_exists(at("pki/ca.key")));
}

static gnutls_x509_crt_t read_certificate(const char *name)
{
    fm_autofree char *pem = NULL;
    gnutls_x509_crt_t crt;
    size_t len;

    assert_int_equal(fm_file_read(at(name), 65536, &pem, &len, NULL), 0);
    assert_int_equal(gnutls_x509_crt_init(&crt), 0);
    assert_int_equal(gnutls_x509_crt_import(
                         crt,
                         &(gnutls_datum_t){.data = (unsigned char *)pem, .size = (unsigned int)len},
                         GNUTLS_X509_FMT_PEM),
                     0);
    return crt;
}

static void certificates_state_their_use(void **state)
{
    gnutls_x509_crt_t ca = read_certificate("ca/ca.pem");
    gnutls_x509_crt_t node = read_certificate("pki/a.pem");
    unsigned int usage = 0;

    (void)state;
    assert_int_equal(gnutls_x509_crt_get_ca_status(ca, NULL), 1);
    assert_int_equal(gnutls_x509_crt_get_ca_status(node, NULL), 0);
    assert_int_equal(gnutls_x509_crt_get_key_usage(ca, &usage, NULL), 0);
    assert_int_equal(usage, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
    assert_int_equal(gnutls_x509_crt_get_key_usage(node, &usage, NULL), 0);
    assert_int_equal(usage, GNUTLS_KEY_DIGITAL_SIGNATURE);
    assert_true(gnutls_x509_crt_check_hostname(node, "a"));
    assert_true(gnutls_x509_crt_check_hostname(node, "a.example"));
    assert_true(gnutls_x509_crt_check_ip(node, (const unsigned char[]){10, 0, 0, 1}, 4, 0));
    assert_false(gnutls_x509_crt_check_ip(node, (const unsigned char[]){10, 0, 0, 2}, 4, 0));
    assert_true(gnutls_x509_crt_check_key_purpose(node, GNUTLS_KP_TLS_WWW_SERVER, 0));
    assert_true(gnutls_x509_crt_check_key_purpose(node, GNUTLS_KP_TLS_WWW_CLIENT, 0));
    assert_int_equal(gnutls_x509_crt_check_issuer(node, ca), 1);
    gnutls_x509_crt_deinit(ca);
    gnutls_x509_crt_deinit(node);
}

static void users_cannot_serve(void **state)
{
    gnutls_x509_crt_t user;

    (void)state;
    assert_int_equal(issue("ca", "alice", FM_ROLE_OPERATOR, 30, "pki", NULL), 0);
    user = read_certificate("pki/alice.pem");
    assert_false(gnutls_x509_crt_check_key_purpose(user, GNUTLS_KP_TLS_WWW_SERVER, 0));
    assert_true(gnutls_x509_crt_check_key_purpose(user, GNUTLS_KP_TLS_WWW_CLIENT, 0));
    gnutls_x509_crt_deinit(user);
}

static void an_authority_is_never_replaced(void **state)
{
    fm_autofree char *before = NULL;
    fm_autofree char *after = NULL;
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(fm_file_read(at("ca/ca.pem"), 65536, &before, NULL, NULL), 0);
    assert_int_equal(fm_authority_init(at("ca"), "Again", 30, &err), -FM_E_EXISTS);
    assert_int_equal(issue("ca2", "a", FM_ROLE_NODE, 30, "pki", &err), -FM_E_EXISTS);
    assert_int_equal(issue("ca2", "x", FM_ROLE_NODE, 30, "ca", &err), -FM_E_EXISTS);
    assert_int_equal(fm_file_read(at("ca/ca.pem"), 65536, &after, NULL, NULL), 0);
    assert_string_equal(before, after);
    assert_int_equal(issue("ca", "a", FM_ROLE_NODE, 30, "pki", &err), 0); /* renewal */
    a_good_pair_loads(state);
}

static void bad_requests_are_refused(void **state)
{
    struct fm_error err = {0};

    (void)state;
    assert_int_equal(issue("ca", "../x", FM_ROLE_NODE, 30, "pki", &err), -FM_E_INVALID);
    assert_int_equal(issue("ca", "ca", FM_ROLE_NODE, 30, "pki", &err), -FM_E_INVALID);
    assert_int_equal(issue("ca", "x", "king", 30, "pki", &err), -FM_E_INVALID);
    assert_non_null(strstr(err.text, "use node, operator or viewer"));
    assert_int_equal(issue("none", "x", FM_ROLE_NODE, 30, "pki", &err), -FM_E_NOT_FOUND);
    assert_non_null(strstr(err.text, "fleximigrate cert init"));
    assert_int_equal(fm_authority_init(at("new"), "", 30, &err), -FM_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_pair_loads),
        cmocka_unit_test(bad_pairs_say_what_to_do),
        cmocka_unit_test(an_open_key_is_refused),
        cmocka_unit_test(keys_are_private),
        cmocka_unit_test(certificates_state_their_use),
        cmocka_unit_test(users_cannot_serve),
        cmocka_unit_test(an_authority_is_never_replaced),
        cmocka_unit_test(bad_requests_are_refused),
    };

    return cmocka_run_group_tests(tests, make_authorities, remove_scratch);
}
