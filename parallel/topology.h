// Topology: world rank <-> (tp_rank, pp_rank). Pure arithmetic. Ranks of one tensor-parallel group
// are adjacent, so that `mpirun --map-by slot` keeps them on one host.
#pragma once

#include "absl/status/status.h"
#include "kernels/core/check.h"

namespace polystrate {

struct ParallelConfig {
  int tp_size = 1;
  int pp_size = 1;

  int world_size() const { return tp_size * pp_size; }
};

struct Topology {
  ParallelConfig config;
  int rank = 0;

  Topology(const ParallelConfig& parallel, int world_rank) : config(parallel), rank(world_rank) {
    CHECK(world_rank >= 0 && world_rank < parallel.world_size());
  }
  int tp_rank() const { return rank % config.tp_size; }
  int pp_rank() const { return rank / config.tp_size; }
  bool first_stage() const { return pp_rank() == 0; }
  bool last_stage() const { return pp_rank() == config.pp_size - 1; }
  int RankOf(int tp_rank, int pp_rank) const { return pp_rank * config.tp_size + tp_rank; }
  // The rank that samples: tp_rank 0 of the last stage.
  int sampler_rank() const { return RankOf(0, config.pp_size - 1); }
};

}  // namespace polystrate
