#include "launcher/engine_setup.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model_cost.h"
#include "kernels/core/device.h"
#include "kernels/core/status.h"
#include "kernels/cuda/memory.h"
#include "launcher/gpu_memory.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

constexpr int64_t kCpuKvMemory = int64_t{1} << 30;

absl::Status CheckRange(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, "; it must be in [", low, ", ", high, "]"));
}

absl::StatusOr<ModelOverrides> ParseOverrides(const ModelFlags& flags) {
  ModelOverrides overrides;
  overrides.kv_source = flags.kv_source;
  if (!flags.reuse_keys.has_value()) return overrides;
  if (*flags.reuse_keys == "post_rope") {
    overrides.reuse_keys = ReuseKeys::kPostRope;
  } else if (*flags.reuse_keys == "pre_rope") {
    overrides.reuse_keys = ReuseKeys::kPreRope;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("--reuse_keys is \"", *flags.reuse_keys,
                                                   "\"; it takes post_rope or pre_rope"));
  }
  return overrides;
}

absl::StatusOr<int64_t> ChooseMaxModelLen(const ModelFlags& flags, const ModelConfig& config) {
  if (!flags.max_model_len.has_value()) return config.max_position_embeddings;
  RETURN_IF_ERROR(
      CheckRange("max_model_len", *flags.max_model_len, 1, config.max_position_embeddings));
  return *flags.max_model_len;
}

// The directory's own name: what clients may give as `model`.
std::string ModelId(const std::string& model_dir) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(model_dir, error);
  return error ? model_dir : path.filename().string();
}

absl::StatusOr<int64_t> ChooseKvMemory(const ModelFlags& flags, const ModelSetup& setup,
                                       GpuMemoryUse use) {
  if (flags.kv_memory.has_value()) return *flags.kv_memory;
  if (setup.device.type == DeviceType::kCpu) return kCpuKvMemory;
  if (!(use.utilization > 0.0 && use.utilization <= 1.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu_memory_utilization is ", use.utilization, "; it must be in (0, 1]"));
  }
  const int num_gpus = NumCudaDevices();
  if (num_gpus == 0) {
    return absl::InvalidArgumentError(
        "there is no GPU here whose memory could be asked for; give --kv_memory");
  }
  use.parallel = setup.parallel;
  use.dtype = setup.dtype;
  use.max_model_len = setup.max_model_len;
  const int local_size = ReadLaunchInfo().local_size;
  use.ranks_per_gpu =
      setup.device.gpu.has_value() ? local_size : (local_size + num_gpus - 1) / num_gpus;
  const int gpu = std::min(setup.device.gpu.value_or(0), num_gpus - 1);
  ASSIGN_OR_RETURN(const GpuMemoryParts parts,
                   GuessGpu(setup.config, setup.stage_plan, use, cuda::TotalMemory(gpu)));
  RETURN_IF_ERROR(CheckRoom(parts));
  return parts.kv_cache();
}

// Over what ranks speak, as far as flags say it.
absl::Status SetUpComm(const EngineFlags& flags, EngineSetup* setup) {
  ASSIGN_OR_RETURN(setup->comm, ParseComm(flags.comm));
  if (setup->comm == CommFlag::kNccl && setup->model.device.type == DeviceType::kCpu) {
    return absl::InvalidArgumentError(
        "--comm nccl needs --device cuda; on CPUs ranks speak over MPI");
  }
  RETURN_IF_ERROR(CheckRange("nccl_timeout", flags.nccl_timeout, 1, 3600));
  setup->nccl_timeout = absl::Seconds(flags.nccl_timeout);
  return absl::OkStatus();
}

}  // namespace

