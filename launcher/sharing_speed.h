// Decode speed of models that differ in how they share KV, measured side by side: at one batch, and
// each at the largest batch that the same KV pool admits.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/paper_variants.h"
#include "kernels/core/dtype.h"
#include "kernels/machine_limits.h"
#include "launcher/bench_machine.h"

namespace polystrate {

struct SharingOptions {
  DType dtype = DType::kBFloat16;
  int64_t batch = 8;       // of the comparison at equal batch
  int64_t context = 2000;  // cached tokens before the first step
  int64_t steps = 47;      // the paper's harness: 2,000 random tokens, then 47 greedy steps
  // Of the steps at the largest batch, which take seconds each, so many are run: spread over the
  // same contexts.
  int64_t largest_batch_steps = 12;
  // Of each model. The default is what 8 sequences of 2,048 tokens of Pythia-160M take, without
  // sharing, in 2-byte elements.
  int64_t kv_memory = int64_t{8} * 2048 * 36864;
  int attention_repeats = 3;
  int64_t sweep_bytes = kSweepBytes;  // read to measure the memory, and to empty the caches
};

// One model at one batch.
struct DecodeSpeed {
  int64_t sequences = 0;
  Timing step;            // seconds
  double bytes = 0;       // a step reads: weights, and what its layers read of the cache
  double operations = 0;  // of a step

  double tokens_per_second() const { return static_cast<double>(sequences) / step.median; }
  // By the byte model: the step reads at the machine's limit and does nothing else.
  double predicted_tokens_per_second(const MachineLimits& limits) const {
    return static_cast<double>(sequences) * limits.read / bytes;
  }
};

// Medians over layers of one kind, seconds; zero where a model has no reusers.
struct AttentionTime {
  double owner = 0;
  double reuser = 0;
};

struct SharingRow {
  PaperVariant variant;
  int64_t kv_resident_bytes = 0;         // per token, of the pool
  int64_t kv_read_bytes = 0;             // per token of context, of a step
  int64_t kv_written_bytes = 0;          // per token decoded, counted in the cache
  int64_t kv_projection_operations = 0;  // per token decoded, of the matrices that are loaded
  DecodeSpeed equal_batch;
  DecodeSpeed largest_batch;
  // What the first step at the largest batch adds to the process, by the system's account: scratch
  // memory that a batch takes beside weights and KV. On the CPU alone: a GPU's is taken before.
  std::optional<int64_t> scratch_bytes;
  AttentionTime cold_attention;     // at equal batch, nothing cached
  AttentionTime ordered_attention;  // layers one after the other, as in a step
};

struct SharingReport {
  SharingOptions options;
  MachineLimits limits;
  std::vector<SharingRow> rows;
};

// All models are resident at once and take turns, so that what else the machine does meets all of
// them. INVALID_ARGUMENT when the pool does not hold `batch` sequences of one; RESOURCE_EXHAUSTED,
// with what is needed, when memory is short. `progress` gets the share that is done.
absl::StatusOr<SharingReport> MeasureSharing(const std::vector<PaperVariant>& variants,
                                             const SharingOptions& options, Stream* stream,
                                             const std::function<void(double)>& progress);

}  // namespace polystrate
