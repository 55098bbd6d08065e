// Rotation of heads, alone and on the way into the cache.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct RotateParams {
  const float* cos_sin;
  int rotary_dim;
  const int32_t* positions;
  int head_dim;
  T* query;
  int64_t query_stride;
  int num_heads;     // of the query
  int num_kv_heads;  // 0: no key and no value, and nothing below is read
  bool rotate_key;
  const T* key;
  int64_t key_stride;
  const T* value;
  int64_t value_stride;
  const int32_t* slot_mapping;
  T* key_slot;
  T* value_slot;
  int block_size;
};

// to[j ..], to[half + j ..] = those of head, rotated; to may be head.
template <int kPack, typename T>
__device__ __forceinline__ void RotatePacks(const T* head, const float* cos_sin, int half, int j,
                                            T* to) {
  float a[kPack], b[kPack], cosine[kPack], sine[kPack];
  LoadPack(head + j, a);
  LoadPack(head + half + j, b);
  LoadPack(cos_sin + j, cosine);
  LoadPack(cos_sin + half + j, sine);
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const float first = fmaf(a[i], cosine[i], -(b[i] * sine[i]));
    b[i] = fmaf(b[i], cosine[i], a[i] * sine[i]);
    a[i] = first;
  }
  StorePack(a, to + j);
  StorePack(b, to + half + j);
}

// Work on one token comes in units, counted from the query's: two packs that are rotated, or one
// that is copied as it is.
template <int kPack, typename T>
struct Units {
  int pairs;      // that are rotated, of a head
  int key_pairs;  // the same of a key's head
  int per_key;
  int per_value;
  int query;  // of the whole token
  int keys;
  int values;

  __host__ __device__ explicit Units(const RotateParams<T>& p)
      : pairs(p.rotary_dim / 2 / kPack),
        key_pairs(p.rotate_key ? pairs : 0),
        per_key(p.head_dim / kPack - key_pairs),
        per_value(p.head_dim / kPack),
        query(p.num_heads * pairs),
        keys(p.num_kv_heads * per_key),
        values(p.num_kv_heads * per_value) {}
};

// Unit `unit` of the key's, and behind them the value's, to the token's place in the slot.
template <int kPack, typename T>
__device__ __forceinline__ void Store(const RotateParams<T>& p, const Units<kPack, T>& units,
                                      int unit, const float* cos_sin, int where) {
  const int64_t token = blockIdx.x;
  const bool is_key = unit < units.keys;
  if (!is_key) unit -= units.keys;
  const int per_head = is_key ? units.per_key : units.per_value;
  const int head = unit / per_head;
  unit -= head * per_head;
  const int block = where / p.block_size;
  const int64_t row =
      (int64_t{block} * p.num_kv_heads + head) * p.block_size + where % p.block_size;
  const T* from = (is_key ? p.key + token * p.key_stride : p.value + token * p.value_stride) +
                  head * p.head_dim;
  T* to = (is_key ? p.key_slot : p.value_slot) + row * p.head_dim;
  if (is_key && unit < units.key_pairs) {
    return RotatePacks<kPack>(from, cos_sin, p.rotary_dim / 2, unit * kPack, to);
  }
  const int first = (is_key ? unit + units.key_pairs : unit) * kPack;  // each pair was two packs
  PackOf<T, kPack> pack;
  pack.Load(from + first);
  pack.Store(to + first);
}

// Grid: (tokens, chunks of a token's units). Block: kThreads. Shared memory: none. Moves what is
// rotated of the query there and back, and key and value once in and once out; the table's rows
// stay in L1. Bound by memory, and for few tokens by the way there twice, first for the position.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads) RotateKernel(const RotateParams<T> p) {
  LetNextKernelStart();
  WaitForKernelBefore();
  const Units<kPack, T> units(p);
  const int64_t token = blockIdx.x;
  int unit = blockIdx.y * kThreads + threadIdx.x;
  if (unit >= units.query + units.keys + units.values) return;
  const float* cos_sin = p.cos_sin + int64_t{p.positions[token]} * p.rotary_dim;
  if (unit < units.query) {
    const int head = unit / units.pairs;
    T* at = p.query + token * p.query_stride + head * p.head_dim;
    return RotatePacks<kPack>(at, cos_sin, p.rotary_dim / 2, (unit - head * units.pairs) * kPack,
                              at);
  }
  const int where = p.slot_mapping[token];
  if (where >= 0) Store<kPack>(p, units, unit - units.query, cos_sin, where);
}

