// Run by mpi_test under mpirun as `mpi_ranks tp pp cpu|cuda`: each rank checks the groups it is in,
// with tensors of that device (all ranks of a host have its first GPU), and prints what is wrong.

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/testing/communicator_checks.h"

int main(int argc, char** argv) {
  using namespace polystrate;
  if (argc != 4) return 2;
  auto session = MpiSession::Start();
  if (!session.ok()) return 1;
  const Topology topology({std::atoi(argv[1]), std::atoi(argv[2])}, (*session)->rank());
  ProcessGroups groups = (*session)->MakeGroups(topology);

  const Stream cpu = Stream::Cpu(1);
  const bool on_gpu = std::string(argv[3]) == "cuda";
  absl::StatusOr<Stream> device = on_gpu ? Stream::Cuda(0) : Stream::Cpu(1);
  if (!device.ok()) {
    std::fprintf(stderr, "%s\n", device.status().ToString().c_str());
    return 1;
  }

  std::string fault;
  auto check = [&](const char* what, const std::string& found) {
    if (!found.empty()) fault += std::string(what) + ": " + found + "\n";
  };
  if (groups.tp->rank() != topology.tp_rank() || groups.tp->size() != topology.config.tp_size) {
    check("tp", "wrong ranks");
  }
  if (groups.pp->rank() != topology.pp_rank() || groups.pp->size() != topology.config.pp_size) {
    check("pp", "wrong ranks");
  }
  check("tp", CheckCommunicator(*device, *groups.tp));
  check("pp", CheckCommunicator(*device, *groups.pp));
  if (on_gpu) check("recorded", CheckRecordedAllReduce(*device, *groups.tp));
  check("control", CheckCommunicator(cpu, *groups.control));
  check("tokens", CheckCommunicator(cpu, *groups.tokens));
  ControlChannel control(topology, groups);
  check("control channel", CheckControlChannel(control, topology));
  std::fputs(fault.c_str(), stderr);
  std::printf("rank %d done\n", topology.rank);
  return fault.empty() ? 0 : 1;
}
