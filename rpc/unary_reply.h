// What services that answer at once have in common.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "grpcpp/grpcpp.h"
#include "rpc/grpc_status.h"

namespace polystrate {

// Ends a unary call; its response has been filled in if the status is OK.
inline grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context,
                                       const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// 64 bits that no other process has: instance ids, prefixes of request ids, seeds.
inline uint64_t Random64() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}
inline std::string RandomHex() { return absl::StrFormat("%016x", Random64()); }

}  // namespace polystrate
