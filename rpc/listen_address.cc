#include "rpc/listen_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

bool IsLoopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
  }
  if (address->sa_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr) != 0;
  }
  return false;
}

// 0 or errno.
int TryBind(const addrinfo& info) {
  const int fd = socket(info.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  int error = bind(fd, info.ai_addr, info.ai_addrlen) == 0 ? 0 : errno;
  // With SO_REUSEADDR only listen() tells of another listener on some systems.
  if (error == 0 && listen(fd, 1) != 0) error = errno;
  close(fd);
  return error;
}

absl::Status BindError(const std::string& address, int error) {
  const std::string message = absl::StrCat("cannot listen on ", address, ": ", strerror(error));
  switch (error) {
    case EADDRINUSE:
      return absl::UnavailableError(message);
    case EACCES:
      return absl::PermissionDeniedError(message);
    default:
      return absl::InvalidArgumentError(message);
  }
}

}  // namespace

absl::StatusOr<ListenAddress> SplitListenAddress(const std::string& address) {
  ListenAddress split;
  const size_t colon = address.rfind(':');
  bool ok = colon != std::string::npos && colon > 0 &&
            absl::SimpleAtoi(address.substr(colon + 1), &split.port) && split.port >= 0 &&
            split.port <= 65535;
  if (ok) {
    split.host = address.substr(0, colon);
    const bool bracketed = split.host.front() == '[' && split.host.back() == ']';
    if (bracketed) split.host = split.host.substr(1, split.host.size() - 2);
    ok = !split.host.empty() && (bracketed || split.host.find(':') == std::string::npos);
  }
  if (ok) return split;
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", address, "\" is no address to listen on; it takes HOST:PORT, as 127.0.0.1:50051"));
}

absl::StatusOr<ListenAddress> CheckListenAddress(const std::string& address) {
  ASSIGN_OR_RETURN(ListenAddress listen_address, SplitListenAddress(address));
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(listen_address.host.c_str(),
                                absl::StrCat(listen_address.port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", address, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  // A name may stand for several addresses, of which some are not there (IPv6 in a container); one
  // is enough. But a port that is taken on any of them is somebody else's server.
  listen_address.loopback = true;
  int bound = 0;
  int last_error = EADDRNOTAVAIL;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    const int bind_error = TryBind(*info);
    if (bind_error == EADDRINUSE) return BindError(address, bind_error);
    if (bind_error == 0) ++bound;
    if (bind_error != 0) last_error = bind_error;
    if (!IsLoopback(info->ai_addr)) listen_address.loopback = false;
  }
  if (bound == 0) return BindError(address, last_error);
  return listen_address;
}

}  // namespace polystrate
