#include "launcher/decode_session.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/memory_plan.h"
#include "engine/model_cost.h"
#include "engine/weights.h"
#include "kernels/core/copy.h"
#include "kernels/core/status.h"
#include "kernels/machine_limits.h"
#include "kernels/ops.h"
#include "launcher/device_integers.h"
#include "parallel/stage_plan.h"

namespace polystrate {
namespace {

int64_t MatrixElements(const LayerWeights& layer) {
  return layer.qkv_proj.weight.num_elements() + layer.o_proj.weight.num_elements() +
         layer.gate_up_proj.weight.num_elements() + layer.down_proj.weight.num_elements();
}

// Values of a cache repeat after so many, which no sequence's begin is a multiple of.
constexpr int64_t kPatternElements = (int64_t{1} << 24) - 3;

// Elements of `size` bytes whose bits are not all ones; by words, as gigabytes are looked at.
int64_t CountWritten(const char* bytes, int64_t num_bytes, int64_t size) {
  constexpr uint64_t kOnes = ~uint64_t{0};
  constexpr int64_t kWord = sizeof(kOnes);
  int64_t written = 0;
  for (int64_t begin = 0; begin < num_bytes; begin += kWord) {
    const int64_t end = std::min(begin + kWord, num_bytes);
    if (end - begin == kWord && std::memcmp(bytes + begin, &kOnes, kWord) == 0) continue;
    for (int64_t at = begin; at < end; at += size) {
      if (std::memcmp(bytes + at, &kOnes, size) != 0) ++written;
    }
  }
  return written;
}

int64_t BytesPerToken(const KvSlot& slot) {
  const int64_t tokens = slot.key.dim(0) * slot.key.dim(2);  // blocks, block_size
  return (slot.key.num_bytes() + slot.value.num_bytes()) / tokens;
}

}  // namespace

DecodeSession::DecodeSession(const ModelConfig& config, const DecodeOptions& options,
                             Stream* stream)
    : config_(config), options_(options), stream_(*stream) {}

absl::StatusOr<std::unique_ptr<DecodeSession>> DecodeSession::Create(const ModelConfig& config,
                                                                     const DecodeOptions& options,
                                                                     Stream* stream) {
  CHECK(
      !config.use_key_value_mlp);  // none of the papers' models; kv_projection_operations() counts
  CHECK(options.sequence_len >= 1 && options.sequence_len <= config.max_position_embeddings);
  std::unique_ptr<DecodeSession> session(new DecodeSession(config, options, stream));
  RETURN_IF_ERROR(session->TakeMemory());
  const OwnedTensor pattern(options.dtype, {kPatternElements});
  session->FillPool(*pattern);
  return session;
}

absl::Status DecodeSession::TakeMemory() {
  ASSIGN_OR_RETURN(const StagePlan plan,
                   PlanStages(config_.sharing, StageCostsOf(config_), /*pp_size=*/1));
  const MemoryOptions memory_options{1, options_.dtype, options_.block_size, options_.kv_memory};
  ASSIGN_OR_RETURN(const MemoryPlan memory, PlanMemory(config_, plan, memory_options));

  const int64_t per_sequence =
      (options_.sequence_len + options_.block_size - 1) / options_.block_size;
  const int64_t most = options_.max_sequences == 0 ? memory.num_blocks : options_.max_sequences;
  BlockPool blocks(memory.num_blocks);
  for (std::vector<int32_t> table; max_sequences() < most && blocks.Allocate(per_sequence, &table);
       table.clear()) {
    block_tables_.push_back(table);
  }
  if (block_tables_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kv_memory ", options_.kv_memory, " holds no sequence of ", options_.sequence_len,
        " tokens: one takes ", per_sequence * memory.stages[0].kv_bytes_per_block, " bytes"));
  }

  const Topology topology({1, 1}, 0);
  ASSIGN_OR_RETURN(StageWeights weights, DummyStageWeights(config_, topology, plan.stages[0],
                                                           options_.dtype, stream_.device()));
  StageOptions stage_options;
  stage_options.dtype = options_.dtype;
  stage_options.num_blocks = blocks.num_used();
  stage_options.block_size = options_.block_size;
  stage_options.max_num_batched_tokens = std::max(max_sequences(), options_.max_prompt_tokens);
  stage_options.max_model_len = options_.sequence_len;
  stage_options.max_num_seqs = max_sequences();
  ASSIGN_OR_RETURN(stage_,
                   PipelineStage::Create({topology, stream_, groups_}, config_, plan.stages[0],
                                         std::move(weights), stage_options));
  return absl::OkStatus();
}

