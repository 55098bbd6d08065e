// MetricsServer: GET /metrics over HTTP, for Prometheus. Plain text without authentication: it says
// how busy the engine is and nothing of what it is asked.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "rpc/metric_families.h"

namespace prometheus {
class Exposer;
}

namespace polystrate {

class MetricsServer {
 public:
  // Called for every scrape, on the server's own threads.
  using Source = std::function<MetricsSnapshot()>;

  // `address` is HOST:PORT; port 0 takes a free one. Errors as RpcServer::Start's, and a warning
  // when others than this machine can reach it.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              Source source);
  ~MetricsServer();  // after the last call of the source

  int port() const { return port_; }

 private:
  class Collector;
  explicit MetricsServer(Source source);

  std::shared_ptr<Collector> collector_;  // as the library wants it
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

}  // namespace polystrate
