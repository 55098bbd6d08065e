#include "tests/testing/network_hosts.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <sstream>
#include <system_error>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "kernels/core/check.h"
#include "tests/testing/tcp_socket.h"

namespace polystrate {
namespace {

constexpr char kSubnet[] = "10.77.0.0/24";
constexpr absl::Duration kSetUp = absl::Seconds(20);

// The switch: process 1 of the hosts' PID namespace, in a network namespace of its own. `dir` gets
// two files for every host, ADDRESS with the pid of the process that keeps it and ADDRESS.machine
// with the same as the machine counts; and, when all is there, `switch` with the switch's own.
constexpr char kSwitchScript[] = R"(#!/bin/sh
set -e
dir=$1 num_hosts=$2
mkdir "$dir/machine"
mount --bind /proc "$dir/machine"
mount -t proc proc /proc
ip link add bridge0 type bridge
ip link set bridge0 up
host=0
while [ $host -lt $num_hosts ]; do
  host=$((host + 1))
  address=10.77.0.$host
  unshare --net --uts --mount --ipc sh -c '
    set -e
    mount -t tmpfs tmpfs /dev/shm
    mount -t sysfs sysfs /sys
    hostname "$3"
    read pid rest <"$1/machine/self/stat"
    echo $pid >"$1/$2.machine"
    echo $$ >"$1/new"
    mv "$1/new" "$1/$2"
    exec sleep infinity' sh "$dir" "$address" "host$host" &
  until [ -e "$dir/$address" ]; do sleep 0.005; done
  read pid <"$dir/$address"
  ip link add veth0 netns "$pid" type veth peer name "port$host"
  ip link set "port$host" master bridge0 up
  nsenter --target "$pid" --net ip link set lo up
  nsenter --target "$pid" --net ip address add "$address/24" dev veth0
  nsenter --target "$pid" --net ip link set veth0 up
done
read pid rest <"$dir/machine/self/stat"
echo "$pid" >"$dir/new"
mv "$dir/new" "$dir/switch"
wait
)";

// enter ADDRESS COMMAND...: runs it on that host. Open MPI's folders in /dev/shm, which the test
// has made on the machine, are needed on the host.
constexpr char kEnterScript[] = R"(#!/bin/sh
read pid <"${0%/*}/$1"
shift
exec nsenter --target "$pid" --net --uts --mount --ipc -- sh -c '
  for dir in "$OMPI_MCA_btl_vader_backing_directory" "$OMPI_MCA_orte_tmpdir_base"; do
    [ -z "$dir" ] || mkdir -p "$dir"
  done
  exec "$@"' sh "$@"
)";

// What mpirun takes for ssh: agent [OPTION]... ADDRESS TEXT...
constexpr char kAgentScript[] = R"(#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
address=$1
shift
exec "${0%/*}/enter" "$address" sh -c "$*"
)";

void WriteScript(const std::string& path, const char* text) {
  WriteFile(path, text);
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
}

CommandLine SwitchCommand(const TempDir& dir, int num_hosts) {
  WriteScript(dir.File("enter"), kEnterScript);
  WriteScript(dir.File("agent"), kAgentScript);
  WriteScript(dir.File("make_switch"), kSwitchScript);
  return {"setpriv",
          "--pdeathsig",
          "KILL",
          "unshare",
          "--net",
          "--pid",
          "--mount",
          "--ipc",
          "--fork",
          "--kill-child",
          dir.File("make_switch"),
          dir.path(),
          std::to_string(num_hosts)};
}

std::string FirstLine(const std::string& path) {
  return std::string(absl::StripAsciiWhitespace(ReadFile(path)));
}

}  // namespace

std::string NetworkHosts::WhyNot() {
  const CommandResult trial = RunCommand(
      {"setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--uts", "--ipc", "--mount",
       "--fork", "--kill-child", "sh", "-c",
       "mount -t proc proc /proc && ip link add bridge0 type bridge && ip link add veth0 type veth "
       "peer name veth1 && ip link set veth1 master bridge0 up && "
       "bridge link set dev veth1 state disabled"});
  if (trial.exit_code == 0) return "";
  return absl::StrCat("no network namespaces here (they take root, CAP_NET_ADMIN and iproute2): ",
                      trial.err.empty() ? "no setpriv or unshare" : trial.err);
}

