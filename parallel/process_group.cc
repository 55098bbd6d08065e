#include "parallel/process_group.h"

#include <mpi.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "parallel/mpi_communicator.h"
#include "parallel/pinned_communicator.h"
#include "parallel/watched_communicator.h"

namespace polystrate {
namespace {

bool ReadEnv(const char* name, int* value) {
  const char* text = std::getenv(name);
  return text != nullptr && absl::SimpleAtoi(text, value);
}

std::unique_ptr<Communicator> SplitWorld(int color, int key) {
  MPI_Comm comm = MPI_COMM_NULL;
  CHECK_EQ(MPI_Comm_split(MPI_COMM_WORLD, color, key, &comm), MPI_SUCCESS);
  return MakeMpiCommunicator(comm);
}

// The groups with a RankActivity that hears of every call, and with tensors of GPUs where hidden
// states go.
ProcessGroups Complete(ProcessGroups groups) {
  auto activity = std::make_unique<RankActivity>();
  const auto watch = [&](std::unique_ptr<Communicator>* group, GroupName name) {
    *group = WatchCommunicator(std::move(*group), name, activity.get());
  };
  watch(&groups.tp, GroupName::kTp);
  watch(&groups.pp, GroupName::kPp);
  watch(&groups.control, GroupName::kControl);
  watch(&groups.tokens, GroupName::kTokens);
  // Outside, so that a graph that is replayed tells the activity of its calls again.
  groups.tp = MakePinnedCommunicator(std::move(groups.tp));
  groups.pp = MakePinnedCommunicator(std::move(groups.pp));
  groups.activity = std::move(activity);
  return groups;
}

}  // namespace

LaunchInfo ReadLaunchInfo() {
  LaunchInfo info;
  if (ReadEnv("OMPI_COMM_WORLD_RANK", &info.rank)) {
    info.launched = true;
    info.by_open_mpi = true;
    ReadEnv("OMPI_COMM_WORLD_SIZE", &info.world_size);
    ReadEnv("OMPI_COMM_WORLD_LOCAL_SIZE", &info.local_size);
  } else if (std::getenv("PMIX_RANK") != nullptr && ReadEnv("SLURM_PROCID", &info.rank)) {
    info.launched = true;
    ReadEnv("SLURM_NTASKS", &info.world_size);
    ReadEnv("SLURM_NTASKS_PER_NODE", &info.local_size);
  }
  return info;
}

void AbortJob(int exit_code) {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (!initialized || finalized) _exit(exit_code);
  // MPI_Abort speaks to the launcher over a connection of its own, so it works beside a main thread
  // that is inside MPI; where it does not, the launcher ends the job of a rank that is gone.
  std::thread([exit_code] {
    std::this_thread::sleep_for(std::chrono::seconds(2));
    _exit(exit_code);
  }).detach();
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

absl::StatusOr<std::unique_ptr<MpiSession>> MpiSession::Start() {
  // An MCA value on the user's mpirun line arrives as the same variable and is not overwritten.
  constexpr int kKeep = 0;
  // Ranks usually outnumber cores on CPU; a waiting rank that does not yield makes the rest 350
  // times slower.
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", kKeep);
  setenv("OMPI_MCA_pml", "ob1", kKeep);
  setenv("OMPI_MCA_btl", "self,vader,tcp", kKeep);
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
    return absl::InternalError("prctl(PR_SET_PDEATHSIG) failed");
  }
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
    return absl::InternalError("MPI_Init_thread failed");
  }
  std::unique_ptr<MpiSession> session(new MpiSession());
  MPI_Comm_rank(MPI_COMM_WORLD, &session->rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &session->world_size_);
  MPI_Comm host = MPI_COMM_NULL;
  CHECK_EQ(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, session->rank_, MPI_INFO_NULL,
                               &host),
           MPI_SUCCESS);
  MPI_Comm_rank(host, &session->local_rank_);
  MPI_Comm_free(&host);
  return session;
}

MpiSession::~MpiSession() { MPI_Finalize(); }

ProcessGroups MpiSession::MakeGroups(const Topology& topology) const {
  CHECK_EQ(topology.config.world_size(), world_size_);
  ProcessGroups groups;
  groups.tp = SplitWorld(topology.pp_rank(), topology.tp_rank());
  groups.pp = SplitWorld(topology.tp_rank(), topology.pp_rank());
  groups.control = SplitWorld(0, rank_);
  groups.tokens = SplitWorld(0, rank_);
  return Complete(std::move(groups));
}

ProcessGroups MakeSelfGroups() {
  ProcessGroups groups;
  for (auto* group : {&groups.tp, &groups.pp, &groups.control, &groups.tokens}) {
    *group = MakeSelfCommunicator();
  }
  return Complete(std::move(groups));
}

std::vector<ProcessGroups> MakeThreadGroups(const ParallelConfig& config) {
  std::vector<ProcessGroups> world(config.world_size());
  auto control = MakeThreadCommunicators(config.world_size());
  auto tokens = MakeThreadCommunicators(config.world_size());
  for (int rank = 0; rank < config.world_size(); ++rank) {
    world[rank].control = std::move(control[rank]);
    world[rank].tokens = std::move(tokens[rank]);
  }
  for (int pp_rank = 0; pp_rank < config.pp_size; ++pp_rank) {
    auto tp = MakeThreadCommunicators(config.tp_size);
    for (int i = 0; i < config.tp_size; ++i)
      world[pp_rank * config.tp_size + i].tp = std::move(tp[i]);
  }
  for (int tp_rank = 0; tp_rank < config.tp_size; ++tp_rank) {
    auto pp = MakeThreadCommunicators(config.pp_size);
    for (int i = 0; i < config.pp_size; ++i)
      world[i * config.tp_size + tp_rank].pp = std::move(pp[i]);
  }
  for (ProcessGroups& groups : world) groups = Complete(std::move(groups));
  return world;
}

}  // namespace polystrate
