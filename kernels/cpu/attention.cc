// Cuts the ragged batch into tasks of one KV head, one tile of query rows and one range of keys,
// and lets the threads take them in turn. How a sequence is cut depends on that sequence alone,
// never on the batch or the number of threads, so results do not either.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"

namespace polystrate::cpu {
namespace {

// A sequence with this few query rows per KV head splits its keys, so that one long context can
// occupy all threads. More rows give enough tiles without.
constexpr int64_t kSplitRows = 32;
constexpr int64_t kMinSplitKeys = 512;
constexpr int64_t kMaxSplits = 32;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Query heads [begin, end) of this rank read one KV head.
struct HeadRange {
  int64_t begin;
  int64_t end;
};

// One sequence's part of the step and how it is cut.
struct SequencePlan {
  int64_t first_query;  // row of the query tensor
  int64_t num_queries;
  int64_t context_len;
  const int32_t* block_table;
  int64_t num_tiles;  // per KV head, of kAttentionRows rows
  int64_t num_splits;
  int64_t split_keys;
  int64_t first_task;
  int64_t first_partial;  // in rows of PartialStride floats
};

// The step: everything a task needs, read-only while the threads run.
struct StepContext {
  const Tensor& query;
  const KvSlot& slot;
  const AttentionOptions& options;
  const Tensor& out;
  const CpuContext& context;
  int64_t num_heads;
  int64_t num_kv_heads;
  SequencePlan* plans;
  int64_t num_sequences;
  float* partials;

