#include "rpc/http/http_listener.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/status.h"
#include "rpc/http/connection_threads.h"
#include "rpc/http/openai_error.h"
#include "rpc/listen_address.h"

namespace polystrate {
namespace {

constexpr int kBacklog = 1024;  // httplib's own is 5, and who finds it full tries again in a second

void SetOption(int socket, int level, int option, int value) {
  setsockopt(socket, level, option, &value, sizeof(value));
}

// A client whose machine is gone is noticed within about two minutes.
void PrepareSocket(int socket) {
  fcntl(socket, F_SETFD, FD_CLOEXEC);
  fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
  SetOption(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPIDLE, 60);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPCNT, 6);
}

// Closing a socket on which something is unread would take the answer from the client as well.
void Close(int socket) {
  shutdown(socket, SHUT_WR);
  char unread[4096];
  for (int i = 0; i < 64 && recv(socket, unread, sizeof(unread), 0) > 0; ++i) {
  }
  close(socket);
}

// What is said where httplib does not get to say anything. The connection closes behind it.
void WriteError(absl::string_view status_line, const HttpError& error, HttpConnection* connection) {
  const std::string body = error.ToJson();
  const std::string answer =
      absl::StrCat("HTTP/1.1 ", status_line, "\r\nContent-Type: application/json\r\n",
                   "Connection: close\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
  connection->write(answer.data(), answer.size());
}

}  // namespace

HttpListener::HttpListener(const ConnectionLimits& limits, int max_connections,
                           std::unique_ptr<HttpTls> tls)
    : limits_(limits),
      max_connections_(static_cast<size_t>(max_connections)),
      tls_(std::move(tls)) {
  new_task_queue = [] { return new ConnectionThreads; };  // httplib deletes it
  set_payload_max_length(static_cast<size_t>(limits.max_body_bytes));
  set_keep_alive_timeout(absl::ToInt64Seconds(limits.idle_timeout));
  set_keep_alive_max_count(std::numeric_limits<int32_t>::max());
  // What connections of a server before us have left does not keep the port from us; another that
  // listens there does, which httplib's own choice of options has the other way round.
  set_socket_options([](int socket) { SetOption(socket, SOL_SOCKET, SO_REUSEADDR, 1); });
}

HttpListener::~HttpListener() { Join(); }

absl::Status HttpListener::Start(const std::string& address, Refuses refuses) {
  ASSIGN_OR_RETURN(const ListenAddress listen_address, CheckListenAddress(address));
  refuses_ = std::move(refuses);
  port_ = listen_address.port;
  const bool bound = port_ == 0 ? (port_ = bind_to_any_port(listen_address.host)) > 0
                                : bind_to_port(listen_address.host, port_);
  if (!bound) return absl::UnavailableError(absl::StrCat("cannot listen on ", address));
  ::listen(svr_sock_, kBacklog);
  thread_ = std::thread([this, host = listen_address.host] { Listen(host); });
  while (!is_running()) absl::SleepFor(absl::Milliseconds(1));
  return absl::OkStatus();
}

// A connection that broke before it was accepted ends httplib's loop; then it begins anew.
void HttpListener::Listen(const std::string& host) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  while (true) {
    listen_after_bind();
    if (stopping_) return;
    while (!stopping_ && !bind_to_port(host, port_)) absl::SleepFor(absl::Milliseconds(100));
    ::listen(svr_sock_, kBacklog);
  }
}

void HttpListener::StopListening() {
  if (stopping_.exchange(true) || !thread_.joinable()) return;
  stop();
  absl::MutexLock lock(&mutex_);
  for (const int socket : idle_) shutdown(socket, SHUT_RD);
}

bool HttpListener::AwaitIdle(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithDeadline(absl::Condition(
                                      +[](std::set<int>* open) { return open->empty(); }, &open_),
                                  deadline);
}

void HttpListener::Join() {
  StopListening();
  {
    absl::MutexLock lock(&mutex_);
    for (const int socket : open_) shutdown(socket, SHUT_RDWR);
  }
  if (thread_.joinable()) thread_.join();
}

bool HttpListener::process_and_close_socket(int socket) {
  PrepareSocket(socket);
  {
    absl::MutexLock lock(&mutex_);
    open_.insert(socket);
  }
  {
    HttpConnection connection(
        socket, limits_,
        tls_ == nullptr ? nullptr : std::make_unique<TlsSession>(tls_->Current(), socket));
    Serve(&connection);
  }
  {
    absl::MutexLock lock(&mutex_);
    open_.erase(socket);
  }
  Close(socket);
  return true;
}

void HttpListener::Serve(HttpConnection* connection) {
  bool full = false;
  {
    absl::MutexLock lock(&mutex_);
    full = open_.size() > max_connections_;
  }
  if (!full) {
    while (ServeRequest(connection)) {
    }
  } else if (tls_ == nullptr) {  // nobody shakes hands for that
    WriteError("503 Service Unavailable\r\nRetry-After: 1",
               HttpError(503, "too many connections are open"), connection);
  }
}

bool HttpListener::ServeRequest(HttpConnection* connection) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return false;
    idle_.insert(connection->socket());
  }
  const bool begun = connection->AwaitRequest();
  {
    absl::MutexLock lock(&mutex_);
    idle_.erase(connection->socket());
    if (!begun) return false;
  }
  bool close = false;
  bool prepared = false;
  // Of a request that could not be read, where the next one begins is not known.
  int64_t body_bytes = std::numeric_limits<int64_t>::max();
  const bool answered = process_request(*connection, /*close_connection=*/false, close,
                                        [&](httplib::Request& request) {
                                          prepared = true;
                                          body_bytes = Prepare(connection, &request);
                                        });
  if (!answered && !prepared && connection->limit_reached()) {
    WriteError("431 Request Header Fields Too Large",
               HttpError(431, absl::StrCat("the request's line is longer than ",
                                           limits_.max_header_bytes, " bytes")),
               connection);
  }
  return answered && !close && !stopping_ && connection->body_bytes_read() >= body_bytes;
}

int64_t HttpListener::Prepare(HttpConnection* connection, httplib::Request* request) {
  connection->BeginBody();
  request->progress = [connection](uint64_t, uint64_t) { return connection->ClientIsThere(); };
  // httplib would compress at the best and slowest setting.
  request->headers.erase("Accept-Encoding");
  // Of one header's thousands of ranges httplib would make as many copies of the answer.
  request->ranges.clear();
  int64_t body_bytes = 0;
  // Of two lengths a proxy may have believed the other one.
  if (request->has_header("Transfer-Encoding") ||
      request->get_header_value_count("Content-Length") > 1 ||
      (request->has_header("Content-Length") &&
       !absl::SimpleAtoi(request->get_header_value("Content-Length"), &body_bytes)) ||
      body_bytes < 0) {
    body_bytes = std::numeric_limits<int64_t>::max();  // in pieces, or nonsense, so not known
  } else if (!request->has_header("Content-Length")) {
    request->set_header("Content-Length", "0");  // httplib would wait for the client's end
  }
  const bool unread = refuses_(*request) || body_bytes > limits_.max_body_bytes;
  if (unread && body_bytes > 0) {
    request->headers.erase("Expect");
    request->headers.erase("Connection");
    request->set_header("Connection", "close");  // so that the answer says so
  }
  return body_bytes;
}

}  // namespace polystrate
