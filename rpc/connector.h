// Connector: how a client comes to an engine: in plaintext or by TLS, with a key or without.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"

namespace polystrate {

// Files, each empty when it is not wanted.
struct ConnectorOptions {
  std::string tls_ca;           // TLS: PEM certificates of which one must have signed the server's
  std::string tls_cert;         // mTLS: PEM, what this client shows
  std::string tls_key;          // mTLS: its private key
  std::string tls_server_name;  // what the server's certificate must say; else the target's host
  std::string api_key_file;     // its first key goes with every call
};

// Pings on a connection on which nothing comes, also when it has no calls. A server that takes them
// less often ends the connection.
struct KeepAlive {
  absl::Duration interval;
  absl::Duration timeout;  // without an answer the connection is broken
};

// INVALID_ARGUMENT unless `target` is HOST:PORT.
absl::Status CheckTarget(const std::string& target);

class Connector {
 public:
  // In plaintext, without a key.
  Connector() : credentials_(grpc::InsecureChannelCredentials()) {}

  // Reads the files. Errors name the flag or the file and what is wrong, never a key.
  static absl::StatusOr<Connector> Create(const ConnectorOptions& options);

  // A channel to HOST:PORT that connects when the first call is made. It shares its connection with
  // no other channel, takes messages of any size and sends the key with each call, also where there
  // is no TLS to keep it secret.
  std::shared_ptr<grpc::Channel> Connect(const std::string& target,
                                         std::optional<KeepAlive> keep_alive = std::nullopt) const;

  bool secure() const { return secure_; }  // by TLS

 private:
  std::shared_ptr<grpc::ChannelCredentials> credentials_;
  bool secure_ = false;
  std::string tls_server_name_;
  std::string api_key_;
};

}  // namespace polystrate
