// What stands at the server's port: TLS, whose certificates may be replaced while it runs, and API
// keys.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"

namespace polystrate {

// Files, each empty when it is not wanted.
struct ServerSecurity {
  std::string tls_cert;       // TLS: PEM, the server's certificate and those up to its root
  std::string tls_key;        // its private key
  std::string tls_client_ca;  // mTLS: PEM certificates of which one must have signed the client's
  std::string api_key_file;   // every call but grpc.health.v1's must show one of its keys
};

// Reads the files; errors name the flag or the file and what is wrong. They are read again when a
// client comes and they have changed: certificates hold for connections made from then on, keys for
// calls. A replacement that is no good is reported on standard error and what was read before stays
// in force.
//
// A client shows its key in metadata, "authorization: Bearer KEY" or "x-api-key: KEY". Without a
// right one a call ends UNAUTHENTICATED before its message is read, whatever its method; methods do
// not see the key.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> CreateServerCredentials(
    const ServerSecurity& security);

}  // namespace polystrate
