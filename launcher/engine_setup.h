// EngineSetup: from the flags that generate, score and serve share to what every rank agrees on
// before it loads anything: model facts, stage plan, memory plan, engine options. Pure but for
// reading config.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/memory_plan.h"
#include "engine/model_config.h"
#include "engine/pipeline_stage.h"
#include "launcher/flags.h"
#include "parallel/device_binding.h"
#include "parallel/stage_plan.h"

namespace polystrate {

// Which model, and how it is cut: also what `plan` takes.
struct ModelFlags {
  std::string model;
  int64_t tp = 1;
  int64_t pp = 1;
  std::optional<std::string> stages;
  std::optional<std::string> dtype;
  std::string device = "cpu";
  std::optional<std::string> reuse_keys;
  std::optional<std::string> kv_source;
  std::optional<int64_t> kv_memory;
  double gpu_memory_utilization = 0.9;
  int64_t block_size = 16;
  std::optional<int64_t> max_model_len;

  void AddTo(FlagSet* flags);
};

inline constexpr int64_t kDefaultBatchedTokens = 512;
inline constexpr int64_t kDefaultNumSeqs = 64;

struct EngineFlags {
  ModelFlags model;
  int64_t max_num_seqs = kDefaultNumSeqs;
  int64_t max_num_batched_tokens = kDefaultBatchedTokens;
  bool prefill_skip = true;
  bool prefix_cache = true;
  bool graphs = true;
  bool async_scheduling = true;
  std::string comm = "auto";
  int64_t nccl_timeout = 60;
  std::optional<int64_t> threads;
  std::string load_format = "auto";
  std::optional<std::string> timeline;

  void AddTo(FlagSet* flags);
};

// Where ranks run: --device. Each rank takes a GPU of its own host, `gpu` if it is given.
struct DeviceChoice {
  DeviceType type = DeviceType::kCpu;
  std::optional<int> gpu;
};
absl::StatusOr<DeviceChoice> ParseDevice(const std::string& flag);

// All that follows from ModelFlags.
struct ModelSetup {
  DeviceChoice device;
  ModelConfig config;
  ParallelConfig parallel;
  DType dtype = DType::kFloat32;
  StagePlan stage_plan;
  MemoryPlan memory;
  // Set where the KV cache gets what a GPU has left: `memory` is a guess then, until ranks have
  // asked theirs (RankSession::PrepareGpu).
  std::optional<double> gpu_memory_utilization;
  int64_t max_model_len = 0;
};
// `max_num_batched_tokens`, `max_num_seqs`: of the engine it is for.
absl::StatusOr<ModelSetup> SetUpModel(const ModelFlags& flags, int64_t max_num_batched_tokens,
                                      int64_t max_num_seqs);

struct EngineSetup {
  ModelSetup model;
  bool dummy_weights = false;  // --load_format dummy
  CommFlag comm = CommFlag::kAuto;
  absl::Duration nccl_timeout;
  EngineOptions engine;
  StageOptions stage;
};
absl::StatusOr<EngineSetup> SetUpEngine(const EngineFlags& flags);

// All that ranks must have in common, in words: ranks that differ would write outside their memory
// or wait for messages that never come.
std::string DescribeSetup(const EngineSetup& setup);

// RESOURCE_EXHAUSTED when the machine would not give the largest stage's KV cache. Rank 0 asks
// before it makes an Engine, whose books have an entry for each block and take their memory at
// once.
absl::Status CheckKvMemory(const EngineSetup& setup);

// INVALID_ARGUMENT when --timeline names a file that cannot be written; rank 0 asks before it
// works, because the file is written last.
absl::Status CheckTimelinePath(const EngineFlags& flags);

// bfloat16 checkpoints run in bfloat16, all others in float32, unless the flag says otherwise.
absl::StatusOr<DType> ChooseDType(const std::optional<std::string>& flag, const ModelConfig& config,
                                  DeviceType device);

}  // namespace polystrate