void ModelFlags::AddTo(FlagSet* flags) {
  flags->Add("model", &model, "Hugging Face model directory (required)");
  flags->Add("tp", &tp, "tensor-parallel ranks; must divide the attention heads");
  flags->Add("pp", &pp, "pipeline stages, cut between KV groups");
  flags->Add("stages", &stages,
             "first layer of each stage and the end, as 0,6,12 (default: by cost)");
  flags->Add(
      "dtype", &dtype,
      "float32 or bfloat16, on GPUs also float16 (default: bfloat16 for bfloat16 checkpoints)");
  flags->Add("device", &device,
             "cpu, or cuda: each rank takes a GPU of its host, in turn; cuda:N takes GPU N");
  flags->Add("reuse_keys", &reuse_keys,
             "post_rope or pre_rope: which keys a reusing layer reads; overrides config.json");
  flags->Add("kv_source", &kv_source,
             "layer whose KV cache each layer reads, as 0,0,2,2, or cla2, mlkv4, keep_ends, "
             "dense_front, dense_back; overrides config.json");
  flags->Add("kv_memory", &kv_memory,
             "bytes of KV cache on each rank (default: 1 GiB; on GPUs what "
             "--gpu_memory_utilization leaves)");
  flags->Add("gpu_memory_utilization", &gpu_memory_utilization,
             "share of a GPU's memory that an engine may take, (0, 1]");
  flags->Add("block_size", &block_size, "tokens of a KV block");
  flags->Add("max_model_len", &max_model_len,
             "longest prompt and output together (default: the model's)");
}

void EngineFlags::AddTo(FlagSet* flags) {
  model.AddTo(flags);
  flags->Add("max_num_seqs", &max_num_seqs, "sequences that run at once");
  flags->Add("max_num_batched_tokens", &max_num_batched_tokens,
             "tokens of one step; longer prompts are prefilled in chunks");
  flags->Add(
      "prefill_skip", &prefill_skip,
      "above the last layer that owns a KV cache, compute only rows whose logits are wanted; "
      "the results are the same without (=false)");
  flags->Add("prefix_cache", &prefix_cache,
             "keep the KV blocks of what was computed, for later prompts that begin alike; without "
             "(=false) only the outputs of one request share");
  flags->Add("graphs", &graphs,
             "on GPUs, record decode steps as CUDA graphs; without (=false) every operator is "
             "started by itself");
  flags->Add("async_scheduling", &async_scheduling,
             "on GPUs, plan a step while the one before runs; without (=false) each waits for the "
             "tokens of the one before. The results are the same");
  flags->Add("comm", &comm,
             "what carries tensors between GPUs: nccl, mpi (through the host's memory; ranks may "
             "share a GPU), or auto: nccl where every rank has a GPU of its own");
  flags->Add("nccl_timeout", &nccl_timeout,
             "seconds in which the ranks must have found each other over NCCL, and in which NCCL "
             "must have begun what it is asked for");
  flags->Add("threads", &threads, "threads of each rank (default: an equal share of the cores)");
  flags->Add("load_format", &load_format,
             "auto, or dummy: no checkpoint is read, weights are random; to measure speed");
  flags->Add("timeline", &timeline,
             "write when each stage worked on each step to this file (Chrome trace)");
}

absl::StatusOr<DeviceChoice> ParseDevice(const std::string& flag) {
  if (flag == "cpu") return DeviceChoice{};
  DeviceChoice choice{DeviceType::kCuda, std::nullopt};
  if (flag == "cuda") return choice;
  int gpu = 0;
  if (absl::StartsWith(flag, "cuda:") && absl::SimpleAtoi(flag.substr(5), &gpu) && gpu >= 0) {
    choice.gpu = gpu;
    return choice;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device is \"", flag, "\"; it takes cpu, cuda or cuda:N"));
}

absl::StatusOr<DType> ChooseDType(const std::optional<std::string>& flag, const ModelConfig& config,
                                  DeviceType device) {
  if (!flag.has_value()) {
    return config.torch_dtype == DType::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  }
  if (*flag == "float32") return DType::kFloat32;
  if (*flag == "bfloat16") return DType::kBFloat16;
  if (*flag == "float16") {
    if (device == DeviceType::kCuda) return DType::kFloat16;
    return absl::InvalidArgumentError(
        "--dtype float16 needs --device cuda; the CPU computes in float32 or bfloat16");
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--dtype is \"", *flag, "\"; it takes float32, bfloat16 or, on GPUs, float16"));
}