void DecodeSession::FillPool(const Tensor& pattern) {
  Buffer& pool = stage_->kv_cache().pool();
  const int64_t elements = pool.num_bytes() / SizeOf(options_.dtype);
  const Tensor all(pool.data(), options_.dtype, stream_.device(), {elements});
  for (int64_t begin = 0; begin < elements; begin += pattern.dim(0)) {
    const int64_t count = std::min(pattern.dim(0), elements - begin);
    CopyNow(pattern.Rows(0, count), all.Rows(begin, count));
  }
}

void DecodeSession::Begin(int64_t num_sequences, int64_t context) {
  CHECK(num_sequences >= 1 && num_sequences <= max_sequences());
  context_ = context;
  next_tokens_.resize(num_sequences);
  for (int64_t i = 0; i < num_sequences; ++i) {
    next_tokens_[i] = static_cast<int32_t>((i * 7919 + 1) % config_.vocab_size);
  }
  MakePlan();
}

// One token of each sequence, after context_ tokens.
void DecodeSession::MakePlan() {
  CHECK_LT(context_, options_.sequence_len);
  const auto n = static_cast<int64_t>(next_tokens_.size());
  const auto position = static_cast<int32_t>(context_);
  const int64_t block = context_ / options_.block_size;
  plan_ = StepPlan();
  plan_.token_ids = next_tokens_;
  plan_.positions.assign(n, position);
  plan_.context_lens.assign(n, position + 1);
  plan_.max_blocks = static_cast<int32_t>(block + 1);
  plan_.cu_seqlens_q = {0};
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<int32_t>& table = block_tables_[i];
    plan_.cu_seqlens_q.push_back(static_cast<int32_t>(i + 1));
    plan_.slot_mapping.push_back(
        static_cast<int32_t>(table[block] * options_.block_size + context_ % options_.block_size));
    plan_.table_rows.push_back(static_cast<int32_t>(i));
    SampleRow greedy;
    greedy.temperature = 0.0f;
    greedy.position = static_cast<uint64_t>(context_ + 1);
    plan_.samples.push_back({static_cast<uint64_t>(i), static_cast<int32_t>(i), greedy});
  }
}

// Sequences keep their blocks, so the stage is told with the first plan.
void DecodeSession::Launch() {
  const auto num_tables = static_cast<int32_t>(block_tables_.size());
  for (int32_t row = 0; !told_blocks_ && row < num_tables; ++row) {
    const std::vector<int32_t>& table = block_tables_[row];
    for (int32_t index = 0; index < static_cast<int32_t>(table.size()); ++index) {
      plan_.new_blocks.push_back({row, index, table[index]});
    }
  }
  told_blocks_ = true;
  stage_->Launch(plan_);
  plan_.new_blocks.clear();
}

double DecodeSession::RunPlan(std::optional<StepResult>* result) {
  const double start = Now();
  Launch();
  *result = stage_->Finish();
  return Now() - start;
}

double DecodeSession::Prefill(int64_t num_sequences, int64_t prompt_len) {
  CHECK(num_sequences >= 1 && num_sequences <= max_sequences());
  CHECK(prompt_len >= 1 && prompt_len <= options_.sequence_len);
  const int64_t blocks = (prompt_len + options_.block_size - 1) / options_.block_size;
  plan_ = StepPlan();
  plan_.max_blocks = static_cast<int32_t>(blocks);
  plan_.context_lens.assign(num_sequences, static_cast<int32_t>(prompt_len));
  plan_.cu_seqlens_q = {0};
  for (int64_t i = 0; i < num_sequences; ++i) {
    const std::vector<int32_t>& table = block_tables_[i];
    for (int64_t t = 0; t < prompt_len; ++t) {
      plan_.token_ids.push_back(
          static_cast<int32_t>(((i * prompt_len + t) * 7919 + 1) % config_.vocab_size));
      plan_.positions.push_back(static_cast<int32_t>(t));
      plan_.slot_mapping.push_back(static_cast<int32_t>(
          table[t / options_.block_size] * options_.block_size + t % options_.block_size));
    }
    const auto end = static_cast<int32_t>(plan_.token_ids.size());
    plan_.cu_seqlens_q.push_back(end);
    plan_.table_rows.push_back(static_cast<int32_t>(i));
    SampleRow greedy;
    greedy.temperature = 0.0f;
    greedy.position = static_cast<uint64_t>(prompt_len);
    plan_.samples.push_back({static_cast<uint64_t>(i), end - 1, greedy});
  }
  std::optional<StepResult> result;
  return RunPlan(&result);
}

double DecodeSession::Step(bool advance) {
  std::optional<StepResult> result;
  const double seconds = RunPlan(&result);
  if (!advance) return seconds;
  CHECK(result.has_value());
  for (const SampledToken& token : result->samples) {
    CHECK_GE(token.token_id, 0);
    next_tokens_[token.sequence_id] = token.token_id;
  }
  ++context_;
  MakePlan();
  return seconds;
}

