// NetworkHosts: hosts on this machine, as network namespaces that a switch joins, for engines over
// several hosts and for what happens when a cable is pulled.
//
// Each host has an address, a name (as gethostname() says it), a loopback interface, a /dev/shm and
// IPC of its own; files and processors are the machine's. Nobody else can reach the hosts or sees
// their addresses, and all that runs on them is in one PID namespace, which ends with this object
// or with the test, however that ends: nothing is left behind and nothing has to be swept up.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {

class NetworkHosts {
 public:
  // Why this machine cannot have them; empty if it can. Takes root and CAP_NET_ADMIN.
  static std::string WhyNot();

  // To be called by the test's main thread, with which they end.
  explicit NetworkHosts(int num_hosts);

  // Hosts count from 0.
  std::string Name(int host) const;
  std::string Address(int host) const;

  // The command line that runs `command` there, for Process. What it starts is a process above
  // the command, which ends as the command does but forwards no signal.
  CommandLine On(int host, const CommandLine& command) const;
  struct Slots {
    int host;
    int ranks;
  };
  // `command` on so many ranks of each host, in this order, over TCP between hosts; mpirun runs on
  // the first. `flags` are more of mpirun's.
  CommandLine Mpirun(const std::vector<Slots>& slots, const CommandLine& command,
                     const CommandLine& flags = {}) const;
  // What takes the place of ssh there, and the network that Open MPI is to take.
  std::string Agent() const;
  static std::string Subnet();
  // ConnectTcp (tests/testing/tcp_socket.h) from there, for clients in the test's own process.
  absl::StatusOr<int> Connect(int host, const std::string& address) const;

  // From now on the switch drops what the host sends and what is sent to it. Neither end is told.
  void Cut(int host) const { SetPort(host, "disabled"); }
  void Heal(int host) const { SetPort(host, "forwarding"); }

  // Bytes on the wire since the beginning, headers included.
  struct Traffic {
    int64_t received = 0;
    int64_t sent = 0;
  };
  Traffic TrafficOf(int host) const;
  // What runs on the host, by the machine's pids.
  std::vector<pid_t> ProcessesOn(int host) const;

 private:
  void SetPort(int host, const std::string& state) const;
  // In /proc, of the process that keeps the host.
  std::string Proc(int host, const std::string& file) const;

  const int num_hosts_;
  TempDir dir_;  // the scripts, and who keeps which host
  Process switch_;
  std::string switch_pid_;
  std::vector<std::string> keepers_;  // by host: the process that keeps it; by the machine's pids
};

}  // namespace polystrate
