// A gRPC server as this program runs them, of an engine or of a coordinator: one port, its limits
// and credentials, grpc.health.v1 and reflection.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "rpc/server_credentials.h"

namespace polystrate {

struct RpcServerOptions {
  ServerSecurity security;
  int64_t max_message_bytes = 64 << 20;               // of one request or event; 1 KiB to 2 GiB - 1
  absl::Duration reader_timeout = absl::Seconds(30);  // ReaderWatch
};

// `address` is HOST:PORT; port 0 takes a free one, and *port is which. The services must outlive
// the server, which answers from then on. No request may be larger than `max_request_bytes` nor
// than the options allow. INVALID_ARGUMENT for an address that is none or not this machine's;
// UNAVAILABLE when the port is in use; what CreateServerCredentials finds wrong. Warns when others
// than this machine can reach it and it is in plaintext or open to all.
absl::StatusOr<std::unique_ptr<grpc::Server>> StartGrpcServer(
    const std::string& address, const RpcServerOptions& options, int64_t max_request_bytes,
    const std::vector<grpc::Service*>& services, int* port);

// To the services of this server, past its port, the keys that it wants and the limits of messages.
// Ends with the server.
std::shared_ptr<grpc::Channel> InProcessChannel(grpc::Server& server);

// What grpc.health.v1 says of the whole server and of each of these services.
void SetHealth(grpc::Server& server, const std::vector<std::string>& services, bool serving);

}  // namespace polystrate
