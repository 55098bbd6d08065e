// The PEM files of TLS, looked at before gRPC gets them, which says no more than that it failed.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "rpc/watched_file.h"

namespace polystrate {

// Who one end says it is.
struct TlsIdentity {
  std::string certificates;  // its own, then those between it and the root
  std::string private_key;   // without a passphrase
};

// Errors name the file and what is wrong with it: missing, unreadable, not PEM, a key of another
// certificate. A certificate whose dates exclude today gets a warning on standard error.
absl::StatusOr<TlsIdentity> ReadTlsIdentity(WatchedFile& certificates, WatchedFile& private_key);

// Certificates of those that the other end's may be signed by.
absl::StatusOr<std::string> ReadTlsRoots(WatchedFile& file);

}  // namespace polystrate
