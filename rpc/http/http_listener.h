// HttpListener: httplib's server with connections of our own: a thread for each up to a bound,
// limits on what a client may hold, and an end that waits for answers but not for idle clients.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "httplib.h"
#include "rpc/http/http_connection.h"
#include "rpc/http/http_tls.h"

namespace polystrate {

// Handlers are set before Start() by httplib's own methods. There Request::progress, which
// httplib's clients alone use otherwise, tells whether the client is still there; its arguments
// mean nothing.
class HttpListener final : public httplib::Server {
 public:
  // `tls` null: plain text.
  HttpListener(const ConnectionLimits& limits, int max_connections, std::unique_ptr<HttpTls> tls);
  ~HttpListener() override;

  // Asked as soon as a request's headers are read: true when its body is not wanted. What is
  // answered then is the pre-routing handler's; after it the connection closes.
  using Refuses = std::function<bool(const httplib::Request&)>;

  // `address` is HOST:PORT; port 0 takes a free one. Errors as CheckListenAddress.
  absl::Status Start(const std::string& address, Refuses refuses);
  int port() const { return port_; }

  // Takes no new connections; those without a request end now, the others after their answer.
  void StopListening();
  // Waits for the latter; false when there still are some at `deadline`.
  bool AwaitIdle(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  // Breaks off what is left, and returns when all is over. Idempotent.
  void Join() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  bool process_and_close_socket(int socket) override;
  void Serve(HttpConnection* connection);
  bool ServeRequest(HttpConnection* connection);
  // When its headers are read. Returns how many bytes of a body are behind them.
  int64_t Prepare(HttpConnection* connection, httplib::Request* request);
  void Listen(const std::string& host);

  const ConnectionLimits limits_;
  const size_t max_connections_;
  const std::unique_ptr<HttpTls> tls_;
  Refuses refuses_;
  int port_ = 0;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  absl::Mutex mutex_;
  std::set<int> open_ ABSL_GUARDED_BY(mutex_);  // sockets
  std::set<int> idle_ ABSL_GUARDED_BY(mutex_);  // of these, those between two requests
};

}  // namespace polystrate
