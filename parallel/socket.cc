#include "parallel/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

absl::Status SocketError(const std::string& what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(error)));
}

void SendAtOnce(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

// Bound to a free port of `address`; -1 when it cannot be.
int BindTo(const sockaddr* address, socklen_t size) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  const int zero = 0;  // IPv4 too
  if (address->sa_family == AF_INET6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
  }
  if (bind(fd, address, size) == 0) return fd;
  close(fd);
  return -1;
}

int BindAny() {
  sockaddr_in6 v6 = {};
  v6.sin6_family = AF_INET6;
  v6.sin6_addr = in6addr_any;
  const int fd = BindTo(reinterpret_cast<sockaddr*>(&v6), sizeof(v6));
  if (fd >= 0) return fd;
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v4.sin_addr.s_addr = htonl(INADDR_ANY);
  return BindTo(reinterpret_cast<sockaddr*>(&v4), sizeof(v4));
}

int BindLoopback() {
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return BindTo(reinterpret_cast<sockaddr*>(&v4), sizeof(v4));
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<Socket> Socket::Listen(bool loopback, int* port) {
  Socket socket(loopback ? BindLoopback() : BindAny());
  if (socket.fd() < 0 || listen(socket.fd(), SOMAXCONN) != 0) {
    return SocketError("cannot listen for the ranks' monitors", errno);
  }
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &size);
  *port = ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                              : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
  return socket;
}

Socket Socket::Accept() const {
  Socket socket(accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket.fd() >= 0) SendAtOnce(socket.fd());
  return socket;
}

absl::StatusOr<Socket> Socket::Connect(const std::string& host, int port, absl::Duration timeout) {
  const std::string name = absl::StrCat("cannot connect to ", host, " port ", port);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &found);
  if (error != 0) return absl::UnavailableError(absl::StrCat(name, ": ", gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  Socket socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.fd() < 0) return SocketError(name, errno);
  SendAtOnce(socket.fd());
  if (connect(socket.fd(), found->ai_addr, found->ai_addrlen) == 0) return socket;
  if (errno != EINPROGRESS) return SocketError(name, errno);
  pollfd ready = {socket.fd(), POLLOUT, 0};
  if (poll(&ready, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout))) != 1) {
    return SocketError(name, ETIMEDOUT);
  }
  int failure = 0;
  socklen_t size = sizeof(failure);
  getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &failure, &size);
  if (failure != 0) return SocketError(name, failure);
  return socket;
}

Wakeup::Wakeup() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { CHECK_GE(event_.fd(), 0); }

void Wakeup::Set() {
  set_ = true;
  const uint64_t one = 1;
  CHECK_EQ(write(event_.fd(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
}

void WaitForInput(std::vector<pollfd>* inputs, absl::Duration timeout) {
  // Rounded up: a wait of less than a millisecond would be a spin.
  const int64_t ms = absl::ToInt64Milliseconds(timeout + absl::Milliseconds(1));
  poll(inputs->data(), inputs->size(), static_cast<int>(std::clamp<int64_t>(ms, 0, 60'000)));
}

}  // namespace polystrate
