// HttpServer: OpenAI's HTTP API in front of openengine.v1 services, with what operators look at.
//
//   POST /v1/completions, /v1/chat/completions    GET /v1/models, /v1/models/ID
//   GET /health, /version, /metrics, /status, /
//
// It is a client of a channel and knows nothing of who serves there, an engine or a coordinator.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "rpc/server_credentials.h"

namespace polystrate {

struct HttpOptions {
  // HTTPS; and with an api_key_file, /v1 and /status want one of its keys, the rest is open to all.
  ServerSecurity security;
  // Web pages of these origins may call; as "https://example.org". None: browsers let no other
  // page than our own.
  std::vector<std::string> allowed_origins;
  int64_t max_body_bytes = 32 << 20;  // of a request
  int max_connections = 1024;         // each has a thread
};

// Called on connections' threads, any number at a time.
struct HttpExtras {
  std::function<std::string()> metrics;  // Prometheus' text; none: /metrics is not found
  std::function<std::string()>
      status_json;                // what the status page shows; none: no / and no /status
  std::function<bool()> serving;  // what /health says; none: always
};

class HttpServer {
 public:
  // `listen` is HOST:PORT; port 0 takes a free one. Errors as CheckListenAddress, and a key file
  // that will not do. Warns when others than this machine can reach it.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& listen,
                                                           const HttpOptions& options,
                                                           std::shared_ptr<grpc::Channel> backend,
                                                           HttpExtras extras);
  ~HttpServer();

  int port() const;

  // Listens no more, and returns when the last answer is out. What is not by `deadline` is ended
  // with an error. Idempotent.
  void Shutdown(absl::Time deadline);

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace polystrate
