#include "rpc/tls_files.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Freer<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

Bio Memory(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// OpenSSL would ask the terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

// The first certificate of a file all of whose certificates can be read.
absl::StatusOr<Certificate> FirstCertificate(const std::string& text, const std::string& path) {
  const Bio bio = Memory(text);
  Certificate first(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
  bool whole = first != nullptr;
  while (whole) {
    const Certificate next(PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, nullptr));
    if (next != nullptr) continue;
    whole = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;  // the end
    break;
  }
  ERR_clear_error();
  if (whole) return first;
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": holds ", first == nullptr ? "no" : "a damaged",
      " certificate; it takes PEM, blocks that begin with -----BEGIN CERTIFICATE-----"));
}

absl::StatusOr<PrivateKey> ParsePrivateKey(const std::string& text, const std::string& path) {
  PrivateKey key(PEM_read_bio_PrivateKey(Memory(text).get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (key != nullptr) return key;
  return absl::InvalidArgumentError(
      absl::StrCat(path,
                   ": holds no private key; it takes PEM without a passphrase, a block that "
                   "begins with -----BEGIN PRIVATE KEY-----"));
}

void WarnOfDates(const X509* certificate, const std::string& path) {
  const char* problem = nullptr;
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) problem = "is not valid yet";
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) problem = "has expired";
  if (problem == nullptr) return;
  std::fprintf(stderr, "warning: %s: the certificate %s; the other end will refuse it\n",
               path.c_str(), problem);
}

}  // namespace

absl::StatusOr<TlsIdentity> ReadTlsIdentity(WatchedFile& certificates, WatchedFile& private_key) {
  TlsIdentity identity;
  // Both are read, whatever one is like, so that one's change is not met again and again.
  absl::StatusOr<std::string> certificates_text = certificates.Read();
  absl::StatusOr<std::string> private_key_text = private_key.Read();
  ASSIGN_OR_RETURN(identity.certificates, std::move(certificates_text));
  ASSIGN_OR_RETURN(identity.private_key, std::move(private_key_text));
  ASSIGN_OR_RETURN(const Certificate own,
                   FirstCertificate(identity.certificates, certificates.path()));
  ASSIGN_OR_RETURN(const PrivateKey key, ParsePrivateKey(identity.private_key, private_key.path()));
  const bool match = X509_check_private_key(own.get(), key.get()) == 1;
  ERR_clear_error();
  if (!match) {
    return absl::InvalidArgumentError(absl::StrCat(
        private_key.path(), ": is not the key of the first certificate in ", certificates.path()));
  }
  WarnOfDates(own.get(), certificates.path());
  if (private_key.readable_by_all()) {
    std::fprintf(stderr, "warning: %s can be read by every user of this machine; chmod 600 it\n",
                 private_key.path().c_str());
  }
  return identity;
}

absl::StatusOr<std::string> ReadTlsRoots(WatchedFile& file) {
  ASSIGN_OR_RETURN(std::string text, file.Read());
  RETURN_IF_ERROR(FirstCertificate(text, file.path()).status());
  return text;
}

}  // namespace polystrate
