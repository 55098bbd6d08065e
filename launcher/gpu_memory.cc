#include "launcher/gpu_memory.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/block_tables.h"
#include "engine/weights.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// The context, cuBLASLt's workspace, uploads, NCCL's buffers, where nothing can be measured.
constexpr int64_t kGuessedInUse = int64_t{1} << 30;
constexpr int kGuessedSms = 132;

// For graphs and code, of which small GPUs keep less.
constexpr int64_t kKept = int64_t{768} << 20;
constexpr int64_t kKeptShare = 20;  // one part in so many

// Of logits that a GPU holds at a time (engine/activations.cc).
constexpr int64_t kLogitBytes = int64_t{256} << 20;
constexpr int64_t kLeastLogitRows = 64;
constexpr int64_t kMostLogitRows = 4096;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t LogitBytes(const ModelConfig& config, int tp_size) {
  const int64_t row = config.vocab_size * SizeOf(DType::kFloat32);
  const int64_t rows = std::clamp(kLogitBytes / row, kLeastLogitRows, kMostLogitRows);
  const int64_t copies = tp_size > 1 ? 3 : 1;  // a rank's own, all ranks' parts, and these together
  return rows * (copies * row + config.hidden_size * 8);
}

// Of the last stage, if it is the last; the tables of rotations and of blocks.
int64_t ActivationBytes(const ModelConfig& config, const GpuMemoryUse& use, bool last_stage) {
  const int64_t element = SizeOf(use.dtype);
  const int64_t heads = int64_t{2} * config.num_heads + 2 * config.num_kv_heads;
  const int64_t per_token = config.hidden_size * (8 + element) + heads * config.head_dim * element +
                            3 * int64_t{config.intermediate_size} * element;
  return use.max_num_batched_tokens * per_token + use.max_model_len * config.rotary_dim * 4 +
         BlockTables::NumBytes(use.max_num_seqs, CeilDiv(use.max_model_len, use.block_size)) +
         (last_stage ? LogitBytes(config, use.parallel.tp_size) : 0);
}

std::string Gib(int64_t num_bytes) {
  return absl::StrFormat("%.2f", static_cast<double>(num_bytes) / (int64_t{1} << 30));
}

}  // namespace

std::string Describe(const GpuMemoryParts& parts) {
  return absl::StrCat(parts.utilization, " of ", Gib(parts.total), " GiB, ", Gib(parts.share),
                      " for this rank: in use ", Gib(parts.in_use),
                      " (CUDA, communicators, scratch, other processes), weights ",
                      Gib(parts.weights), ", activations ", Gib(parts.activations), ", kept ",
                      Gib(parts.kept), " (graphs, code)");
}

absl::Status CheckRoom(const GpuMemoryParts& parts) {
  if (parts.kv_cache() > 0) return absl::OkStatus();
  const int64_t largest = std::max({parts.weights, parts.activations, parts.in_use});
  const char* remedy = largest == parts.weights ? "use more ranks (--tp, --pp)"
                       : largest == parts.activations
                           ? "ask for fewer --max_num_batched_tokens"
                           : "see what else runs there (nvidia-smi), or start fewer ranks on it";
  return absl::ResourceExhaustedError(
      absl::StrCat("nothing of the GPU is left for the KV cache: ", Describe(parts), "; ", remedy,
                   ", or allow more (--gpu_memory_utilization)"));
}

absl::StatusOr<GpuMemoryParts> DivideGpu(const ModelConfig& config, const StagePlan& plan,
                                         int stage, const GpuMemoryUse& use, int64_t total_bytes,
                                         int64_t used_bytes) {
  const Topology topology(use.parallel, stage * use.parallel.tp_size);
  GpuMemoryParts parts;
  ASSIGN_OR_RETURN(parts.weights,
                   StageWeightBytes(config, topology, plan.stages[stage], use.dtype));
  parts.utilization = use.utilization;
  parts.total = total_bytes;
  parts.share =
      static_cast<int64_t>(use.utilization * static_cast<double>(total_bytes)) / use.ranks_per_gpu;
  parts.in_use = used_bytes / use.ranks_per_gpu;
  parts.activations = ActivationBytes(config, use, topology.last_stage());
  parts.kept = std::min(kKept, total_bytes / kKeptShare / use.ranks_per_gpu);
  return parts;
}

absl::StatusOr<GpuMemoryParts> GuessGpu(const ModelConfig& config, const StagePlan& plan,
                                        const GpuMemoryUse& use, int64_t total_bytes) {
  const int64_t used = std::min(kGuessedInUse, total_bytes / kKeptShare) +
                       ScratchBytes(config, use, kGuessedSms) * use.ranks_per_gpu;
  std::optional<GpuMemoryParts> least;
  for (int stage = 0; stage < plan.pp_size(); ++stage) {
    ASSIGN_OR_RETURN(const GpuMemoryParts parts,
                     DivideGpu(config, plan, stage, use, total_bytes, used));
    if (!least.has_value() || parts.kv_cache() < least->kv_cache()) least = parts;
  }
  return *least;
}

// As kernels/cuda/context_cut.cuh has it. Each context is cut into at most 32 spans of 1,024 keys
// or more; into pieces of 64 keys where that makes fewer than 3 blocks for each multiprocessor, and
// then of all sequences no more than would make 16 times that, or of few sequences all there are.
// Decode steps that are recorded are padded: a quarter more sequences, twice as long.
int64_t ScratchBytes(const ModelConfig& config, const GpuMemoryUse& use, int num_sms) {
  constexpr int64_t kSpanKeys = 1024, kMaxSpans = 32, kPieceKeys = 64, kMostPieces = 16;
  constexpr int64_t kProducts = int64_t{64} << 20;  // a few rows of them at a time
  const int64_t heads = CeilDiv(config.num_heads, use.parallel.tp_size);
  const int64_t heads_per_kv_head = CeilDiv(config.num_heads, config.num_kv_heads);
  const int64_t longest = 2 * use.max_model_len;
  const int64_t blocks = 3 * int64_t{num_sms};
  const int64_t spans =
      CeilDiv(5 * use.max_num_seqs, 4) * heads * std::min(kMaxSpans, CeilDiv(longest, kSpanKeys));
  const int64_t pieces =
      heads_per_kv_head *
      std::max(kMostPieces * blocks, CeilDiv(longest, kPieceKeys) * CeilDiv(blocks, kMostPieces));
  const int64_t part = (CeilDiv(config.head_dim, 64) * 64 + 2) * SizeOf(DType::kFloat32);
  const int64_t penalties = (kLeastLogitRows + 1) * config.vocab_size * SizeOf(DType::kFloat32);
  return std::max({std::max(spans, pieces) * part, kProducts, penalties});
}

}  // namespace polystrate
