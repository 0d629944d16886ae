#include "wire/tls.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <gnutls/x509.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"

#define PEM_MAX (1u << 20)
#define ISSUE_HINT "issue a new one with `fleximigrate cert issue`"

struct fm_tls_identity {
    gnutls_certificate_credentials_t credentials;
    char name[128];
};

/* A list of certificates as GnuTLS hands it out. */
struct chain {
    gnutls_x509_crt_t *items;
    unsigned int count;
};

static void free_chain(struct chain *chain)
{
    for (unsigned int i = 0; i < chain->count; i++)
        gnutls_x509_crt_deinit(chain->items[i]);
    gnutls_free(chain->items);
}

static void free_crt(gnutls_x509_crt_t *crt)
{
    if (*crt)
        gnutls_x509_crt_deinit(*crt);
}

static void free_key(gnutls_x509_privkey_t *key)
{
    if (*key)
        gnutls_x509_privkey_deinit(*key);
}

static const char *format_date(time_t when, char buf[16])
{
    struct tm tm;

    if (!gmtime_r(&when, &tm) || !strftime(buf, 16, "%Y-%m-%d", &tm))
        snprintf(buf, 16, "?");
    return buf;
}

static int load_chain(const char *path, struct chain *chain, struct fm_error *err)
{
    fm_autofree char *pem = NULL;
    gnutls_datum_t datum;
    size_t len;
    int ret = fm_file_read(path, PEM_MAX, &pem, &len, err);

    if (ret < 0)
        return ret;
    datum = (gnutls_datum_t){.data = (unsigned char *)pem, .size = (unsigned int)len};
    ret =
        gnutls_x509_crt_list_import2(&chain->items, &chain->count, &datum, GNUTLS_X509_FMT_PEM, 0);
    if (ret >= 0 && chain->count == 0)
        ret = GNUTLS_E_NO_CERTIFICATE_FOUND;
    if (ret < 0)
        return fm_error_set(err, FM_E_INVALID, "'%s' is not a PEM certificate: %s", path,
                            gnutls_strerror(ret));
    return 0;
}

static int load_key(const char *path, gnutls_x509_privkey_t *key, struct fm_error *err)
{
    fm_autofree char *pem = NULL;
    gnutls_datum_t datum;
    struct stat st;
    size_t len;
    int ret;

    if (stat(path, &st) < 0)
        return fm_error_errno(err, errno, "cannot read the key '%s'", path);
    if (st.st_mode & 077)
        return fm_error_set(err, FM_E_AUTH, "the key '%s' is open to others; run chmod 600 %s",
                            path, path);
    ret = fm_file_read(path, PEM_MAX, &pem, &len, err);
    if (ret < 0)
        return ret;
    datum = (gnutls_datum_t){.data = (unsigned char *)pem, .size = (unsigned int)len};
    gnutls_x509_privkey_init(key);
    ret = gnutls_x509_privkey_import2(*key, &datum, GNUTLS_X509_FMT_PEM, NULL, 0);
    gnutls_memset(pem, 0, len);
    if (ret < 0)
        return fm_error_set(err, FM_E_INVALID, "'%s' is not a PEM private key: %s", path,
                            gnutls_strerror(ret));
    return 0;
}

static int check_dates(gnutls_x509_crt_t crt, const char *what, struct fm_error *err)
{
    time_t begin = gnutls_x509_crt_get_activation_time(crt);
    time_t end = gnutls_x509_crt_get_expiration_time(crt);
    time_t now = time(NULL);
    char date[16];

    if (end < now)
        return fm_error_set(err, FM_E_AUTH, "certificate %s expired on %s; " ISSUE_HINT, what,
                            format_date(end, date));
    if (begin > now)
        return fm_error_set(
            err, FM_E_AUTH,
            "certificate %s is not valid before %s; set the clock right, or " ISSUE_HINT, what,
            format_date(begin, date));
    return 0;
}

/* An attribute of the subject; "" when there is none or when it is no plain text. */
static void read_attribute(gnutls_x509_crt_t crt, const char *oid, char *buf, size_t size)
{
    size_t len = size;

    if (gnutls_x509_crt_get_dn_by_oid(crt, oid, 0, 0, buf, &len) < 0 || strlen(buf) != len) {
        buf[0] = '\0';
        return;
    }
    for (const char *c = buf; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f) {
            buf[0] = '\0';
            return;
        }
    }
}

static int check_signature(const struct fm_tls_paths *paths, const struct chain *own,
                           const struct chain *authorities, struct fm_error *err)
{
    unsigned int status = 0;
    int ret = gnutls_x509_crt_list_verify(own->items, (int)own->count, authorities->items,
                                          (int)authorities->count, NULL, 0, 0, &status);

    if (ret == 0 && status == 0)
        return 0;
    return fm_error_set(err, FM_E_AUTH, "certificate %s is not signed by %s; " ISSUE_HINT,
                        paths->cert, paths->ca);
}

static int fill_identity(struct fm_tls_identity *identity, const struct fm_tls_paths *paths,
                         struct fm_error *err)
{
    fm_cleanup(free_chain) struct chain own = {0};
    fm_cleanup(free_chain) struct chain authorities = {0};
    fm_cleanup(free_key) gnutls_x509_privkey_t key = NULL;
    int ret;

