// What a host is called and where others find it.
#pragma once

#include <string>
#include <vector>

namespace polystrate {

std::string HostName();
// The same on processes that reach each other over the loopback interface, and on those alone.
std::string LoopbackName();
// Addresses by which other hosts may reach this one, numeric, IPv4 first.
std::vector<std::string> HostAddresses();

}  // namespace polystrate
