#include "rpc/http/http_connection.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"

namespace polystrate {
namespace {

constexpr size_t kBufferBytes = 16 << 10;

void TellAddress(int (*function)(int, sockaddr*, socklen_t*), int socket, std::string* ip,
                 int* port) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  char host[NI_MAXHOST];
  char service[NI_MAXSERV];
  if (function(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return;
  if (getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host, sizeof(host), service,
                  sizeof(service), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return;
  }
  *ip = host;
  *port = std::atoi(service);
}

}  // namespace

HttpConnection::HttpConnection(int socket, const ConnectionLimits& limits,
                               std::unique_ptr<TlsSession> tls)
    : socket_(socket), limits_(limits), tls_(std::move(tls)), buffer_(kBufferBytes) {}

bool HttpConnection::Await(short events, absl::Time deadline) const {
  while (true) {
    const absl::Duration left = std::max(deadline - absl::Now(), absl::ZeroDuration());
    pollfd poll_fd{.fd = socket_, .events = events, .revents = 0};
    const int ready =
        poll(&poll_fd, 1,
             static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)))));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

ssize_t HttpConnection::Receive(char* data, size_t size, short* wait_for) {
  if (tls_ != nullptr) return tls_->Read(data, size, wait_for);
  const ssize_t received = recv(socket_, data, size, 0);
  if (received > 0) return received;
  *wait_for = received < 0 && (errno == EAGAIN || errno == EINTR) ? POLLIN : 0;
  return -1;
}

ssize_t HttpConnection::Transmit(const char* data, size_t size, short* wait_for) {
  if (tls_ != nullptr) return tls_->Write(data, size, wait_for);
  const ssize_t sent = send(socket_, data, size, MSG_NOSIGNAL);
  if (sent > 0) return sent;
  *wait_for = errno == EAGAIN || errno == EINTR ? POLLOUT : 0;
  return -1;
}

bool HttpConnection::Fill(absl::Time deadline) {
  while (true) {
    short wait_for = 0;
    const ssize_t size = Receive(buffer_.data(), buffer_.size(), &wait_for);
    if (size > 0) {
      begin_ = 0;
      end_ = static_cast<size_t>(size);
      return true;
    }
    if (wait_for == 0 || !Await(wait_for, deadline)) return false;
  }
}

bool HttpConnection::AwaitRequest() {
  if (begin_ == end_ && !Fill(absl::Now() + limits_.idle_timeout)) return false;
  read_deadline_ = absl::Now() + limits_.header_timeout;
  left_to_read_ = limits_.max_header_bytes;
  return true;
}

void HttpConnection::BeginBody() {
  read_deadline_ = absl::Now() + limits_.body_timeout;
  // A body in pieces has its frames besides.
  left_to_read_ = limits_.max_body_bytes + limits_.max_header_bytes;
  body_bytes_read_ = 0;
}

bool HttpConnection::ClientIsThere() const {
  pollfd poll_fd{.fd = socket_, .events = POLLRDHUP, .revents = 0};
  return poll(&poll_fd, 1, 0) <= 0;
}

ssize_t HttpConnection::read(char* data, size_t size) {
  if (left_to_read_ <= 0 || absl::Now() > read_deadline_) return -1;
  if (begin_ == end_ && !Fill(read_deadline_)) return -1;
  const size_t taken = std::min({size, end_ - begin_, static_cast<size_t>(left_to_read_)});
  std::memcpy(data, buffer_.data() + begin_, taken);
  begin_ += taken;
  left_to_read_ -= static_cast<int64_t>(taken);
  body_bytes_read_ += static_cast<int64_t>(taken);
  return static_cast<ssize_t>(taken);
}

ssize_t HttpConnection::write(const char* data, size_t size) {
  const absl::Time deadline = absl::Now() + limits_.write_timeout;
  while (true) {
    short wait_for = 0;
    const ssize_t sent = Transmit(data, size, &wait_for);
    if (sent > 0) return sent;
    if (wait_for == 0 || !Await(wait_for, deadline)) return -1;
  }
}

void HttpConnection::get_remote_ip_and_port(std::string& ip, int& port) const {
  TellAddress(getpeername, socket_, &ip, &port);
}

void HttpConnection::get_local_ip_and_port(std::string& ip, int& port) const {
  TellAddress(getsockname, socket_, &ip, &port);
}

}  // namespace polystrate
