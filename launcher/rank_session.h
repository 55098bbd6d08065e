// RankSession: what one process of an engine owns, from joining the world to leaving it.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/pipeline_stage.h"
#include "launcher/engine_setup.h"
#include "launcher/gpu_memory.h"
#include "parallel/control_channel.h"
#include "parallel/group_guard.h"
#include "parallel/process_group.h"

namespace polystrate {

class Watchdog;

class RankSession {
 public:
  // Joins the world. INVALID_ARGUMENT, on every rank, when tp * pp is not the number of processes
  // that were launched, ranks were started with different flags or models, or GPUs cannot be had as
  // the flags want them. A world of one needs no mpirun and no MPI. On GPUs rank 0 prints who has
  // which.
  static absl::StatusOr<std::unique_ptr<RankSession>> Start(const EngineFlags& flags,
                                                            const EngineSetup& setup);

  const Topology& topology() const { return topology_; }
  bool first() const { return topology_.rank == 0; }
  ControlChannel& control() { return *control_; }
  // Ends the job when a group over NCCL fails, as `watchdog` wants it on the rank that has one, by
  // itself on the others (null). The result is null where there is no such group, and goes before
  // the session and the watchdog.
  std::unique_ptr<GroupGuard> GuardGroups(Watchdog* watchdog);
  PipelineStage& stage() { return *stage_; }

  // On GPUs: takes what steps need besides tensors of their own, and connects peers. Where the KV
  // cache gets what GPUs have left (--gpu_memory_utilization), asks them then, and puts the number
  // of blocks for which all have room into `setup`; rank 0 prints where the memory of the GPU with
  // the least goes. Every rank calls it, before Load, and gets the same answer. RESOURCE_EXHAUSTED
  // says what is too large.
  absl::Status PrepareGpu(EngineSetup* setup);
  // Reads this rank's weights and takes its memory. Every rank calls it and gets the same answer:
  // OK when all are ready, else the first rank's error.
  absl::Status Load(const std::string& model_dir, const EngineSetup& setup);
  // Every rank calls it after its last step: writes --timeline on rank 0.
  absl::Status WriteTimeline();

 private:
  RankSession(const Topology& topology, int num_threads);
  absl::Status CheckSameSetup(const EngineSetup& setup);
  absl::Status TakeGpu(const DeviceChoice& device);
  // Every rank calls it: they tell one another which GPU they have taken, and connect those.
  absl::Status ConnectGpus(const EngineSetup& setup);
  // Takes what operators need of the GPU besides tensors; what communicators need.
  absl::Status TakeScratch(const ModelConfig& config, const GpuMemoryUse& use);
  absl::Status MeetPeers(const EngineSetup& setup);
  absl::Status LoadThisRank(const std::string& model_dir, const EngineSetup& setup);

  Topology topology_;
  std::optional<std::string> timeline_path_;
  // In this order: destruction is the reverse, and MPI goes last.
  std::unique_ptr<MpiSession> mpi_;
  ProcessGroups groups_;
  bool over_nccl_ = false;
  int ranks_on_gpu_ = 1;  // that share this rank's
  Stream stream_;
  std::unique_ptr<ControlChannel> control_;
  std::unique_ptr<PipelineStage> stage_;
};

}  // namespace polystrate