  HeadRange Heads(int64_t kv_head) const {
    const int64_t group = options.queries_per_kv_head, phase = options.query_head_phase;
    const int64_t begin = std::max<int64_t>(0, kv_head * group - phase);
    return {begin, std::max(begin, std::min(num_heads, (kv_head + 1) * group - phase))};
  }
};

// Fills plans; returns the number of tasks, and the rows of partial results they need.
int64_t PlanSequences(const StepContext& step, const AttentionBatch& batch, int64_t* num_partials) {
  const int64_t block_size = step.slot.key.dim(2);
  int64_t num_tasks = 0;
  *num_partials = 0;
  for (int64_t i = 0; i < step.num_sequences; ++i) {
    SequencePlan& plan = step.plans[i];
    plan.first_query = batch.cu_seqlens_q.data<int32_t>()[i];
    plan.num_queries = batch.cu_seqlens_q.data<int32_t>()[i + 1] - plan.first_query;
    plan.context_len = batch.context_lens.data<int32_t>()[i];
    plan.block_table = batch.block_tables.data<int32_t>() + i * batch.block_tables.row_stride();
    CHECK_GE(plan.num_queries, 0);
    CHECK(plan.num_queries <= plan.context_len || plan.context_len == 0);
    CHECK_LE(CeilDiv(plan.context_len, block_size), batch.block_tables.dim(1));
    if (step.options.rotate_keys != nullptr) {
      CHECK_LE(plan.context_len, step.options.rotate_keys->cos_sin.dim(0));
    }
    const int64_t rows = plan.num_queries * step.options.queries_per_kv_head;
    plan.num_tiles = CeilDiv(rows, kAttentionRows);
    plan.split_keys = plan.context_len;
    if (rows <= kSplitRows) {
      const int64_t least = CeilDiv(plan.context_len, kMaxSplits);
      plan.split_keys = CeilDiv(std::max(least, kMinSplitKeys), kMinSplitKeys) * kMinSplitKeys;
    }
    plan.num_splits = CeilDiv(plan.context_len, std::max<int64_t>(1, plan.split_keys));
    plan.first_task = num_tasks;
    plan.first_partial = *num_partials;
    num_tasks += step.num_kv_heads * plan.num_tiles * plan.num_splits;
    if (plan.num_splits > 1) *num_partials += plan.num_splits * plan.num_queries * step.num_heads;
  }
  return num_tasks;
}

const SequencePlan& PlanOf(const StepContext& step, int64_t task) {
  const SequencePlan* begin = step.plans;
  const SequencePlan* end = begin + step.num_sequences;
  // Sequences without queries have no tasks: the last plan that begins here is the one.
  return *(std::upper_bound(begin, end, task,
                            [](int64_t t, const SequencePlan& p) { return t < p.first_task; }) -
           1);
}

char* At(const Tensor& x, int64_t row, int64_t column) {
  return static_cast<char*>(x.raw()) + (row * x.row_stride() + column) * SizeOf(x.dtype());
}

// Partial results of a sequence: [kv head][split][query token, head of the KV head].
float* PartialsOf(const StepContext& step, const SequencePlan& plan, HeadRange heads,
                  int64_t split) {
  const int64_t rows_before = plan.num_queries * heads.begin * plan.num_splits;
  const int64_t rows = plan.num_queries * (heads.end - heads.begin);
  return step.partials +
         (plan.first_partial + rows_before + split * rows) * PartialStride(step.options.head_dim);
}

void RunTask(const StepContext& step, int64_t task_index, float* scratch) {
  const SequencePlan& plan = PlanOf(step, task_index);
  const AttentionOptions& options = step.options;
  int64_t index = task_index - plan.first_task;
  const int64_t split = index % plan.num_splits;
  index /= plan.num_splits;
  // Later tiles see more keys: starting with them evens out the threads.
  const int64_t tile = plan.num_tiles - 1 - index % plan.num_tiles;
  const int64_t kv_head = index / plan.num_tiles;
  const HeadRange heads = step.Heads(kv_head);
  const int64_t num_heads = heads.end - heads.begin;
  const int64_t first_row = tile * kAttentionRows;
  const int64_t num_rows =
      std::min<int64_t>(kAttentionRows, plan.num_queries * num_heads - first_row);
  if (num_rows <= 0) return;

  const int64_t head_elements = step.slot.key.dim(2) * options.head_dim;
  AttentionTask task;
  task.query = At(step.query, plan.first_query, heads.begin * options.head_dim);
  task.query_stride = step.query.row_stride();
  task.num_heads = static_cast<int>(num_heads);
  task.head_dim = options.head_dim;
  task.first_row = first_row;
  task.num_rows = static_cast<int>(num_rows);
  task.first_position = plan.context_len - plan.num_queries;
  task.scale = options.scale;
  const int64_t head_bytes = kv_head * head_elements * SizeOf(step.slot.key.dtype());
  task.key = static_cast<const char*>(step.slot.key.raw()) + head_bytes;
  task.value = static_cast<const char*>(step.slot.value.raw()) + head_bytes;
  task.block_stride = step.num_kv_heads * head_elements;
  task.block_table = plan.block_table;
  task.block_size = static_cast<int>(step.slot.key.dim(2));
  task.key_begin = split * plan.split_keys;
  const int64_t last_visible = task.first_position + (first_row + num_rows - 1) / num_heads;
  task.key_end = std::min((split + 1) * plan.split_keys, last_visible + 1);
  const RopeTable* rotate = options.rotate_keys;
  task.cos_sin = rotate == nullptr ? nullptr : rotate->cos_sin.data<float>();
  task.rotary_dim = rotate == nullptr ? 0 : rotate->rotary_dim;
  task.out = At(step.out, plan.first_query, heads.begin * options.head_dim);
  task.out_stride = step.out.row_stride();
  task.partial = plan.num_splits > 1 ? PartialsOf(step, plan, heads, split) : nullptr;
  task.scratch = scratch;
  step.context.kernels(step.query.dtype()).attend(task);
}

// The rows of a sequence that has no keys.
void ZeroRows(const StepContext& step, const SequencePlan& plan) {
  for (int64_t t = 0; t < plan.num_queries; ++t) {
    std::memset(At(step.out, plan.first_query + t, 0), 0,
                step.out.dim(1) * SizeOf(step.out.dtype()));
  }
}

void MergeSplits(const StepContext& step, const SequencePlan& plan) {
  const int64_t stride = PartialStride(step.options.head_dim);
  const auto merge = step.context.kernels(step.out.dtype()).merge_partials;
  for (int64_t kv_head = 0; kv_head < step.num_kv_heads; ++kv_head) {
    const HeadRange heads = step.Heads(kv_head);
    const int64_t num_heads = heads.end - heads.begin, rows = plan.num_queries * num_heads;
    const float* partials = PartialsOf(step, plan, heads, 0);
    for (int64_t r = 0; r < rows; ++r) {
      merge(partials + r * stride, static_cast<int>(plan.num_splits), rows * stride,
            step.options.head_dim,
            At(step.out, plan.first_query + r / num_heads,
               (heads.begin + r % num_heads) * step.options.head_dim));
    }
  }
}

}  // namespace

void PagedAttention(CpuContext& context, const Tensor& query, const KvSlot& slot,
                    const AttentionBatch& batch, const AttentionOptions& options,
                    const Tensor& out) {
  const int64_t num_sequences = batch.context_lens.dim(0);
  StepContext step{query,           slot,
                   options,         out,
                   context,         query.dim(1) / options.head_dim,
                   slot.key.dim(1), context.plan_arena().Get<SequencePlan>(num_sequences),
                   num_sequences,   nullptr};
  int64_t num_partials = 0;
  const int64_t num_tasks = PlanSequences(step, batch, &num_partials);
  step.partials = context.shared_arena().Get<float>(num_partials * PartialStride(options.head_dim));
  int64_t work = 0;
  for (int64_t i = 0; i < num_sequences; ++i) {
    work += step.plans[i].num_queries * step.plans[i].context_len * query.dim(1);
  }
  ParallelFor(context, num_tasks, work, [&](int64_t task, int thread) {
    Arena& arena = context.thread_arena(thread);
    RunTask(step, task, arena.Get<float>(AttentionScratch(options.head_dim)));
  });
  for (int64_t i = 0; i < num_sequences; ++i) {
    if (step.plans[i].num_splits > 1) MergeSplits(step, step.plans[i]);
    if (step.plans[i].context_len == 0) ZeroRows(step, step.plans[i]);
  }
}

}  // namespace polystrate::cpu
