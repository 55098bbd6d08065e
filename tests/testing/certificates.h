// Certificates for tests, made by the openssl program in a folder of the test's.
#pragma once

#include <string>

namespace polystrate {

struct CertificatePaths {
  std::string certificate;  // PEM
  std::string private_key;  // PEM
};

// A certificate that signs others: FOLDER/NAME.pem, FOLDER/NAME.key. CHECK-fails as all here.
CertificatePaths MakeAuthority(const std::string& folder, const std::string& name);

// One signed by `authority`, for 127.0.0.1 and the host engine.test: FOLDER/NAME.pem,
// FOLDER/NAME.key.
CertificatePaths MakeCertificate(const std::string& folder, const std::string& name,
                                 const CertificatePaths& authority);

// `private_key` under a passphrase, at `path`.
void EncryptKey(const std::string& private_key, const std::string& path);

}  // namespace polystrate
