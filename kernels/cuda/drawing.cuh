// The draw of a token from one row of logits by one block, without sorting the row.
//
// Weights are integers (token_weights.cuh), so that their sums are exact in whatever order they are
// made, and a draw depends on its row alone. What is asked of the order by place (place.cuh) is
// always: at which token does the count or the weight of all up to it reach a number? A histogram
// over the distance to the best token finds the bucket; its tokens, or better all up to it, are
// sorted in shared memory when they are few, as they nearly always are, and then answer the next
// question too; otherwise histograms over the bits of the logits follow, until few are left, or
// equals alone.
#pragma once

#include "kernels/core/philox.h"
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/place.cuh"
#include "kernels/cuda/token_weights.cuh"
#include "kernels/ops.h"

namespace polystrate::cuda {

inline constexpr int kBuckets = 2048;
inline constexpr int kMaxHeld = 2048;  // tokens that are sorted; a power of two
inline constexpr int kNumDigits = 4;   // the distance, then 11, 11 and 10 bits

// Of a number of tokens.
struct Amount {
  Mass count = 0;
  Mass mass = 0;

  __device__ Amount operator+(Amount other) const {
    return {count + other.count, mass + other.mass};
  }
};
enum class Measure : uint8_t { kCount, kMass };
__device__ __forceinline__ Mass Of(Amount amount, Measure measure) {
  return measure == Measure::kCount ? amount.count : amount.mass;
}

// Where a sum over items reaches a number.
struct Crossing {
  int32_t index;
  Mass count_before, mass_before;  // of the items before
  Mass count, mass;                // of this one
};

struct DrawShared {
  Mass masses[kBuckets];  // of the histogram, or of the warps' stretches of ids
  unsigned counts[kBuckets];
  Place held[kMaxHeld];
  unsigned num_held;
  Mass partials[kMaxWarps];
  Crossing crossing;
};

// A part of a row's tokens in the order of places: all; those of some buckets of distances; of one
// bucket's, those whose logits share leading bits.
struct Part {
  int num_digits = 0;        // that are known
  int32_t first_bucket = 0;  // the first digit, from and to
  int32_t last_bucket = 0;
  uint32_t prefix = 0;  // the others
  Amount before;        // of the tokens before the part
  Amount amount;        // of its own

  __device__ bool Holds(Mass needed, Measure measure) const {
    return Of(before, measure) < needed && needed <= Of(before + amount, measure);
  }
};

class RowDraw {
 public:
  __device__ RowDraw(const float* logits, int32_t vocab_size, const Weights& weights,
                     DrawShared* shared)
      : logits_(logits), vocab_size_(vocab_size), weights_(weights), shared_(shared) {}

  // The token that `row` draws; all threads of the block get it.
  __device__ int32_t Draw(const SampleRow& row) {
    const auto fraction =  // of 2^64
        static_cast<Mass>(UniformDraw(row.seed, row.position) * 0x1p53) << 11;
    if (!row.DrawsInOrder(vocab_size_)) {
      const auto weight = [this](float logit) { return weights_.Of(logit); };
      const Mass total = SumStretches(weight);
      return FindInOrderOfIds(weight, __umul64hi(fraction, total) + 1);
    }
    const Amount all = MakeHistogram(Part());
    has_distances_ = true;
    Found found = {0, all.mass};
    for (int step = 0; step < 3; ++step) {
      const auto limit = static_cast<Limit>(step);
      Mass needed = __umul64hi(fraction, found.mass) + 1;
      if (limit == Limit::kTopK) {
        if (!row.HasTopK(vocab_size_) || static_cast<Mass>(row.top_k) >= all.count) continue;
        needed = static_cast<Mass>(row.top_k);
      } else if (limit == Limit::kTopP) {
        if (row.top_p >= 1.0f) continue;
        needed = MassOfTopP(row.top_p, found.mass);
      }
      found = Find(needed, limit == Limit::kTopK ? Measure::kCount : Measure::kMass);
    }
    return found.id;
  }

 private:
  // What is asked of the order, one after the other; each takes what the last left.
  enum class Limit : uint8_t { kTopK, kTopP, kDraw };
  struct Found {
    int32_t id;
    Mass mass;  // of this token and all before it
  };

  // Of all tokens' mass, where `mass` is that of the tokens which are looked at.
  __device__ Mass MassOfTopP(float top_p, Mass mass) const {
    const double whole = max(static_cast<double>(mass), weights_.total());
    const double needed = ceil(static_cast<double>(top_p) * whole);
    if (needed < 1.0) return 1;
    return min(static_cast<Mass>(needed), mass);
  }

  // f(id, logit) of all tokens, several loads of a thread under way at a time.
  template <typename F>
  __device__ void ForEachToken(const F& f) const {
    constexpr int kAtOnce = 8;
    const auto step = static_cast<int32_t>(blockDim.x);
    auto i = static_cast<int32_t>(threadIdx.x);
    for (; i + (kAtOnce - 1) * step < vocab_size_; i += kAtOnce * step) {
      float values[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) values[j] = logits_[i + j * step];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) f(i + j * step, values[j]);
    }
    for (; i < vocab_size_; i += step) f(i, logits_[i]);
  }