std::vector<double> DecodeSession::AttentionSeconds(int repeats,
                                                    const std::function<void()>& sweep) {
  const int64_t n = num_sequences();
  const Device device = stream_.device();
  const DeviceIntegers starts(device, plan_.cu_seqlens_q), lengths(device, plan_.context_lens);
  std::vector<int32_t> blocks;
  for (int64_t i = 0; i < n; ++i) {
    const auto begin = block_tables_[i].begin();
    blocks.insert(blocks.end(), begin, begin + plan_.max_blocks);
  }
  const DeviceIntegers tables(device, blocks);
  const AttentionBatch batch = {starts.View({n + 1}), lengths.View({n}),
                                tables.View({n, plan_.max_blocks}), /*max_seqlen_q=*/1,
                                /*max_context_len=*/context_ + 1};
  const int64_t width = int64_t{config_.num_heads} * config_.head_dim;
  const OwnedTensor query(options_.dtype, {n, width}, device);
  const OwnedTensor out(options_.dtype, {n, width}, device);
  AttentionOptions options;
  options.head_dim = config_.head_dim;
  options.queries_per_kv_head = config_.num_heads / config_.num_kv_heads;
  options.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));

  const auto attend = [&](int layer) {
    PagedAttention(stream_, *query, stage_->kv_cache().slot(layer), batch, options, *out);
  };
  std::vector<double> medians;
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    const auto others = [&] {
      for (int i = 1; i < config_.num_layers; ++i) attend((layer + i) % config_.num_layers);
    };
    const std::function<void()> before = sweep ? sweep : others;
    medians.push_back(Time(
                          stream_, repeats, [&] { attend(layer); }, before)
                          .median);
  }
  return medians;
}

int64_t DecodeSession::CountBytesWrittenPerToken() {
  // All ones is a NaN that no rounding makes. The first token of a sequence reads itself alone.
  const OwnedTensor chunk(options_.dtype, {kPatternElements});
  const int64_t element = SizeOf(options_.dtype);
  std::memset((*chunk).raw(), 0xff, (*chunk).num_bytes());
  FillPool(*chunk);
  Begin(num_sequences(), /*context=*/0);
  std::optional<StepResult> result;
  RunPlan(&result);
  const Buffer& pool = stage_->kv_cache().pool();
  const int64_t elements = pool.num_bytes() / element;
  const Tensor all(pool.data(), options_.dtype, stream_.device(), {elements});
  int64_t written = 0;
  for (int64_t begin = 0; begin < elements; begin += kPatternElements) {
    const int64_t count = std::min(kPatternElements, elements - begin);
    CopyNow(all.Rows(begin, count), (*chunk).Rows(0, count));
    const auto* bytes = static_cast<const char*>((*chunk).raw());
    written += CountWritten(bytes, count * element, element) * element;
  }
  CHECK_EQ(written % num_sequences(), 0);
  return written / num_sequences();
}

int64_t DecodeSession::kv_resident_bytes() const {
  int64_t bytes = 0;
  for (int layer : config_.sharing.owners()) bytes += BytesPerToken(stage_->kv_cache().slot(layer));
  return bytes;
}

int64_t DecodeSession::kv_read_bytes() const {
  int64_t bytes = 0;
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    bytes += BytesPerToken(stage_->kv_cache().slot(layer));
  }
  return bytes;
}

int64_t DecodeSession::weight_bytes() const {
  return stage_->weights().num_bytes() - stage_->weights().embedding.num_bytes();
}

int64_t DecodeSession::matrix_operations() const {
  int64_t elements = stage_->weights().lm_head.num_elements();
  for (const LayerWeights& layer : stage_->weights().layers) elements += MatrixElements(layer);
  return 2 * elements;
}

double DecodeSession::PrefillOperations(int64_t num_sequences, int64_t prompt_len) const {
  const auto n = static_cast<double>(num_sequences), length = static_cast<double>(prompt_len);
  const double head = 2.0 * static_cast<double>(stage_->weights().lm_head.num_elements());
  const double layers = static_cast<double>(matrix_operations()) - head;
  const double pairs = length * (length + 1) / 2;
  return n * (length * layers + head + pairs * static_cast<double>(attention_operations()));
}

int64_t DecodeSession::kv_projection_operations() const {
  const int64_t query_rows = int64_t{config_.num_heads} * config_.head_dim;
  int64_t rows = 0;
  for (const LayerWeights& layer : stage_->weights().layers) {
    rows += layer.qkv_proj.weight.dim(0) - query_rows;
  }
  return 2 * rows * config_.hidden_size;
}

int64_t DecodeSession::attention_operations() const {
  return int64_t{4} * config_.num_layers * config_.num_heads * config_.head_dim;
}

}  // namespace polystrate
