#include "wire/authority.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include <gnutls/crypto.h>
#include <gnutls/x509.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "wire/tls.h"

#define PEM_MAX (1u << 20)
#define DAY 86400
#define CLOCK_SKEW 300 /* a host whose clock is a little late must accept it at once */

/* A certificate and its key. */
struct pair {
    gnutls_x509_crt_t crt;
    gnutls_x509_privkey_t key;
};

static void free_pair(struct pair *pair)
{
    gnutls_x509_crt_deinit(pair->crt);
    gnutls_x509_privkey_deinit(pair->key);
}

static struct pair new_pair(void)
{
    struct pair pair = {0};

    gnutls_x509_crt_init(&pair.crt);
    gnutls_x509_privkey_init(&pair.key);
    return pair;
}

/* GnuTLS results: the first failure stays. */
static void keep(int *result, int ret)
{
    if (*result >= 0)
        *result = ret;
}

static int tls_error(struct fm_error *err, int ret, const char *what)
{
    return fm_error_set(err, FM_E_FAILED, "cannot %s: %s", what, gnutls_strerror(ret));
}

/* What every certificate has: a fresh key, a serial number, a name and dates. */
static int begin_certificate(struct pair *pair, const char *name, int days)
{
    time_t now = time(NULL);
    time_t end = now + (time_t)days * DAY;
    time_t begin = now - CLOCK_SKEW < end ? now - CLOCK_SKEW : end - DAY;
    unsigned char serial[16], id[64];
    size_t id_len = sizeof(id);
    int ret = gnutls_x509_privkey_generate(pair->key, GNUTLS_PK_ECDSA,
                                           GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);

    keep(&ret, gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial)));
    serial[0] = (serial[0] & 0x3f) | 0x40; /* positive, and always 16 bytes long */
    keep(&ret, gnutls_x509_crt_set_version(pair->crt, 3));
    keep(&ret, gnutls_x509_crt_set_serial(pair->crt, serial, sizeof(serial)));
    keep(&ret, gnutls_x509_crt_set_dn_by_oid(pair->crt, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                             (unsigned int)strlen(name)));
    keep(&ret, gnutls_x509_crt_set_activation_time(pair->crt, begin));
    keep(&ret, gnutls_x509_crt_set_expiration_time(pair->crt, end));
    keep(&ret, gnutls_x509_crt_set_key(pair->crt, pair->key));
    keep(&ret, gnutls_x509_crt_get_key_id(pair->crt, 0, id, &id_len));
    keep(&ret, gnutls_x509_crt_set_subject_key_id(pair->crt, id, id_len));
    return ret;
}

static int write_certificate(const char *path, gnutls_x509_crt_t crt, struct fm_error *err)
{
    gnutls_datum_t pem = {0};
    int ret = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &pem);

    if (ret < 0)
        return tls_error(err, ret, "encode the certificate");
    ret = fm_file_write(path, pem.data, pem.size, 0644, err);
    gnutls_free(pem.data);
    return ret;
}

static int write_key(const char *path, gnutls_x509_privkey_t key, struct fm_error *err)
{
    gnutls_datum_t pem = {0};
    int ret =
        gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &pem);

    if (ret < 0)
        return tls_error(err, ret, "encode the key");
    ret = fm_file_write(path, pem.data, pem.size, 0600, err);
    gnutls_memset(pem.data, 0, pem.size);
    gnutls_free(pem.data);
    return ret;
}

