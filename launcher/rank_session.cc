#include "launcher/rank_session.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status.h"
#include "launcher/progress.h"
#include "launcher/watchdog.h"
#include "parallel/device_binding.h"
#include "parallel/gpu_groups.h"

namespace polystrate {
namespace {

absl::Status CheckWorld(const LaunchInfo& launch, const ParallelConfig& parallel) {
  if (launch.world_size == parallel.world_size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("--tp %d * --pp %d = %d ranks, but %d %s; start it with mpirun -np %d",
                      parallel.tp_size, parallel.pp_size, parallel.world_size(), launch.world_size,
                      launch.world_size == 1 ? "process was launched" : "processes were launched",
                      parallel.world_size()));
}

// An equal share of the cores this process may use.
int DefaultThreads(const LaunchInfo& launch) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  const int usable = sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 1;
  return std::max(1, usable / std::max(1, launch.local_size));
}

}  // namespace

RankSession::RankSession(const Topology& topology, int num_threads)
    : topology_(topology), stream_(Stream::Cpu(num_threads)) {}

absl::StatusOr<std::unique_ptr<RankSession>> RankSession::Start(const EngineFlags& flags,
                                                                const EngineSetup& setup) {
  const LaunchInfo launch = ReadLaunchInfo();
  const ParallelConfig& parallel = setup.model.parallel;
  RETURN_IF_ERROR(CheckWorld(launch, parallel));
  const int threads =
      flags.threads.has_value() ? static_cast<int>(*flags.threads) : DefaultThreads(launch);
  std::unique_ptr<MpiSession> mpi;
  if (launch.world_size > 1) {
    ASSIGN_OR_RETURN(mpi, MpiSession::Start());
  } else if (launch.launched && prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
    // As MpiSession has it: a launcher that is killed leaves no rank behind, a single one neither.
    return absl::InternalError("prctl(PR_SET_PDEATHSIG) failed");
  }
  const Topology topology(parallel, mpi ? mpi->rank() : 0);
  std::unique_ptr<RankSession> session(new RankSession(topology, threads));
  session->timeline_path_ = flags.timeline;
  session->groups_ = mpi ? mpi->MakeGroups(topology) : MakeSelfGroups();
  session->mpi_ = std::move(mpi);
  session->control_ = std::make_unique<ControlChannel>(topology, session->groups_);
  RETURN_IF_ERROR(session->CheckSameSetup(setup));
  if (setup.model.device.type == DeviceType::kCuda) {
    RETURN_IF_ERROR(session->control_->Agree(session->TakeGpu(setup.model.device)));
    RETURN_IF_ERROR(session->ConnectGpus(setup));
  }
  return session;
}

absl::Status RankSession::TakeGpu(const DeviceChoice& device) {
  const int local_rank = mpi_ ? mpi_->local_rank() : 0;
  ASSIGN_OR_RETURN(stream_, Stream::Cuda(ChooseGpu(device.gpu, local_rank, NumCudaDevices())));
  return absl::OkStatus();
}

absl::Status RankSession::ConnectGpus(const EngineSetup& setup) {
  const std::vector<RankPlace> places = AllPlaces(*control_, topology_, ThisPlace(stream_));
  const int world_size = static_cast<int>(places.size());
  for (int rank = 0; rank < world_size && first(); ++rank) {
    const std::string line = Describe(places[rank], Topology(topology_.config, rank));
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  if (world_size == 1) return absl::OkStatus();
  // The same on every rank, so they need not agree on it.
  ASSIGN_OR_RETURN(const CommChoice choice, ChooseComm(setup.comm, places));
  if (first()) {
    std::fprintf(stderr, "tensors go over %s: %s\n",
                 choice.nccl ? "NCCL" : "MPI, through the host's memory", choice.why.c_str());
  }
  over_nccl_ = choice.nccl;
  return over_nccl_ ? UseNccl(*control_, setup.nccl_timeout, &groups_) : absl::OkStatus();
}

std::unique_ptr<GroupGuard> RankSession::GuardGroups(Watchdog* watchdog) {
  if (!over_nccl_) return nullptr;
  if (watchdog != nullptr) {
    const auto tell = [watchdog](const absl::Status& fault) { watchdog->OnGroupFault(fault); };
    return std::make_unique<GroupGuard>(groups_, tell, [] {});
  }
  const auto tell = [rank = topology_.rank](const absl::Status& fault) {
    std::fprintf(stderr, "error: rank %d: %s\n", rank, std::string(fault.message()).c_str());
  };
  return std::make_unique<GroupGuard>(groups_, tell, [] { AbortJob(kExitEngineLost); });
}

absl::Status RankSession::CheckSameSetup(const EngineSetup& setup) {
  const std::string mine = DescribeSetup(setup);
  const auto all = control_->GatherBytes({mine.begin(), mine.end()});
  absl::Status status = absl::OkStatus();
  for (size_t rank = 1; rank < all.size() && status.ok(); ++rank) {
    const std::string theirs(all[rank].begin(), all[rank].end());
    if (theirs == mine) continue;
    status = absl::InvalidArgumentError(
        absl::StrCat("start all ranks with the same flags, model and binary; this one has ", mine,
                     "; rank ", rank, " has ", theirs));
  }
  return control_->Agree(status);
}

absl::Status RankSession::Load(const std::string& model_dir, const EngineSetup& setup) {
  RETURN_IF_ERROR(control_->Agree(LoadThisRank(model_dir, setup)));
  return control_->Agree(stage_->AgreeOnHandover());
}

absl::Status RankSession::LoadThisRank(const std::string& model_dir, const EngineSetup& setup) {
  const ModelSetup& model = setup.model;
  const Stage& stage = model.stage_plan.stages[topology_.pp_rank()];
  Progress progress("loading weights", /*shown=*/first());
  const auto report = [&progress](double done) { progress.Update(done); };
  ASSIGN_OR_RETURN(StageWeights weights,
                   setup.dummy_weights ? DummyStageWeights(model.config, topology_, stage,
                                                           model.dtype, stream_.device(), report)
                                       : LoadStageWeights(model_dir, model.config, topology_, stage,
                                                          model.dtype, stream_.device(), report));
  const RankContext rank{topology_, stream_, groups_};
  ASSIGN_OR_RETURN(
      stage_, PipelineStage::Create(rank, model.config, stage, std::move(weights), setup.stage));
  if (timeline_path_.has_value()) stage_->timeline().Enable();
  return absl::OkStatus();
}

absl::Status RankSession::WriteTimeline() {
  if (!timeline_path_.has_value()) return absl::OkStatus();
  const auto all = control_->GatherBytes(stage_->timeline().ToBytes());
  if (!first()) return absl::OkStatus();
  std::vector<std::vector<StageSpan>> ranks;
  for (const auto& bytes : all) ranks.push_back(Timeline::FromBytes(bytes));
  return polystrate::WriteTimeline(*timeline_path_, topology_.config.tp_size, ranks);
}

}  // namespace polystrate
