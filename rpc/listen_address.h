// HOST:PORT to listen on, looked at before gRPC gets it, which says no more than that it failed.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace polystrate {

struct ListenAddress {
  std::string host;  // without the brackets of IPv6
  int port = 0;
  bool loopback = false;  // only this machine can reach it
};

// HOST:PORT taken apart, nothing resolved: `loopback` is left false. INVALID_ARGUMENT.
absl::StatusOr<ListenAddress> SplitListenAddress(const std::string& address);

// Resolves the address and tries to bind it. INVALID_ARGUMENT for one that is malformed, unknown or
// not this machine's; UNAVAILABLE when the port is in use; PERMISSION_DENIED.
absl::StatusOr<ListenAddress> CheckListenAddress(const std::string& address);

}  // namespace polystrate
