#include "launcher/rank_session.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/memory.h"
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

// The least of all ranks' numbers; rank 0 prints the words of the rank that has it.
int64_t AgreeOnLeast(ControlChannel& control, const Topology& topology, int64_t mine,
                     const std::string& words) {
  const std::string text = absl::StrCat(mine, " ", words);
  const auto all = control.GatherBytes({text.begin(), text.end()});
  if (topology.rank != 0) {
    const std::vector<uint8_t> bytes = control.ReceivePlan();
    return std::stoll(std::string(bytes.begin(), bytes.end()));
  }
  int64_t least = mine;
  size_t rank = 0;
  for (size_t other = 1; other < all.size(); ++other) {
    const int64_t theirs = std::stoll(std::string(all[other].begin(), all[other].end()));
    if (theirs >= least) continue;
    least = theirs;
    rank = other;
  }
  const std::string tightest(all[rank].begin(), all[rank].end());
  std::fprintf(stderr, "memory of rank %zu's GPU: %s\n", rank,
               tightest.substr(tightest.find(' ') + 1).c_str());
  const std::string told = absl::StrCat(least);
  control.BroadcastPlan({told.begin(), told.end()});
  return least;
}

// Plans with so many blocks, as far as they can be numbered.
absl::Status TakeBlocks(int64_t num_blocks, EngineSetup* setup) {
  MemoryPlan& plan = setup->model.memory;
  MemoryOptions options;
  options.tp_size = setup->model.parallel.tp_size;
  options.dtype = setup->model.dtype;
  options.block_size = plan.block_size;
  options.kv_memory = 0;
  for (const StageMemory& stage : plan.stages) {
    options.kv_memory = std::max(options.kv_memory, num_blocks * stage.kv_bytes_per_block);
  }
  ASSIGN_OR_RETURN(plan, PlanMemory(setup->model.config, setup->model.stage_plan, options));
  setup->engine.num_blocks = plan.num_blocks;
  setup->stage.num_blocks = plan.num_blocks;
  return absl::OkStatus();
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
  const RankPlace& mine = places[topology_.rank];
  ranks_on_gpu_ =
      static_cast<int>(std::count_if(places.begin(), places.end(), [&mine](const RankPlace& place) {
        return place.host == mine.host && place.pci_bus_id == mine.pci_bus_id;
      }));
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

absl::Status RankSession::TakeScratch(const ModelConfig& config, const GpuMemoryUse& use) {
  const int64_t scratch = ScratchBytes(config, use, stream_.cuda().properties().num_sms);
  const int64_t free = cuda::FreeMemory(stream_.device().index);
  if (free < 2 * scratch) {  // it is rounded up
    return absl::ResourceExhaustedError(
        absl::StrCat("GPU ", stream_.device().index, " has ", free,
                     " bytes free; operators need up to ", 2 * scratch,
                     " beside the model; see what else runs there (nvidia-smi), or ask for fewer "
                     "--max_num_seqs or a shorter --max_model_len"));
  }
  stream_.cuda().Scratch(scratch);
  return absl::OkStatus();
}

absl::Status RankSession::MeetPeers(const EngineSetup& setup) {
  if (!over_nccl_) return absl::OkStatus();
  // NCCL takes most of its buffers when peers first meet; the largest step's messages, twice, for
  // they take turns between two places.
  const int64_t num_rows = setup.engine.max_num_batched_tokens;
  const int64_t hidden_size = setup.model.config.hidden_size;
  const Device device = stream_.device();
  ASSIGN_OR_RETURN(const Buffer buffer,
                   Buffer::Allocate(device, num_rows * hidden_size * SizeOf(DType::kFloat32)));
  const Tensor x(buffer.data(), DType::kFloat32, device, {num_rows, hidden_size});
  groups_.tp->AllReduceSum(stream_, x);
  const int64_t tp_size = topology_.config.tp_size;
  ASSIGN_OR_RETURN(const Buffer gathered,
                   Buffer::Allocate(device, tp_size * hidden_size * SizeOf(DType::kFloat32)));
  groups_.tp->Gather(stream_, x.Rows(0, 1),
                     Tensor(gathered.data(), DType::kFloat32, device, {tp_size, 1, hidden_size}),
                     /*root=*/0);
  for (int message = 0; message < 2; ++message) {
    if (!topology_.first_stage()) groups_.pp->Recv(stream_, x, topology_.pp_rank() - 1);
    if (!topology_.last_stage()) groups_.pp->Send(stream_, x, topology_.pp_rank() + 1);
  }
  stream_.Synchronize();
  return absl::OkStatus();
}

absl::Status RankSession::PrepareGpu(EngineSetup* setup) {
  const ModelSetup& model = setup->model;
  if (model.device.type == DeviceType::kCpu) return absl::OkStatus();
  GpuMemoryUse use;
  use.parallel = model.parallel;
  use.dtype = model.dtype;
  use.max_model_len = model.max_model_len;
  use.max_num_batched_tokens = setup->engine.max_num_batched_tokens;
  use.max_num_seqs = setup->engine.max_num_seqs;
  use.block_size = setup->engine.block_size;
  use.ranks_per_gpu = ranks_on_gpu_;
  // All have taken theirs before any asks, and all have asked before any goes on; who meets nobody
  // would wait for them.
  RETURN_IF_ERROR(control_->Agree(TakeScratch(model.config, use)));
  RETURN_IF_ERROR(control_->Agree(MeetPeers(*setup)));
  if (!model.gpu_memory_utilization.has_value()) return absl::OkStatus();
  use.utilization = *model.gpu_memory_utilization;
  const int gpu = stream_.device().index;
  const int64_t total = cuda::TotalMemory(gpu);
  ASSIGN_OR_RETURN(const GpuMemoryParts parts,
                   DivideGpu(model.config, model.stage_plan, topology_.pp_rank(), use, total,
                             total - cuda::FreeMemory(gpu)));
  RETURN_IF_ERROR(control_->Agree(CheckRoom(parts)));
  const int64_t block_bytes = model.memory.stages[topology_.pp_rank()].kv_bytes_per_block;
  const int64_t mine = block_bytes > 0 ? parts.kv_cache() / block_bytes : model.memory.num_blocks;
  return TakeBlocks(AgreeOnLeast(*control_, topology_, mine, Describe(parts)), setup);
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
