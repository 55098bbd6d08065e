#include "launcher/host_names.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <climits>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses Resolve(const std::string& host, int* error) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  *error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  return Addresses(*error == 0 ? found : nullptr, &freeaddrinfo);
}

bool SameAddress(const sockaddr* a, const sockaddr* b) {
  if (a == nullptr || b == nullptr || a->sa_family != b->sa_family) return false;
  if (a->sa_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(a)->sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in*>(b)->sin_addr.s_addr;
  }
  return a->sa_family == AF_INET6 &&
         std::memcmp(&reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr,
                     &reinterpret_cast<const sockaddr_in6*>(b)->sin6_addr, sizeof(in6_addr)) == 0;
}

}  // namespace

absl::Status CheckHostName(const std::string& host) {
  int error = 0;
  Resolve(host, &error);
  if (error == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("host ", host, ": ", gai_strerror(error)));
}

bool IsLocalHost(const std::string& host) {
  char name[HOST_NAME_MAX + 1] = {};
  if (host == "localhost" || (gethostname(name, HOST_NAME_MAX) == 0 && host == name)) return true;
  int error = 0;
  const Addresses addresses = Resolve(host, &error);
  ifaddrs* found = nullptr;
  if (addresses == nullptr || getifaddrs(&found) != 0) return false;
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> interfaces(found, &freeifaddrs);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    for (const ifaddrs* own = interfaces.get(); own != nullptr; own = own->ifa_next) {
      if (SameAddress(a->ai_addr, own->ifa_addr)) return true;
    }
  }
  return false;
}

}  // namespace polystrate