template <int kPack, typename T>
void LaunchRotate(const CudaContext& context, const RotateParams<T>& p, int64_t num_tokens) {
  const Units<kPack, T> units(p);
  const int per_token = units.query + units.keys + units.values;
  const dim3 grid(num_tokens, (per_token + kThreads - 1) / kThreads);
  LaunchEarly(context, RotateKernel<T, kPack>, grid, dim3(kThreads), 0, p);
}

// By packs of 16 bytes where all heads and both halves of what is rotated begin at one.
template <typename T>
void LaunchRotate(const CudaContext& context, const RotateParams<T>& p, int64_t num_tokens,
                  bool aligned) {
  constexpr int kPack = kAccessBytes / sizeof(T);
  if (aligned && p.rotary_dim / 2 % kPack == 0) {
    LaunchRotate<kPack>(context, p, num_tokens);
  } else {
    LaunchRotate<1>(context, p, num_tokens);
  }
}

template <typename T>
RotateParams<T> MakeParams(const RopeTable& rope, const Tensor& positions, int head_dim,
                           const Tensor& query) {
  RotateParams<T> p = {};
  p.cos_sin = rope.cos_sin.data<float>();
  p.rotary_dim = rope.rotary_dim;
  p.positions = positions.data<int32_t>();
  p.head_dim = head_dim;
  if (query.empty()) return p;
  p.query = static_cast<T*>(query.raw());
  p.query_stride = query.row_stride();
  p.num_heads = static_cast<int>(query.dim(1) / head_dim);
  return p;
}

bool HeadsAligned(const Tensor& x, int head_dim) {
  return x.empty() || PacksAligned(x, head_dim, static_cast<int>(kAccessBytes / SizeOf(x.dtype())));
}

// Where both halves of what is rotated begin at a pack, so do a row's cosines and sines.
bool TableAligned(const RopeTable& rope) {
  return reinterpret_cast<uintptr_t>(rope.cos_sin.raw()) % kAccessBytes == 0;
}

}  // namespace

void ApplyRope(CudaContext& context, const RopeTable& rope, const Tensor& positions, int head_dim,
               const Tensor& x) {
  DispatchType(x.dtype(), [&]<typename T>(T*) {
    LaunchRotate(context, MakeParams<T>(rope, positions, head_dim, x), x.dim(0),
                 TableAligned(rope) && HeadsAligned(x, head_dim));
  });
}

void RotateAndStoreKv(CudaContext& context, const RopeTable& rope, const Tensor& positions,
                      int head_dim, bool rotate_key, const Tensor& query, const Tensor& key,
                      const Tensor& value, const Tensor& slot_mapping, const KvSlot& slot) {
  bool aligned = TableAligned(rope);
  for (const Tensor& x : {query, key, value}) aligned = aligned && HeadsAligned(x, head_dim);
  for (const Tensor& x : {slot.key, slot.value}) aligned = aligned && HeadsAligned(x, head_dim);
  DispatchType(key.dtype(), [&]<typename T>(T*) {
    RotateParams<T> p = MakeParams<T>(rope, positions, head_dim, query);
    p.num_kv_heads = static_cast<int>(slot.key.dim(1));
    p.rotate_key = rotate_key;
    p.key = static_cast<const T*>(key.raw());
    p.key_stride = key.row_stride();
    p.value = static_cast<const T*>(value.raw());
    p.value_stride = value.row_stride();
    p.slot_mapping = slot_mapping.data<int32_t>();
    p.key_slot = static_cast<T*>(slot.key.raw());
    p.value_slot = static_cast<T*>(slot.value.raw());
    p.block_size = static_cast<int>(slot.key.dim(2));
    LaunchRotate(context, p, key.dim(0), aligned);
  });
}

}  // namespace polystrate::cuda
