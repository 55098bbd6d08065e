#include "rpc/grpc_server.h"

#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstdio>
#include <limits>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "kernels/core/status.h"
#include "rpc/listen_address.h"

namespace polystrate {
namespace {

void SetLimits(grpc::ServerBuilder* builder, int64_t max_message_bytes, int64_t max_request_bytes) {
  // What is larger is refused before it is read, so that clients cannot fill the memory with what
  // is of no use.
  builder->SetMaxReceiveMessageSize(
      static_cast<int>(std::min(max_message_bytes, max_request_bytes)));
  builder->SetMaxSendMessageSize(static_cast<int>(max_message_bytes));
  // What a connection may have open; a client's next call waits there for one to end.
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 8192);
  // Twice gRPC's: a gateway's tokens are long. It is for all of a call's metadata together.
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16 << 10);
}

void SetChannelArguments(grpc::ServerBuilder* builder) {
  // Two servers on a port would share its clients by chance.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A peer that vanished without a word is noticed within 40 s, streams or none.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Who connects and does not get through TLS holds a socket no longer than this.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 20'000);
  // Gateways ping every 30 s; gRPC's default of 300 s would have them thrown out.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
}

absl::Status CheckMessageBytes(int64_t bytes) {
  if (bytes >= 1024 && bytes <= std::numeric_limits<int>::max()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--max_message_bytes is ", bytes, "; it must be 1024 to ", std::numeric_limits<int>::max()));
}

// Of a port that other machines can reach.
void WarnOfOpenDoor(const std::string& address, const ServerSecurity& security) {
  if (security.tls_cert.empty()) {
    std::fprintf(stderr,
                 "warning: %s can be reached from other machines in plaintext, so prompts, answers "
                 "and keys can be read on the way; give --tls_cert and --tls_key, or keep it to a "
                 "network you trust\n",
                 address.c_str());
  }
  if (security.api_key_file.empty() && security.tls_client_ca.empty()) {
    std::fprintf(stderr,
                 "warning: %s can be reached from other machines by anyone; give --api_key_file or "
                 "--tls_client_ca, or keep it to a network you trust\n",
                 address.c_str());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<grpc::Server>> StartGrpcServer(
    const std::string& address, const RpcServerOptions& options, int64_t max_request_bytes,
    const std::vector<grpc::Service*>& services, int* port) {
  RETURN_IF_ERROR(CheckMessageBytes(options.max_message_bytes));
  ASSIGN_OR_RETURN(const ListenAddress listen, CheckListenAddress(address));
  ASSIGN_OR_RETURN(const auto credentials, CreateServerCredentials(options.security));
  // A client's bytes must not write the log: protobuf has a line for each text that is no UTF-8.
  google::protobuf::SetLogHandler(nullptr);
  // Both are process-wide switches that the builder reads.
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetLimits(&builder, options.max_message_bytes, max_request_bytes);
  SetChannelArguments(&builder);
  builder.AddListeningPort(address, credentials, port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || *port == 0) {
    return absl::UnavailableError(absl::StrCat("gRPC cannot listen on ", address));
  }
  if (!listen.loopback) WarnOfOpenDoor(address, options.security);
  return server;
}

std::shared_ptr<grpc::Channel> InProcessChannel(grpc::Server& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return server.InProcessChannel(arguments);
}

void SetHealth(grpc::Server& server, const std::vector<std::string>& services, bool serving) {
  grpc::HealthCheckServiceInterface* health = server.GetHealthCheckService();
  health->SetServingStatus(serving);  // of "" and of every service that has a status
  for (const std::string& service : services) health->SetServingStatus(service, serving);
}

}  // namespace polystrate
