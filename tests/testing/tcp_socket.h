// A client's own socket, for connections that are to break or that begin elsewhere.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace polystrate {

// Connected to HOST:PORT, HOST in numbers, and non-blocking, as gRPC wants it
// (CreateInsecureChannelFromFd); the caller's. UNAVAILABLE when nobody answers within 5 s.
absl::StatusOr<int> ConnectTcp(const std::string& address);

}  // namespace polystrate
