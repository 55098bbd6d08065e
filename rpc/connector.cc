#include "rpc/connector.h"

#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "rpc/api_keys.h"
#include "rpc/tls_files.h"

namespace polystrate {
namespace {

namespace experimental = grpc::experimental;

// gRPC's own call credentials refuse to go over plaintext, where a sidecar may do the encrypting.
class SendKey final : public experimental::Interceptor {
 public:
  explicit SendKey(const std::string& authorization) : authorization_(authorization) {}

  void Intercept(experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", authorization_);
    }
    methods->Proceed();
  }

 private:
  const std::string authorization_;
};

class SendKeyFactory final : public experimental::ClientInterceptorFactoryInterface {
 public:
  explicit SendKeyFactory(const std::string& key) : authorization_("Bearer " + key) {}

  experimental::Interceptor* CreateClientInterceptor(experimental::ClientRpcInfo*) override {
    return new SendKey(authorization_);  // gRPC deletes it
  }

 private:
  const std::string authorization_;
};

absl::Status CheckTogether(const ConnectorOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls_cert and --tls_key are given together or not at all");
  }
  const bool tls_wanted = !options.tls_cert.empty() || !options.tls_server_name.empty();
  if (tls_wanted && options.tls_ca.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.tls_cert.empty() ? "--tls_server_name" : "--tls_cert",
                     " needs --tls_ca, without which there is no TLS; for a certificate that the "
                     "system trusts it is /etc/ssl/certs/ca-certificates.crt"));
  }
  return absl::OkStatus();
}

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

}  // namespace

// gRPC would look for a name without a port for as long as it may.
absl::Status CheckTarget(const std::string& target) {
  constexpr size_t kMostBytes = 255 + 6;  // of a name in DNS, and :65535
  const size_t colon = target.rfind(':');
  int port = 0;
  const bool visible =
      absl::c_all_of(target, [](char c) { return c > ' ' && c <= '~' && c != '/'; });
  if (visible && target.size() <= kMostBytes && colon != std::string::npos && colon > 0 &&
      absl::SimpleAtoi(target.substr(colon + 1), &port) && port > 0 && port <= 65535) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("--target is \"", target.substr(0, kMostBytes),
                                                 "\"; it takes HOST:PORT, as 127.0.0.1:50051"));
}

absl::StatusOr<Connector> Connector::Create(const ConnectorOptions& options) {
  RETURN_IF_ERROR(CheckTogether(options));
  Connector connector;
  if (!options.tls_ca.empty()) {
    grpc::SslCredentialsOptions ssl;
    WatchedFile roots(options.tls_ca);
    ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadTlsRoots(roots));
    if (!options.tls_cert.empty()) {
      WatchedFile certificates(options.tls_cert);
      WatchedFile private_key(options.tls_key);
      ASSIGN_OR_RETURN(TlsIdentity identity, ReadTlsIdentity(certificates, private_key));
      ssl.pem_cert_chain = std::move(identity.certificates);
      ssl.pem_private_key = std::move(identity.private_key);
    }
    connector.credentials_ = grpc::SslCredentials(ssl);
    connector.secure_ = true;
    connector.tls_server_name_ = options.tls_server_name;
  }
  if (!options.api_key_file.empty()) {
    WatchedFile file(options.api_key_file);
    ASSIGN_OR_RETURN(const std::vector<std::string> keys, ReadApiKeys(file));
    connector.api_key_ = keys.front();
  }
  return connector;
}

std::shared_ptr<grpc::Channel> Connector::Connect(const std::string& target,
                                                  std::optional<KeepAlive> keep_alive) const {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // no bound: the server says what it sends
  arguments.SetMaxSendMessageSize(-1);
  // What one channel learnt of a port that refused, the next one does not inherit.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Engines are near; a proxy that the environment names for the web does not lead to them.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (keep_alive.has_value()) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(keep_alive->interval));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(keep_alive->timeout));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  }
  if (!tls_server_name_.empty()) arguments.SetSslTargetNameOverride(tls_server_name_);
  if (api_key_.empty()) return grpc::CreateCustomChannel(target, credentials_, arguments);
  std::vector<std::unique_ptr<experimental::ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<SendKeyFactory>(api_key_));
  return experimental::CreateCustomChannelWithInterceptors(target, credentials_, arguments,
                                                           std::move(interceptors));
}

}  // namespace polystrate