absl::StatusOr<ModelSetup> SetUpModel(const ModelFlags& flags, int64_t max_num_batched_tokens,
                                      int64_t max_num_seqs) {
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is required");
  RETURN_IF_ERROR(CheckRange("tp", flags.tp, 1, 4096));
  RETURN_IF_ERROR(CheckRange("pp", flags.pp, 1, 4096));
  ASSIGN_OR_RETURN(const ModelOverrides overrides, ParseOverrides(flags));

  ModelSetup setup;
  ASSIGN_OR_RETURN(setup.config, ReadModelConfig(flags.model, overrides));
  setup.parallel = {static_cast<int>(flags.tp), static_cast<int>(flags.pp)};
  RETURN_IF_ERROR(CheckTpDividesHeads(setup.config.num_heads, setup.parallel.tp_size));
  ASSIGN_OR_RETURN(setup.device, ParseDevice(flags.device));
  ASSIGN_OR_RETURN(setup.dtype, ChooseDType(flags.dtype, setup.config, setup.device.type));
  ASSIGN_OR_RETURN(setup.max_model_len, ChooseMaxModelLen(flags, setup.config));
  RETURN_IF_ERROR(CheckSlidingWindow(setup.config, setup.max_model_len));

  const StageCosts costs = StageCostsOf(setup.config);
  if (flags.stages.has_value()) {
    ASSIGN_OR_RETURN(const std::vector<int> cuts, ParseIntList("stages", *flags.stages));
    ASSIGN_OR_RETURN(setup.stage_plan,
                     StagesFromCuts(setup.config.sharing, costs, setup.parallel.pp_size, cuts));
  } else {
    ASSIGN_OR_RETURN(setup.stage_plan,
                     PlanStages(setup.config.sharing, costs, setup.parallel.pp_size));
  }
  MemoryOptions memory;
  memory.tp_size = setup.parallel.tp_size;
  memory.dtype = setup.dtype;
  memory.block_size = flags.block_size;
  GpuMemoryUse use;
  use.max_num_batched_tokens = max_num_batched_tokens;
  use.max_num_seqs = max_num_seqs;
  use.block_size = std::max<int64_t>(1, flags.block_size);
  use.utilization = flags.gpu_memory_utilization;
  ASSIGN_OR_RETURN(memory.kv_memory, ChooseKvMemory(flags, setup, use));
  if (setup.device.type == DeviceType::kCuda && !flags.kv_memory.has_value()) {
    setup.gpu_memory_utilization = flags.gpu_memory_utilization;
  }
  ASSIGN_OR_RETURN(setup.memory, PlanMemory(setup.config, setup.stage_plan, memory));
  return setup;
}

