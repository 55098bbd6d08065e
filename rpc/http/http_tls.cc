#include "rpc/http/http_tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <poll.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "rpc/tls_files.h"

namespace polystrate {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

Bio Memory(const std::string& text) {
  return {BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free};
}

Certificate NextCertificate(BIO* bio) {
  return {PEM_read_bio_X509(bio, nullptr, nullptr, nullptr), &X509_free};
}

// Both texts have been looked at by ReadTlsIdentity.
void UseIdentity(const TlsIdentity& identity, SSL_CTX* context) {
  const Bio certificates = Memory(identity.certificates);
  CHECK_EQ(SSL_CTX_use_certificate(context, NextCertificate(certificates.get()).get()), 1);
  while (const Certificate between = NextCertificate(certificates.get())) {
    SSL_CTX_add1_chain_cert(context, between.get());
  }
  EVP_PKEY* key =
      PEM_read_bio_PrivateKey(Memory(identity.private_key).get(), nullptr, nullptr, nullptr);
  CHECK_EQ(SSL_CTX_use_PrivateKey(context, key), 1);
  EVP_PKEY_free(key);
}

void DemandCertificate(const std::string& roots, SSL_CTX* context) {
  const Bio bio = Memory(roots);
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  while (const Certificate root = NextCertificate(bio.get()))
    X509_STORE_add_cert(store, root.get());
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
}

// HTTP/1.1 for a client that asks which, as all do that would rather speak HTTP/2.
int SelectHttp11(SSL*, const unsigned char** chosen, unsigned char* size,
                 const unsigned char* offered, unsigned int offered_size, void*) {
  static constexpr unsigned char kHttp11[] = "\x08http/1.1";
  unsigned char* selected = nullptr;
  const int result =
      SSL_select_next_proto(&selected, size, kHttp11, sizeof(kHttp11) - 1, offered, offered_size);
  *chosen = selected;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

}  // namespace

HttpTls::HttpTls(const ServerSecurity& security)
    : certificates_(security.tls_cert), private_key_(security.tls_key) {
  if (!security.tls_client_ca.empty()) client_ca_.emplace(security.tls_client_ca);
}

absl::StatusOr<std::unique_ptr<HttpTls>> HttpTls::Create(const ServerSecurity& security) {
  std::unique_ptr<HttpTls> tls(new HttpTls(security));
  absl::MutexLock lock(&tls->mutex_);
  RETURN_IF_ERROR(tls->Load());
  return tls;
}

absl::Status HttpTls::Load() {
  // Every file is read, also after an error, so that each change is reported once.
  absl::StatusOr<TlsIdentity> identity = ReadTlsIdentity(certificates_, private_key_);
  std::string roots;
  if (client_ca_.has_value()) {
    ASSIGN_OR_RETURN(roots, ReadTlsRoots(*client_ca_));
  }
  RETURN_IF_ERROR(identity.status());
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), &SSL_CTX_free);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context.get(), SelectHttp11, nullptr);
  UseIdentity(*identity, context.get());
  if (client_ca_.has_value()) DemandCertificate(roots, context.get());
  ERR_clear_error();  // of the ends of the texts
  current_ = std::move(context);
  return absl::OkStatus();
}

std::shared_ptr<SSL_CTX> HttpTls::Current() {
  absl::MutexLock lock(&mutex_);
  if (certificates_.Changed() || private_key_.Changed() ||
      (client_ca_.has_value() && client_ca_->Changed())) {
    const absl::Status status = Load();
    const std::string message(status.message());
    std::fprintf(stderr, "http: %s%s\n",
                 status.ok() ? "TLS certificates are read again" : message.c_str(),
                 status.ok() ? "" : "; the certificates of before stay in force");
  }
  return current_;
}

TlsSession::TlsSession(std::shared_ptr<SSL_CTX> context, int socket)
    : context_(std::move(context)), ssl_(SSL_new(context_.get())) {
  CHECK(ssl_ != nullptr);
  SSL_set_fd(ssl_, socket);
  SSL_set_accept_state(ssl_);
}

TlsSession::~TlsSession() {
  if (!broken_ && SSL_is_init_finished(ssl_)) SSL_shutdown(ssl_);
  ERR_clear_error();
  SSL_free(ssl_);
}

ssize_t TlsSession::Result(int result, short* wait_for) {
  if (result > 0) return result;
  switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_WANT_READ:
      *wait_for = POLLIN;
      break;
    case SSL_ERROR_WANT_WRITE:
      *wait_for = POLLOUT;
      break;
    default:
      *wait_for = 0;
      broken_ = true;
  }
  ERR_clear_error();  // it is the thread's, and the next session's would be taken for it
  return -1;
}

ssize_t TlsSession::Read(char* data, size_t size, short* wait_for) {
  const size_t most = std::numeric_limits<int>::max();
  return Result(SSL_read(ssl_, data, static_cast<int>(std::min(size, most))), wait_for);
}

ssize_t TlsSession::Write(const char* data, size_t size, short* wait_for) {
  const size_t most = std::numeric_limits<int>::max();
  return Result(SSL_write(ssl_, data, static_cast<int>(std::min(size, most))), wait_for);
}

}  // namespace polystrate
