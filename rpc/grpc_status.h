// Between absl::Status and grpc::Status: codes are the same numbers, and a retry delay
// (engine/retry_delay.h) is a google.rpc.RetryInfo in the trailer grpc-status-details-bin.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace polystrate {

// Messages are cut to a size that fits HTTP/2 trailers.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace polystrate
