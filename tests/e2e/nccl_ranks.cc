// Run by nccl_test under mpirun as `nccl_ranks check|hang|late|relay`: groups over NCCL, on one GPU
// too, where each rank tells NCCL that it is a host of its own (2.28 takes no two ranks of one host
// on a GPU) and tensors go through the loopback interface. Prints what is wrong.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "parallel/device_binding.h"
#include "parallel/gpu_groups.h"
#include "tests/testing/communicator_checks.h"

namespace polystrate {
namespace {

struct World {
  World(const MpiSession& session, const ParallelConfig& config)
      : topology(config, session.rank()),
        groups(session.MakeGroups(topology)),
        control(topology, groups) {}

  Topology topology;
  ProcessGroups groups;
  ControlChannel control;
};

void ShareGpu(int rank) {
  constexpr int kKeep = 0;
  setenv("NCCL_HOSTID", absl::StrCat("rank", rank).c_str(), kKeep);
  setenv("NCCL_SOCKET_IFNAME", "lo", kKeep);
  setenv("NCCL_IB_DISABLE", "1", kKeep);
  setenv("NCCL_MAX_CTAS", "2", kKeep);  // kernels of ranks that wait for one another must all fit
}

// One stage of all ranks, then as many stages as ranks.
std::string Check(const MpiSession& session, const Stream& stream) {
  const int n = session.world_size();
  World wide(session, {n, 1});
  absl::Status status = UseNccl(wide.control, absl::Minutes(1), &wide.groups);
  if (!status.ok()) return status.ToString();
  std::string fault = CheckCollectives(stream, *wide.groups.tp);
  if (fault.empty()) fault = CheckRecordedAllReduce(stream, *wide.groups.tp);
  World deep(session, {1, n});
  status = UseNccl(deep.control, absl::Minutes(1), &deep.groups);
  if (!status.ok()) return status.ToString();
  if (fault.empty()) fault = CheckChain(stream, *deep.groups.pp);
  for (Communicator* group : {wide.groups.tp.get(), deep.groups.pp.get()}) {
    if (fault.empty() && !group->Health().ok()) fault = group->Health().ToString();
  }
  return fault;
}

// Rank 0 waits in an all-reduce that nobody else comes to, until another thread ends it.
std::string Hang(const MpiSession& session, const Stream& stream) {
  World world(session, {session.world_size(), 1});
  const absl::Status status = UseNccl(world.control, absl::Minutes(1), &world.groups);
  if (!status.ok()) return status.ToString();
  const std::string fault = CheckCollectives(stream, *world.groups.tp);
  if (!fault.empty() || session.rank() != 0) {
    absl::SleepFor(absl::Seconds(5));
    return fault;
  }
  auto buffer = Buffer::Allocate(stream.device(), 4096);
  if (!buffer.ok()) return buffer.status().ToString();
  const absl::Time begin = absl::Now();
  std::thread guard([&world] {
    absl::SleepFor(absl::Seconds(2));
    world.groups.tp->Abort();
  });
  world.groups.tp->AllReduceSum(stream,
                                Tensor(buffer->data(), DType::kFloat32, stream.device(), {1024}));
  stream.Synchronize();
  const absl::Duration waited = absl::Now() - begin;
  guard.join();
  if (waited < absl::Seconds(1)) return "the all-reduce ended without its peers";
  if (world.groups.tp->Health().ok()) return "an aborted group calls itself well";
  return "";
}

// The last rank comes when the time of the others is over.
std::string Late(const MpiSession& session) {
  constexpr absl::Duration kTimeout = absl::Seconds(2);
  World world(session, {session.world_size(), 1});
  if (session.rank() + 1 == session.world_size()) absl::SleepFor(2 * kTimeout);
  const absl::Status status = UseNccl(world.control, kTimeout, &world.groups);
  const bool named = absl::StrContains(status.message(), "joining takes longer than 2s");
  return named ? "" : "late: " + status.ToString();
}

// Rank 1 gets its second message while its first has not been taken off it: rank 2 comes late.
std::string Relay(const MpiSession& session, const Stream& stream) {
  constexpr absl::Duration kLate = absl::Seconds(2);
  constexpr int64_t kElements = 4 << 20;  // more than NCCL takes off a sender by itself
  World world(session, {1, session.world_size()});
  const absl::Status status = UseNccl(world.control, absl::Minutes(1), &world.groups);
  if (!status.ok()) return status.ToString();
  Communicator& pp = *world.groups.pp;
  std::string fault = CheckChain(stream, pp);
  auto buffer = Buffer::Allocate(stream.device(), kElements * SizeOf(DType::kFloat32));
  if (!buffer.ok()) return buffer.status().ToString();
  const Tensor x(buffer->data(), DType::kFloat32, stream.device(), {kElements});
  for (int message = 0; message < 2; ++message) {  // memory for messages is taken now
    if (session.rank() > 0) pp.Recv(stream, x, session.rank() - 1);
    if (session.rank() < 2) pp.Send(stream, x, session.rank() + 1);
  }
  stream.Synchronize();
  const absl::Time begin = absl::Now();
  if (session.rank() == 2) absl::SleepFor(kLate);
  if (session.rank() == 0) pp.Send(stream, x, 1);
  if (session.rank() == 1) pp.Recv(stream, x, 0);
  if (session.rank() == 1) pp.Send(stream, x, 2);
  if (session.rank() == 2) pp.Recv(stream, x, 1);
  if (session.rank() == 0) pp.Send(stream, x, 1);
  if (session.rank() == 1) pp.Recv(stream, x, 0);
  stream.Synchronize();
  const bool waited = session.rank() == 1 && absl::Now() - begin > kLate / 2;
  if (fault.empty() && waited) fault = "a receive has waited for a send";
  return fault;
}

std::string Run(const std::string& mode) {
  const auto session = MpiSession::Start();
  if (!session.ok()) return session.status().ToString();
  const int rank = (*session)->rank();
  if (NumCudaDevices() < (*session)->world_size()) ShareGpu(rank);
  const int gpu = ChooseGpu(std::nullopt, (*session)->local_rank(), NumCudaDevices());
  const auto stream = Stream::Cuda(gpu);
  if (!stream.ok()) return stream.status().ToString();
  const std::string fault = mode == "check"   ? Check(**session, *stream)
                            : mode == "hang"  ? Hang(**session, *stream)
                            : mode == "relay" ? Relay(**session, *stream)
                                              : Late(**session);
  if (fault.empty()) std::printf("rank %d done\n", rank);
  return fault;
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string fault = polystrate::Run(argv[1]);
  std::fprintf(stderr, "%s\n", fault.c_str());
  return fault.empty() ? 0 : 1;
}
