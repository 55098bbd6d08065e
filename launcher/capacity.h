// How much KV cache a model's tokens take and how many sequences a pool admits, asked of the
// engine's own allocators rather than of a formula.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "kernels/core/dtype.h"

namespace polystrate {

struct CapacityOptions {
  DType dtype = DType::kBFloat16;
  int64_t block_size = 16;
  int64_t kv_memory = int64_t{7} << 30;  // of the pool that sequences are admitted to
  int64_t sequence_len = 2048;
  int64_t resident_sequences = 16;  // of the pool that is touched
};

struct Capacity {
  double bytes_per_token = 0;   // of the pool that was taken: its bytes / its tokens
  int64_t formula_bytes = 0;    // 2 * owners * kv_heads * head_dim * bytes(dtype)
  int64_t max_sequences = 0;    // admitted before the block allocator refused one
  int64_t resident_bytes = 0;   // what a pool for resident_sequences, wholly written, added to
                                // the process by the system's account
  int64_t resident_tokens = 0;  // that it holds
};

// One process holds the whole model. Takes the pool of kv_memory without touching it, so it may be
// larger than what is free. INVALID_ARGUMENT when not even one sequence fits; RESOURCE_EXHAUSTED
// when the pool cannot be had, or the one that is written would not fit the memory that is
// available.
absl::StatusOr<Capacity> MeasureCapacity(const ModelConfig& config, const CapacityOptions& options);

// One pool of the linearity grid: `elements` is owners * kv_heads * sequences * tokens of each.
struct ResidentSample {
  int owners = 0;
  int kv_heads = 0;
  int64_t sequences = 0;
  int64_t sequence_len = 0;
  int64_t resident_bytes = 0;

  double product() const {
    return static_cast<double>(owners) * kv_heads * static_cast<double>(sequences * sequence_len);
  }
};

// Resident memory of pools over a grid of owners, KV heads, sequences and lengths, for a model of
// `head_dim`; `largest` bounds owners * kv_heads * sequences * sequence_len.
absl::StatusOr<std::vector<ResidentSample>> MeasureLinearity(int head_dim, double largest,
                                                             const CapacityOptions& options);

// Least squares of y = intercept + slope * x.
struct LinearFit {
  double slope = 0;
  double intercept = 0;
  double r_squared = 0;
  double largest_residual = 0;  // of |y - fit|
};
LinearFit FitResident(const std::vector<ResidentSample>& samples);

}  // namespace polystrate
