// What a host is called and where others find it.
#pragma once

#include <string>
#include <vector>

namespace polystrate {

std::string HostName();
// The same on all processes of a host until it is started again, whatever they call it.
std::string BootId();
// The same on processes that reach each other over the loopback interface, and on those alone.
std::string LoopbackName();
// Addresses by which other hosts may reach this one, numeric, IPv4 first.
std::vector<std::string> HostAddresses();
// The interface by which NCCL reaches other hosts: what NCCL_SOCKET_IFNAME says, else the first
// that is up and neither the loopback nor Docker's.
std::string NetworkInterface();

}  // namespace polystrate