    if (load_chain(paths->ca, &authorities, err) < 0 || load_chain(paths->cert, &own, err) < 0 ||
        load_key(paths->key, &key, err) < 0)
        return -1;
    for (unsigned int i = 0; i < authorities.count; i++) {
        if (check_dates(authorities.items[i], paths->ca, err) < 0)
            return -1;
    }
    if (check_dates(own.items[0], paths->cert, err) < 0 ||
        check_signature(paths, &own, &authorities, err) < 0)
        return -1;
    read_attribute(own.items[0], GNUTLS_OID_X520_COMMON_NAME, identity->name,
                   sizeof(identity->name));
    if (!identity->name[0])
        return fm_error_set(err, FM_E_AUTH, "certificate %s has no common name; " ISSUE_HINT,
                            paths->cert);

    ret = gnutls_certificate_set_x509_trust(identity->credentials, authorities.items,
                                            (int)authorities.count);
    if (ret > 0)
        ret =
            gnutls_certificate_set_x509_key(identity->credentials, own.items, (int)own.count, key);
    if (ret == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
        return fm_error_set(err, FM_E_AUTH,
                            "key %s does not belong to certificate %s; give the pair that was "
                            "issued together",
                            paths->key, paths->cert);
    if (ret < 0)
        return fm_error_set(err, FM_E_FAILED, "cannot use certificate %s: %s", paths->cert,
                            gnutls_strerror(ret));
    return 0;
}

struct fm_tls_identity *fm_tls_identity_load(const struct fm_tls_paths *paths, struct fm_error *err)
{
    struct fm_tls_identity *identity = fm_xcalloc(1, sizeof(*identity));
    int ret = gnutls_certificate_allocate_credentials(&identity->credentials);

    if (ret < 0) {
        fm_error_set(err, FM_E_FAILED, "cannot use certificates: %s", gnutls_strerror(ret));
    } else if (fill_identity(identity, paths, err) < 0) {
        gnutls_certificate_free_credentials(identity->credentials);
        ret = -1;
    }
    if (ret < 0)
        free(FM_MOVE(identity));
    return identity;
}

void fm_tls_identity_free(struct fm_tls_identity *identity)
{
    if (!identity)
        return;
    gnutls_certificate_free_credentials(identity->credentials);
    free(identity);
}

const char *fm_tls_identity_name(const struct fm_tls_identity *identity)
{
    return identity->name;
}

gnutls_certificate_credentials_t fm_tls_identity_credentials(const struct fm_tls_identity *identity)
{
    return identity->credentials;
}

static int read_peer(gnutls_session_t session, gnutls_x509_crt_t *crt, struct fm_tls_peer *peer,
                     struct fm_error *err)
{
    unsigned int count = 0;
    const gnutls_datum_t *raw = gnutls_certificate_get_peers(session, &count);

    if (!raw || count == 0)
        return fm_error_set(err, FM_E_AUTH, "the peer presented no certificate; " ISSUE_HINT);
    gnutls_x509_crt_init(crt);
    if (gnutls_x509_crt_import(*crt, &raw[0], GNUTLS_X509_FMT_DER) < 0)
        return fm_error_set(err, FM_E_AUTH, "the peer's certificate cannot be read");
    read_attribute(*crt, GNUTLS_OID_X520_COMMON_NAME, peer->name, sizeof(peer->name));
    read_attribute(*crt, GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME, peer->role, sizeof(peer->role));
    return 0;
}

/* The name in these texts is what the peer claims: nobody vouched for it yet. */
static int explain_status(unsigned int status, gnutls_x509_crt_t crt,
                          const struct fm_tls_peer *peer, struct fm_error *err)
{
    fm_autofree char *what = fm_strf("of '%s'", peer->name);
    gnutls_datum_t text = {0};

    if (status &
        (GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNER_NOT_CA | GNUTLS_CERT_SIGNATURE_FAILURE))
        return fm_error_set(err, FM_E_AUTH,
                            "certificate %s is not signed by our authority; issue both ends' "
                            "certificates from the same ca.pem",
                            what);
    if (status & (GNUTLS_CERT_EXPIRED | GNUTLS_CERT_NOT_ACTIVATED) &&
        check_dates(crt, what, err) < 0)
        return -FM_E_AUTH;
    gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
    fm_error_set(err, FM_E_AUTH, "certificate %s is not accepted: %s", what,
                 text.data ? (const char *)text.data : "?");
    gnutls_free(text.data);
    return -FM_E_AUTH;
}

int fm_tls_verify_peer(gnutls_session_t session, const char *expect_name, struct fm_tls_peer *peer,
                       struct fm_error *err)
{
    fm_cleanup(free_crt) gnutls_x509_crt_t crt = NULL;
    struct fm_tls_peer found = {0};
    unsigned int status = 0;
    int ret;

    if (gnutls_protocol_get_version(session) != GNUTLS_TLS1_3)
        return fm_error_set(err, FM_E_AUTH, "the peer does not speak TLS 1.3");
    if (read_peer(session, &crt, &found, err) < 0)
        return -FM_E_AUTH;
    ret = gnutls_certificate_verify_peers2(session, &status);
    if (ret < 0)
        return fm_error_set(err, FM_E_AUTH, "cannot verify the certificate of '%s': %s", found.name,
                            gnutls_strerror(ret));
    if (status)
        return explain_status(status, crt, &found, err);
    if (!found.name[0])
        return fm_error_set(err, FM_E_AUTH,
                            "the peer's certificate has no common name; " ISSUE_HINT);
    if (expect_name && strcmp(expect_name, found.name) != 0)
        return fm_error_set(err, FM_E_AUTH,
                            "the certificate names '%s', not '%s'; check the address of '%s'",
                            found.name, expect_name, expect_name);
    if (peer)
        *peer = found;
    return 0;
}