int fm_authority_init(const char *dir, const char *name, int days, struct fm_error *err)
{
    fm_autofree char *crt_path = fm_strf("%s/ca.pem", dir);
    fm_autofree char *key_path = fm_strf("%s/ca.key", dir);
    fm_cleanup(free_pair) struct pair ca = new_pair();
    int ret;

    if (!name || !*name)
        return fm_error_set(err, FM_E_INVALID, "the authority needs a name");
    if (fm_file_exists(crt_path) || fm_file_exists(key_path))
        return fm_error_set(err, FM_E_EXISTS,
                            "'%s' has an authority already; it is not replaced, because all its "
                            "certificates would become worthless",
                            dir);
    ret = begin_certificate(&ca, name, days);
    keep(&ret, gnutls_x509_crt_set_basic_constraints(ca.crt, 1, 0));
    keep(&ret,
         gnutls_x509_crt_set_key_usage(ca.crt, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN));
    keep(&ret, gnutls_x509_crt_sign2(ca.crt, ca.crt, ca.key, GNUTLS_DIG_SHA256, 0));
    if (ret < 0)
        return tls_error(err, ret, "make the authority");
    ret = fm_mkdir_p(dir, 0755, err);
    if (ret == 0)
        ret = write_key(key_path, ca.key, err);
    return ret < 0 ? ret : write_certificate(crt_path, ca.crt, err);
}

/* The file's text, as a datum that points into *pem. */
static int read_pem(const char *path, char **pem, gnutls_datum_t *datum, struct fm_error *err)
{
    size_t len;
    int ret = fm_file_read(path, PEM_MAX, pem, &len, err);

    if (ret < 0) {
        if (ret == -FM_E_NOT_FOUND)
            return fm_error_set(err, FM_E_NOT_FOUND,
                                "there is no authority: '%s' is missing; make one with "
                                "`fleximigrate cert init`",
                                path);
        return ret;
    }
    *datum = (gnutls_datum_t){.data = (unsigned char *)*pem, .size = (unsigned int)len};
    return 0;
}

static int load_authority(const char *dir, struct pair *ca, struct fm_error *err)
{
    fm_autofree char *crt_path = fm_strf("%s/ca.pem", dir);
    fm_autofree char *key_path = fm_strf("%s/ca.key", dir);
    fm_autofree char *crt_pem = NULL;
    fm_autofree char *key_pem = NULL;
    gnutls_datum_t datum;
    int ret = read_pem(crt_path, &crt_pem, &datum, err);

    if (ret < 0)
        return ret;
    if (gnutls_x509_crt_import(ca->crt, &datum, GNUTLS_X509_FMT_PEM) < 0)
        return fm_error_set(err, FM_E_INVALID, "'%s' is not a PEM certificate", crt_path);
    ret = read_pem(key_path, &key_pem, &datum, err);
    if (ret < 0)
        return ret;
    ret = gnutls_x509_privkey_import2(ca->key, &datum, GNUTLS_X509_FMT_PEM, NULL, 0);
    gnutls_memset(key_pem, 0, datum.size);
    if (ret < 0)
        return fm_error_set(err, FM_E_INVALID, "'%s' is not a PEM private key", key_path);
    return 0;
}

static int add_address(gnutls_x509_crt_t crt, const char *address)
{
    unsigned char ip[16];

    if (inet_pton(AF_INET, address, ip) == 1)
        return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, ip, 4,
                                                    GNUTLS_FSAN_APPEND);
    if (inet_pton(AF_INET6, address, ip) == 1)
        return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, ip, 16,
                                                    GNUTLS_FSAN_APPEND);
    return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, address,
                                                (unsigned int)strlen(address), GNUTLS_FSAN_APPEND);
}

static int add_subject(gnutls_x509_crt_t crt, const struct fm_certificate_request *request)
{
    bool listed = false;
    int ret = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME, 0,
                                            request->role, (unsigned int)strlen(request->role));

    for (size_t i = 0; i < request->address_count; i++) {
        keep(&ret, add_address(crt, request->addresses[i]));
        listed = listed || fm_streq(request->addresses[i], request->name);
    }
    if (!listed)
        keep(&ret, add_address(crt, request->name));
    return ret;
}

