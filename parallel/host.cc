#include "parallel/host.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

using Interfaces = std::unique_ptr<ifaddrs, decltype(&freeifaddrs)>;

Interfaces ReadInterfaces() {
  ifaddrs* all = nullptr;
  return {getifaddrs(&all) == 0 ? all : nullptr, &freeifaddrs};
}

bool LeadsOut(const ifaddrs& interface) {
  return interface.ifa_addr != nullptr && (interface.ifa_flags & IFF_UP) != 0 &&
         (interface.ifa_flags & IFF_LOOPBACK) == 0;
}

}  // namespace

std::string HostName() {
  char name[64] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "?";
  return name;
}

std::string BootId() {
  std::string boot_id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot_id);
  return boot_id;
}

std::string LoopbackName() {
  char network[64] = {};  // the name of this process's network namespace
  const ssize_t size = readlink("/proc/self/ns/net", network, sizeof(network) - 1);
  return absl::StrCat(HostName(), " ", BootId(), " ", size > 0 ? network : "");
}

std::vector<std::string> HostAddresses() {
  const Interfaces all = ReadInterfaces();
  std::vector<std::string> v4;
  std::vector<std::string> v6;
  for (const ifaddrs* i = all.get(); i != nullptr; i = i->ifa_next) {
    if (!LeadsOut(*i)) continue;
    char text[INET6_ADDRSTRLEN] = {};
    if (i->ifa_addr->sa_family == AF_INET) {
      const auto* address = reinterpret_cast<const sockaddr_in*>(i->ifa_addr);
      v4.emplace_back(inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text)));
    } else if (i->ifa_addr->sa_family == AF_INET6) {
      const auto* address = reinterpret_cast<const sockaddr_in6*>(i->ifa_addr);
      if (IN6_IS_ADDR_LINKLOCAL(&address->sin6_addr)) continue;  // good on one cable alone
      v6.emplace_back(inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof(text)));
    }
  }
  v4.insert(v4.end(), v6.begin(), v6.end());
  return v4;
}

std::string NetworkInterface() {
  const char* chosen = std::getenv("NCCL_SOCKET_IFNAME");
  if (chosen != nullptr && *chosen != '\0') return absl::StrCat(chosen, " (NCCL_SOCKET_IFNAME)");
  const Interfaces all = ReadInterfaces();
  for (const ifaddrs* i = all.get(); i != nullptr; i = i->ifa_next) {
    if (!LeadsOut(*i) || absl::StartsWith(i->ifa_name, "docker")) continue;
    const int family = i->ifa_addr->sa_family;
    if (family == AF_INET || family == AF_INET6) return i->ifa_name;
  }
  return "lo";
}

}  // namespace polystrate