  // Where the sum over amount_of(0), amount_of(1), ... reaches `needed`, which it does.
  template <typename F>
  __device__ Crossing Cross(int32_t size, const F& amount_of, Amount before, Mass needed,
                            Measure measure) {
    const auto threads = static_cast<int32_t>(blockDim.x);
    const int32_t each = (size + threads - 1) / threads;
    const int32_t begin = min(size, each * static_cast<int32_t>(threadIdx.x));
    const int32_t end = min(size, begin + each);
    Amount mine;
    for (int32_t i = begin; i < end; ++i) mine = mine + amount_of(i);
    Amount at = before + Amount{BlockScan(mine.count, shared_->partials),
                                BlockScan(mine.mass, shared_->partials)};
    for (int32_t i = begin; i < end; ++i) {
      const Amount here = amount_of(i);
      if (Of(at, measure) < needed && needed <= Of(at + here, measure)) {
        shared_->crossing = {i, at.count, at.mass, here.count, here.mass};
      }
      at = at + here;
    }
    __syncthreads();
    return shared_->crossing;
  }

  // The sum of mass_of(logit) over the row, and in shared_->masses those of the warps' stretches of
  // ids.
  template <typename F>
  __device__ Mass SumStretches(const F& mass_of) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int32_t begin = min(vocab_size_, warp * StretchLength());
    const int32_t end = min(vocab_size_, begin + StretchLength());
    Mass sum = 0;
#pragma unroll 8
    for (int32_t i = begin + lane; i < end; i += kWarp) sum += mass_of(logits_[i]);
    sum = WarpReduce(sum, Plus());
    if (lane == 0) shared_->masses[warp] = sum;
    return BlockReduce(lane == 0 ? sum : 0, Mass{0}, Plus(), shared_->partials);
  }
  // The first id up to which the sum of mass_of(logit) reaches `needed`, after SumStretches.
  template <typename F>
  __device__ int32_t FindInOrderOfIds(const F& mass_of, Mass needed) {
    const auto num_warps = static_cast<int32_t>(blockDim.x) / kWarp;
    const Crossing stretch = Cross(
        num_warps,
        [&](int32_t i) {
          return Amount{0, shared_->masses[i]};
        },
        Amount(), needed, Measure::kMass);
    const int32_t begin = stretch.index * StretchLength();
    const int32_t length = min(StretchLength(), vocab_size_ - begin);
    return begin + Cross(
                       length,
                       [&](int32_t i) {
                         return Amount{0, mass_of(logits_[begin + i])};
                       },
                       {0, stretch.mass_before}, needed, Measure::kMass)
                       .index;
  }
  __device__ int32_t StretchLength() const {
    const auto num_warps = static_cast<int32_t>(blockDim.x) / kWarp;
    return (vocab_size_ + num_warps - 1) / num_warps;
  }

  // Bucket of the distance to the best token, in steps of 1/64; what is 32 and more below it weighs
  // nothing.
  __device__ int32_t Bucket(float logit) const {
    return static_cast<int32_t>(fminf(-64.0f * weights_.Scaled(logit), kBuckets - 1.0f));
  }
  // The digit that follows those that `part` knows; -1: not in the part.
  __device__ int32_t NextDigit(const Part& part, float logit) const {
    const int32_t bucket = Bucket(logit);
    if (part.num_digits == 0) return bucket;
    const uint32_t order = LogitOrder(logit);
    const int shift = ShiftOfDigit(part.num_digits);
    const int width = part.num_digits == kNumDigits - 1 ? 10 : 11;
    const bool inside = bucket == part.last_bucket &&
                        (part.num_digits == 1 || order >> (shift + width) == part.prefix);
    return inside ? static_cast<int32_t>(order >> shift & ((1u << width) - 1)) : -1;
  }
  __device__ static int ShiftOfDigit(int digit) { return digit == 1 ? 21 : digit == 2 ? 10 : 0; }
  // Of a part that knows a digit.
  __device__ bool Inside(const Part& part, float logit) const {
    const int32_t bucket = Bucket(logit);
    if (bucket < part.first_bucket || bucket > part.last_bucket) return false;
    return part.num_digits == 1 ||
           LogitOrder(logit) >> ShiftOfDigit(part.num_digits - 1) == part.prefix;
  }

  // The histogram of the part's next digit; returns what all its tokens come to.
  __device__ Amount MakeHistogram(const Part& part) {
    for (int i = static_cast<int>(threadIdx.x); i < kBuckets; i += static_cast<int>(blockDim.x)) {
      shared_->masses[i] = 0;
      shared_->counts[i] = 0;
    }
    __syncthreads();
    Amount all;
    ForEachToken([&](int32_t, float logit) {
      const Mass mass = weights_.Of(logit);
      const int32_t digit = mass == 0 ? -1 : NextDigit(part, logit);
      if (digit < 0) return;
      all = all + Amount{1, mass};
      atomicAdd(&shared_->masses[digit], mass);
      atomicAdd(&shared_->counts[digit], 1u);
    });
    all.count = BlockReduce(all.count, Mass{0}, Plus(), shared_->partials);
    all.mass = BlockReduce(all.mass, Mass{0}, Plus(), shared_->partials);
    return all;
  }

  // The part of `part` where `needed` is reached, by the histogram of its next digit.
  __device__ Part Narrow(const Part& part, Mass needed, Measure measure) {
    const Crossing crossing = Cross(
        kBuckets,
        [&](int32_t i) {
          return Amount{shared_->counts[i], shared_->masses[i]};
        },
        part.before, needed, measure);
    Part next = part;
    ++next.num_digits;
    const auto digit = static_cast<uint32_t>(crossing.index);
    if (part.num_digits == 0) {
      next.first_bucket = next.last_bucket = crossing.index;
    } else {
      next.prefix = part.prefix << (part.num_digits == kNumDigits - 1 ? 10 : 11) | digit;
    }
    next.before = {crossing.count_before, crossing.mass_before};
    next.amount = {crossing.count, crossing.mass};
    return next;
  }

  // Sorts held_'s tokens, few enough, into shared_->held.
  __device__ void Hold() {
    if (threadIdx.x == 0) shared_->num_held = 0;
    __syncthreads();
    ForEachToken([&](int32_t id, float logit) {
      if (!Inside(held_, logit) || weights_.Of(logit) == 0) return;
      shared_->held[atomicAdd(&shared_->num_held, 1u)] = PlaceOf(logit, id);
    });
    __syncthreads();
    const auto num_held = static_cast<int>(held_.amount.count);
    int size = 1;
    while (size < num_held) size *= 2;
    for (int i = num_held + static_cast<int>(threadIdx.x); i < size;
         i += static_cast<int>(blockDim.x)) {
      shared_->held[i] = kNoPlace;
    }
    SortHeld(size);
  }
  // Batcher's bitonic network (1968).
  __device__ void SortHeld(int size) {
    Place* places = shared_->held;
    for (int run = 2; run <= size; run *= 2) {
      for (int gap = run / 2; gap > 0; gap /= 2) {
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < size / 2;
             i += static_cast<int>(blockDim.x)) {
          const int low = 2 * i - (i & (gap - 1)), high = low + gap;
          const Place a = places[low], b = places[high];
          if ((a > b) == ((low & run) == 0)) {
            places[low] = b;
            places[high] = a;
          }
        }
      }
    }
    __syncthreads();
  }

  // A part in which `needed` is reached, and which is held, or equals alone, into held_.
  __device__ void Seek(Mass needed, Measure measure) {
    Part part;
    do {
      if (part.num_digits > 0 || !has_distances_) MakeHistogram(part);
      has_distances_ = part.num_digits == 0;
      part = Narrow(part, needed, measure);
    } while (part.amount.count > kMaxHeld && part.num_digits < kNumDigits);
    const Amount through = part.before + part.amount;
    if (part.num_digits == 1 && through.count <= kMaxHeld) {
      part.first_bucket = 0;
      part.before = Amount();
      part.amount = through;
    }
    held_ = part;
    if (part.amount.count <= kMaxHeld) Hold();
  }

  __device__ Found Find(Mass needed, Measure measure) {
    if (!held_.Holds(needed, measure)) Seek(needed, measure);
    if (held_.amount.count > kMaxHeld) return FindAmongEquals(needed, measure);
    const Crossing crossing = Cross(
        static_cast<int32_t>(held_.amount.count),
        [&](int32_t i) {
          return Amount{1, weights_.Of(LogitOf(shared_->held[i]))};
        },
        held_.before, needed, measure);
    return {IdOf(shared_->held[crossing.index]), crossing.mass_before + crossing.mass};
  }
  // held_ is too many tokens of one logit.
  __device__ Found FindAmongEquals(Mass needed, Measure measure) {
    const Mass weight = held_.amount.mass / held_.amount.count;
    const Mass more = needed - Of(held_.before, measure);
    const Mass number = measure == Measure::kCount ? more : (more + weight - 1) / weight;
    const uint32_t order = held_.prefix;
    const auto is_equal = [=](float logit) { return LogitOrder(logit) == order ? Mass{1} : 0; };
    has_distances_ = false;
    SumStretches(is_equal);
    return {FindInOrderOfIds(is_equal, number), held_.before.mass + number * weight};
  }

  const float* logits_;
  const int32_t vocab_size_;
  const Weights weights_;
  DrawShared* shared_;
  bool has_distances_ = false;  // the histogram of distances stands in shared_
  Part held_;                   // what shared_->held is; at first nothing
};

}  // namespace polystrate::cuda