/* Nodes call each other: their certificates serve both ends of a connection. */
static int add_usage(gnutls_x509_crt_t crt, const char *role)
{
    int ret = gnutls_x509_crt_set_basic_constraints(crt, 0, -1);

    keep(&ret, gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE));
    keep(&ret, gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_CLIENT, 0));
    if (fm_streq(role, FM_ROLE_NODE))
        keep(&ret, gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_SERVER, 0));
    return ret;
}

static int sign(gnutls_x509_crt_t crt, const struct pair *ca)
{
    unsigned char id[64];
    size_t len = sizeof(id);
    int ret = 0;

    if (gnutls_x509_crt_get_subject_key_id(ca->crt, id, &len, NULL) >= 0)
        ret = gnutls_x509_crt_set_authority_key_id(crt, id, len);
    keep(&ret, gnutls_x509_crt_sign2(crt, ca->crt, ca->key, GNUTLS_DIG_SHA256, 0));
    return ret;
}

static int check_request(const struct fm_certificate_request *request, struct fm_error *err)
{
    int ret = fm_check_name("certificate name", request->name, err);

    if (ret < 0)
        return ret;
    if (fm_streq(request->name, "ca"))
        return fm_error_set(err, FM_E_INVALID, "the name 'ca' belongs to the authority itself");
    if (!fm_streq(request->role, FM_ROLE_NODE) && !fm_streq(request->role, FM_ROLE_OPERATOR) &&
        !fm_streq(request->role, FM_ROLE_VIEWER))
        return fm_error_set(err, FM_E_INVALID, "unknown role '%s'; use node, operator or viewer",
                            request->role ? request->role : "");
    return 0;
}

/* Copies ca.pem beside the certificate, but never over another authority's. */
static int copy_authority(const char *out_dir, const struct pair *ca, struct fm_error *err)
{
    fm_autofree char *path = fm_strf("%s/ca.pem", out_dir);
    fm_autofree char *pem = NULL;
    gnutls_datum_t ours = {0};
    bool same;
    size_t len;
    int ret;

    if (!fm_file_exists(path))
        return write_certificate(path, ca->crt, err);
    ret = fm_file_read(path, PEM_MAX, &pem, &len, err);
    if (ret < 0)
        return ret;
    ret = gnutls_x509_crt_export2(ca->crt, GNUTLS_X509_FMT_PEM, &ours);
    if (ret < 0)
        return tls_error(err, ret, "encode the certificate");
    same = len == ours.size && memcmp(pem, ours.data, len) == 0;
    gnutls_free(ours.data);
    if (!same)
        return fm_error_set(err, FM_E_EXISTS,
                            "'%s' is another authority's; choose another directory, or remove it",
                            path);
    return 0;
}

int fm_authority_issue(const char *ca_dir, const struct fm_certificate_request *request,
                       struct fm_error *err)
{
    fm_cleanup(free_pair) struct pair ca = new_pair();
    fm_cleanup(free_pair) struct pair leaf = new_pair();
    fm_autofree char *crt_path = NULL;
    fm_autofree char *key_path = NULL;
    int ret = check_request(request, err);

    if (ret == 0)
        ret = load_authority(ca_dir, &ca, err);
    if (ret < 0)
        return ret;
    ret = begin_certificate(&leaf, request->name, request->days);
    keep(&ret, add_subject(leaf.crt, request));
    keep(&ret, add_usage(leaf.crt, request->role));
    keep(&ret, sign(leaf.crt, &ca));
    if (ret < 0)
        return tls_error(err, ret, "make the certificate");

    crt_path = fm_strf("%s/%s.pem", request->out_dir, request->name);
    key_path = fm_strf("%s/%s.key", request->out_dir, request->name);
    ret = fm_mkdir_p(request->out_dir, 0755, err);
    if (ret == 0)
        ret = copy_authority(request->out_dir, &ca, err);
    if (ret == 0)
        ret = write_key(key_path, leaf.key, err);
    return ret < 0 ? ret : write_certificate(crt_path, leaf.crt, err);
}
