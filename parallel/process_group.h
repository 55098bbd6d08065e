// MpiSession and ProcessGroups: MPI from its first call to its last, and the groups the engine's
// ranks speak in.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/rank_activity.h"
#include "parallel/topology.h"

namespace polystrate {

// The groups of one rank. `control` and `tokens` span the world and are apart, so that a token on
// its way back never waits behind a plan or a hidden state.
struct ProcessGroups {
  std::unique_ptr<RankActivity> activity;  // knows of every call on those below
  std::unique_ptr<Communicator> tp;        // ranks of this stage; rank in it == tp_rank
  std::unique_ptr<Communicator> pp;        // ranks of this tp_rank; rank in it == pp_rank
  std::unique_ptr<Communicator> control;   // rank 0 -> all: step plans
  std::unique_ptr<Communicator> tokens;    // sampler -> rank 0: step results
  bool over_gpus = false;  // calls on tp and pp are enqueued, the host does not wait in them
};

// What the launcher (mpirun, srun) says about this process, known before MPI_Init: from Open MPI's,
// PMIx's or Slurm's environment variables. A process started by hand is rank 0
// of one.
struct LaunchInfo {
  int rank = 0;
  int world_size = 1;
  int local_size = 1;  // ranks on this host
  bool launched = false;
  bool by_open_mpi = false;  // mpirun, whose SIGTERM is followed by SIGKILL
};
LaunchInfo ReadLaunchInfo();

// Ends the whole job at once, with this as the launcher's exit code. From any thread, whatever the
// main threads of the ranks are stuck in.
[[noreturn]] void AbortJob(int exit_code);

// MPI_Init to MPI_Finalize. One per process, on the main thread.
class MpiSession {
 public:
  // Sets what a rank can set for itself (yielding while it waits; shared memory and TCP as
  // transports) unless the user's mpirun line already has, then initialises MPI. The process dies
  // with its parent from here on, so that a killed launcher leaves no rank behind.
  static absl::StatusOr<std::unique_ptr<MpiSession>> Start();
  ~MpiSession();

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }
  // Which of the ranks that share this host's memory it is.
  int local_rank() const { return local_rank_; }
  ProcessGroups MakeGroups(const Topology& topology) const;

 private:
  MpiSession() = default;
  int rank_ = 0;
  int world_size_ = 1;
  int local_rank_ = 0;
};

// Groups of a world of one, without MPI.
ProcessGroups MakeSelfGroups();
// Groups of a world whose ranks are threads; element r is for rank r.
std::vector<ProcessGroups> MakeThreadGroups(const ParallelConfig& config);

}  // namespace polystrate
