// How fast the attention operator alone is, over a paged cache of random keys and values.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/core/dtype.h"
#include "kernels/machine_limits.h"

namespace polystrate {

struct AttentionShape {
  bool prefill = false;  // every token of the context is a query too; else each sequence has one
  int64_t num_sequences = 1;
  int64_t context = 1;
  int num_heads = 1;
  int num_kv_heads = 1;
  int head_dim = 64;
  bool warpgroups = false;  // of a GPU: CudaContext::set_warpgroups

  int64_t num_queries() const { return prefill ? num_sequences * context : num_sequences; }
  // What must be read or written once: keys, values, queries, results.
  double Bytes(DType dtype) const;
  // Of the products with keys and values that causality leaves.
  double Operations() const;
};

struct AttentionBenchOptions {
  DType dtype = DType::kBFloat16;
  int64_t block_size = 16;
  int repeats = 21;
  int64_t sweep_bytes = kSweepBytes;  // read before each, so that the cache comes from memory
};

// Seconds of one call for each shape, in their order, nothing of them cached. RESOURCE_EXHAUSTED,
// with the bytes, when the largest does not fit. `progress` gets the share that is done.
absl::StatusOr<std::vector<Timing>> MeasureAttention(const Stream& stream,
                                                     const std::vector<AttentionShape>& shapes,
                                                     const AttentionBenchOptions& options,
                                                     const std::function<void(double)>& progress);

}  // namespace polystrate
