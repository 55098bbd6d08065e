#include "rpc/metrics_server.h"

#include <dlfcn.h>
#include <pthread.h>

#include <cstdio>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "prometheus/collectable.h"
#include "prometheus/exposer.h"
#include "rpc/listen_address.h"

// The HTTP library asks for threads of 100 KiB, whatever one tells it. A thread's stack holds the
// thread-local memory of all libraries too, of which cuBLASLt has 94 KB: no thread could start. So
// this program's threads get at least what follows, by a name that goes before the C library's.
extern "C" int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size) noexcept {
  constexpr size_t kLeast = 512 * 1024;
  using SetStackSize = int (*)(pthread_attr_t*, size_t);
  static const auto set =
      reinterpret_cast<SetStackSize>(dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  return set(attributes, size < kLeast ? kLeast : size);
}

namespace polystrate {

class MetricsServer::Collector final : public prometheus::Collectable {
 public:
  explicit Collector(Source source) : source_(std::move(source)) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    return MetricFamilies(source_());
  }

 private:
  const Source source_;
};

MetricsServer::MetricsServer(Source source)
    : collector_(std::make_shared<Collector>(std::move(source))) {}

MetricsServer::~MetricsServer() = default;

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    Source source) {
  ASSIGN_OR_RETURN(const ListenAddress listen, CheckListenAddress(address));
  if (listen.host.find(':') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot serve metrics on ", address, ": the HTTP library speaks IPv4 alone"));
  }
  std::unique_ptr<MetricsServer> server(new MetricsServer(std::move(source)));
  // A client that says nothing holds one of the threads until the time-out.
  const std::vector<std::string> options = {"listening_ports",    address, "num_threads", "4",
                                            "request_timeout_ms", "5000"};
  try {
    server->exposer_ = std::make_unique<prometheus::Exposer>(options);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what()));
  }
  server->exposer_->RegisterCollectable(server->collector_, "/metrics");
  server->port_ = server->exposer_->GetListeningPorts().at(0);
  if (!listen.loopback) {
    std::fprintf(stderr,
                 "warning: %s can be reached from other machines and serves metrics in plain text "
                 "to anybody\n",
                 address.c_str());
  }
  return server;
}

}  // namespace polystrate
