// CpuKernels: the serial inner loops of the CPU operators, compiled once per instruction set.
//
// The files in cpu/isa/ are compiled several times with different -m flags. Any inline function
// they instantiate might be the copy the linker keeps for the whole program, with instructions that
// other processors lack. So they see this header and intrinsics alone: raw pointers, plain structs,
// no std.
#pragma once

#include <cstdint>

namespace polystrate::cpu {

// A tile of x weight^T. Pointers are to T; out is float32.
struct DotTask {
  const void* x;  // [num_rows, k], x_stride elements apart
  int64_t x_stride;
  int num_rows;
  const void* weight;  // [n, k], contiguous; may be followed by more rows, which are prefetched
  int n;
  int64_t k;
  float* out;  // [num_rows, n], out_stride apart
  int64_t out_stride;
};

enum class Epilogue : uint8_t { kNone, kGelu, kGeluTanh, kRelu, kSilu };

// Query rows [first_row, first_row + num_rows) of one sequence and one KV head against the keys
// [key_begin, key_end). Row r is query token r / num_heads, head r % num_heads of those that share
// the KV head; token t sees the keys at positions <= first_position + t.
struct AttentionTask {
  const void* query;  // token 0, first head; T
  int64_t query_stride;
  int num_heads;
  int head_dim;
  int64_t first_row;
  int num_rows;
  int64_t first_position;
  float scale;

  const void* key;  // this KV head in block 0; T
  const void* value;
  int64_t block_stride;  // elements between blocks
  const int32_t* block_table;
  int block_size;
  int64_t key_begin;
  int64_t key_end;
  const float* cos_sin;  // rotary table that rotates the keys, or null
  int rotary_dim;

  void* out;  // token 0, first head; T; unused when partial is set
  int64_t out_stride;
  // Where to leave maximum, sum and unnormalised output of each row (PartialStride floats apart)
  // instead of the result, when the keys are split over several tasks.
  float* partial;
  float* scratch;  // AttentionScratch floats, aligned to 64 bytes
};

// Both instruction sets lay out rows of head_dim in multiples of the widest vector.
constexpr int64_t PaddedHeadDim(int head_dim) { return (int64_t{head_dim} + 15) / 16 * 16; }
constexpr int64_t PartialStride(int head_dim) { return PaddedHeadDim(head_dim) + 16; }
constexpr int kAttentionRows = 96;  // most rows of a task
constexpr int kAttentionKeys = 64;  // keys of one step of the online softmax
constexpr int64_t AttentionScratch(int head_dim) {
  return (2 * kAttentionRows + 3 * kAttentionKeys) * PaddedHeadDim(head_dim) +
         kAttentionRows * (kAttentionKeys + 2) + 64;
}

// Operators over T; `void*` points to T (bfloat16 as its bits).
struct TypedKernels {
  void (*dot)(const DotTask& task);
  // out = epilogue(acc + bias) over n elements; bias may be null.
  void (*epilogue)(const float* acc, const float* bias, Epilogue epilogue, int64_t n, void* out);
  void (*to_float)(const void* x, int64_t n, float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int64_t n,
                     float epsilon, void* out);
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float epsilon, void* out);
  // In place.
  void (*head_rms_norm)(void* head, const float* weight, int64_t n, float epsilon);
  // out = epilogue(gate) * up.
  void (*gate)(const void* gate, const void* up, Epilogue epilogue, int64_t n, void* out);
  // Rotates one head in place; cos_sin is the row of its position.
  void (*rotate)(void* head, const float* cos_sin, int rotary_dim);
  void (*attend)(const AttentionTask& task);
  // out = the softmax-weighted mean of `num_partials` results `stride` floats apart.
  void (*merge_partials)(const float* partials, int num_partials, int64_t stride, int head_dim,
                         void* out);
};

// What a row of logits needs before a token can be drawn.
struct RowSummary {
  float max;     // over the row, NaN aside
  bool invalid;  // holds a NaN
};

struct CpuKernels {
  TypedKernels float32;
  TypedKernels bfloat16;
  void (*add)(const float* y, int64_t n, float* x);  // x += y
  RowSummary (*summarize)(const float* x, int64_t n);
  // sum of exp((x[i] - max) * scale); also stored to out[i] unless out is null.
  double (*sum_exp)(const float* x, int64_t n, float max, float scale, float* out);
};

enum class Isa : uint8_t { kAvx2, kAvx512Bf16 };
bool Supports(Isa isa);
Isa BestIsa();
// The table for `isa`, which the processor must support.
CpuKernels KernelsFor(Isa isa);

namespace avx2 {
CpuKernels MakeKernels();
}
namespace avx512 {
CpuKernels MakeKernels();
}

}  // namespace polystrate::cpu
