// RankSession: what one process of an engine owns, from joining the world to leaving it.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/pipeline_stage.h"
#include "launcher/engine_setup.h"
#include "parallel/control_channel.h"
#include "parallel/process_group.h"

namespace polystrate {

class RankSession {
 public:
  // Joins the world. INVALID_ARGUMENT, on every rank, when tp * pp is not the number of processes
  // that were launched, or ranks were started with different flags or models. A world of one needs
  // no mpirun and no MPI.
  static absl::StatusOr<std::unique_ptr<RankSession>> Start(const EngineFlags& flags,
                                                            const EngineSetup& setup);

  const Topology& topology() const { return topology_; }
  bool first() const { return topology_.rank == 0; }
  ControlChannel& control() { return *control_; }
  PipelineStage& stage() { return *stage_; }

  // Reads this rank's weights and takes its memory. Every rank calls it and gets the same answer:
  // OK when all are ready, else the first rank's error.
  absl::Status Load(const std::string& model_dir, const EngineSetup& setup);
  // Every rank calls it after its last step: writes --timeline on rank 0.
  absl::Status WriteTimeline();

 private:
  RankSession(const Topology& topology, int num_threads);
  absl::Status CheckSameSetup(const EngineSetup& setup);
  absl::Status TakeGpu(const DeviceChoice& device, const LaunchInfo& launch);
  absl::Status LoadThisRank(const std::string& model_dir, const EngineSetup& setup);

  Topology topology_;
  std::optional<std::string> timeline_path_;
  // In this order: destruction is the reverse, and MPI goes last.
  std::unique_ptr<MpiSession> mpi_;
  ProcessGroups groups_;
  Stream stream_;
  std::unique_ptr<ControlChannel> control_;
  std::unique_ptr<PipelineStage> stage_;
};

}  // namespace polystrate
