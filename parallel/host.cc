#include "parallel/host.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"

namespace polystrate {

std::string HostName() {
  char name[64] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "?";
  return name;
}

std::string LoopbackName() {
  std::string boot_id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot_id);
  char network[64] = {};  // the name of this process's network namespace
  const ssize_t size = readlink("/proc/self/ns/net", network, sizeof(network) - 1);
  return absl::StrCat(HostName(), " ", boot_id, " ", size > 0 ? network : "");
}

std::vector<std::string> HostAddresses() {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(all, &freeifaddrs);
  std::vector<std::string> v4;
  std::vector<std::string> v6;
  for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
    const bool usable = i->ifa_addr != nullptr && (i->ifa_flags & IFF_UP) != 0 &&
                        (i->ifa_flags & IFF_LOOPBACK) == 0;
    if (!usable) continue;
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

}  // namespace polystrate