NetworkHosts::NetworkHosts(int num_hosts)
    : num_hosts_(num_hosts), switch_(SwitchCommand(dir_, num_hosts)) {
  const absl::Time deadline = absl::Now() + kSetUp;
  while (!std::filesystem::exists(dir_.File("switch"))) {
    const bool ended = switch_.Wait(absl::Milliseconds(5)).has_value();
    if (ended || absl::Now() >= deadline) std::cerr << "no hosts: " << switch_.Err();
    CHECK(!ended && absl::Now() < deadline);
  }
  switch_pid_ = FirstLine(dir_.File("switch"));
  for (int host = 0; host < num_hosts; ++host) {
    keepers_.push_back(FirstLine(dir_.File(Address(host) + ".machine")));
  }
}

std::string NetworkHosts::Name(int host) const { return absl::StrCat("host", host + 1); }

std::string NetworkHosts::Address(int host) const {
  CHECK(host >= 0 && host < num_hosts_);
  return absl::StrCat("10.77.0.", host + 1);
}

CommandLine NetworkHosts::On(int host, const CommandLine& command) const {
  CommandLine line = {"nsenter", "--target", switch_pid_,        "--pid",
                      "--mount", "--",       dir_.File("enter"), Address(host)};
  line.insert(line.end(), command.begin(), command.end());
  return line;
}

CommandLine NetworkHosts::Mpirun(const std::vector<Slots>& slots, const CommandLine& command,
                                 const CommandLine& flags) const {
  int ranks = 0;
  std::vector<std::string> hosts;
  for (const Slots& of : slots) {
    ranks += of.ranks;
    hosts.push_back(absl::StrCat(Address(of.host), ":", of.ranks));
  }
  // Every host thinks that all processors are its own, so Open MPI does not see that a rank which
  // waits takes one from others.
  CommandLine line = {"mpirun", "--allow-run-as-root", "--bind-to", "none", "--map-by", "slot"};
  line.insert(line.end(), {"--mca", "plm_rsh_agent", Agent()});
  line.insert(line.end(), {"--mca", "mpi_yield_when_idle", "1"});
  line.insert(line.end(), {"--mca", "btl", "self,vader,tcp"});
  line.insert(line.end(), {"--mca", "btl_tcp_if_include", kSubnet});
  line.insert(line.end(), {"--mca", "oob_tcp_if_include", kSubnet});
  line.insert(line.end(), flags.begin(), flags.end());
  line.insert(line.end(), {"--host", absl::StrJoin(hosts, ","), "-np", std::to_string(ranks)});
  line.insert(line.end(), command.begin(), command.end());
  return On(slots.front().host, line);
}

std::string NetworkHosts::Agent() const { return dir_.File("agent"); }
std::string NetworkHosts::Subnet() { return kSubnet; }

absl::StatusOr<int> NetworkHosts::Connect(int host, const std::string& address) const {
  const int space = open(Proc(host, "ns/net").c_str(), O_RDONLY | O_CLOEXEC);
  CHECK_GE(space, 0);
  absl::StatusOr<int> socket;
  // A socket stays in the namespace of the thread that has made it.
  std::thread([&] {
    CHECK_EQ(setns(space, CLONE_NEWNET), 0);
    socket = ConnectTcp(address);
  }).join();
  close(space);
  return socket;
}

NetworkHosts::Traffic NetworkHosts::TrafficOf(int host) const {
  std::istringstream lines(ReadFile(Proc(host, "net/dev")));
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.front() != "veth0:") continue;
    return {std::stoll(words[1]), std::stoll(words[9])};
  }
  CHECK(false);
  return {};
}

std::vector<pid_t> NetworkHosts::ProcessesOn(int host) const {
  const auto network = std::filesystem::read_symlink(Proc(host, "ns/net"));
  std::vector<pid_t> pids;
  for (const pid_t pid : ProcessesWith("")) {
    std::error_code gone;
    const auto link = std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/ns/net"), gone);
    if (link == network && std::to_string(pid) != keepers_[host]) pids.push_back(pid);
  }
  return pids;
}

void NetworkHosts::SetPort(int host, const std::string& state) const {
  const CommandResult result =
      RunCommand({"nsenter", "--target", switch_pid_, "--net", "bridge", "link", "set", "dev",
                  absl::StrCat("port", host + 1), "state", state});
  CHECK_EQ(result.exit_code, 0);
}

std::string NetworkHosts::Proc(int host, const std::string& file) const {
  return absl::StrCat("/proc/", keepers_[host], "/", file);
}

}  // namespace polystrate