absl::StatusOr<EngineSetup> SetUpEngine(const EngineFlags& flags) {
  RETURN_IF_ERROR(CheckRange("max_num_seqs", flags.max_num_seqs, 1, 65536));
  RETURN_IF_ERROR(CheckRange("max_num_batched_tokens", flags.max_num_batched_tokens, 1, 65536));
  EngineSetup setup;
  ASSIGN_OR_RETURN(setup.model,
                   SetUpModel(flags.model, flags.max_num_batched_tokens, flags.max_num_seqs));
  RETURN_IF_ERROR(SetUpComm(flags, &setup));
  if (flags.threads.has_value()) RETURN_IF_ERROR(CheckRange("threads", *flags.threads, 1, 1024));
  if (flags.load_format != "auto" && flags.load_format != "dummy") {
    return absl::InvalidArgumentError(
        absl::StrCat("--load_format is \"", flags.load_format, "\"; it takes auto or dummy"));
  }
  setup.dummy_weights = flags.load_format == "dummy";

  EngineOptions& engine = setup.engine;
  engine.parallel = setup.model.parallel;
  engine.model_id = ModelId(flags.model.model);
  engine.vocab_size = static_cast<int32_t>(setup.model.config.vocab_size);
  engine.eos_token_ids = setup.model.config.eos_token_ids;
  engine.max_model_len = setup.model.max_model_len;
  engine.block_size = flags.model.block_size;
  engine.num_blocks = setup.model.memory.num_blocks;
  engine.max_num_seqs = flags.max_num_seqs;
  engine.max_num_batched_tokens = flags.max_num_batched_tokens;
  engine.prefix_cache = flags.prefix_cache;
  engine.async_scheduling = flags.async_scheduling;
  engine.stages =
      LayOutStages(setup.model.config.sharing, setup.model.stage_plan, setup.model.memory);

  setup.stage.dtype = setup.model.dtype;
  setup.stage.num_blocks = engine.num_blocks;
  setup.stage.block_size = engine.block_size;
  setup.stage.max_num_batched_tokens = engine.max_num_batched_tokens;
  setup.stage.max_model_len = engine.max_model_len;
  setup.stage.max_num_seqs = engine.max_num_seqs;
  setup.stage.prefill_skip = flags.prefill_skip;
  setup.stage.graphs = flags.graphs;
  return setup;
}

std::string DescribeSetup(const EngineSetup& setup) {
  const ModelConfig& config = setup.model.config;
  const EngineOptions& engine = setup.engine;
  std::string text = absl::StrCat(
      "tp ", engine.parallel.tp_size, ", pp ", engine.parallel.pp_size, ", stages from layer ",
      absl::StrJoin(setup.model.stage_plan.stages, ",",
                    [](std::string* out, const Stage& s) { absl::StrAppend(out, s.first_layer); }));
  absl::StrAppend(&text, setup.model.device.type == DeviceType::kCuda ? ", cuda" : ", cpu",
                  ", comm ", Name(setup.comm), ", ", Name(setup.model.dtype), ", ",
                  setup.model.gpu_memory_utilization.has_value()
                      ? absl::StrCat(*setup.model.gpu_memory_utilization, " of the GPU in")
                      : absl::StrCat(engine.num_blocks),
                  " KV blocks of ", engine.block_size, " tokens, max_model_len ",
                  engine.max_model_len, ", max_num_seqs ", engine.max_num_seqs,
                  ", max_num_batched_tokens ", engine.max_num_batched_tokens, ", prefill skip ",
                  setup.stage.prefill_skip ? "on" : "off");
  absl::StrAppend(&text, ", a model of ", config.num_layers, " layers, hidden_size ",
                  config.hidden_size, ", ", config.num_heads, " heads, ", config.num_kv_heads,
                  " KV heads, vocab_size ", config.vocab_size, ", kv_source ",
                  absl::StrJoin(config.sharing.kv_source, ","), ", ",
                  config.reuse_keys == ReuseKeys::kPostRope ? "post_rope" : "pre_rope",
                  config.use_parallel_residual ? ", parallel residual" : ", serial residual",
                  setup.dummy_weights ? ", dummy weights" : "");
  return text;
}

absl::Status CheckKvMemory(const EngineSetup& setup) {
  if (setup.model.device.type == DeviceType::kCuda) return absl::OkStatus();  // Load will see
  const MemoryPlan& memory = setup.model.memory;
  int64_t num_bytes = 0;
  for (const StageMemory& stage : memory.stages) {
    num_bytes = std::max(num_bytes, memory.num_blocks * stage.kv_bytes_per_block);
  }
  const absl::Status status = Buffer::Allocate(Device{}, num_bytes).status();
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("the KV cache of --kv_memory: ", status.message()));
}

absl::Status CheckTimelinePath(const EngineFlags& flags) {
  if (!flags.timeline.has_value()) return absl::OkStatus();
  if (std::ofstream(*flags.timeline, std::ios::app)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--timeline: cannot write ", *flags.timeline));
}

}  // namespace polystrate
