// Everything that passes once over a row: conversion, normalisation, activation, rotation, softmax
// sums.
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/simd.h"

namespace polystrate::cpu::POLYSTRATE_ISA {
namespace {

template <typename T>
void ToFloat(const void* x, int64_t n, float* out) {
  const T* from = static_cast<const T*>(x);
  ForEachVector(
      n, [&](int64_t i, int count) { StoreUpTo(out + i, LoadUpTo(from + i, count), count); });
}

inline Vec Activate(Vec x, Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::kNone:
      return x;
    case Epilogue::kGelu: {
      const Vec half = Mul(x, Set(0.5f));
      return Fma(half, Erf(Mul(x, Set(0.70710678118654752f))), half);
    }
    case Epilogue::kGeluTanh: {
      // x / 2 (1 + tanh u) = x / (1 + exp(-2 u))
      const Vec u =
          Mul(x, Fma(Mul(x, x), Set(0.044715f * 0.79788456080286536f), Set(0.79788456080286536f)));
      return Div(x, Add(Set(1.0f), Exp(Mul(u, Set(-2.0f)))));
    }
    case Epilogue::kRelu:
      return Max(Zero(), x);
    case Epilogue::kSilu:
      return Div(x, Add(Set(1.0f), Exp(Sub(Zero(), x))));
  }
  return x;
}

template <typename T>
void ApplyEpilogue(const float* acc, const float* bias, Epilogue epilogue, int64_t n, void* out) {
  T* to = static_cast<T*>(out);
  ForEachVector(n, [&](int64_t i, int count) {
    Vec x = LoadUpTo(acc + i, count);
    if (bias != nullptr) x = Add(x, LoadUpTo(bias + i, count));
    StoreUpTo(to + i, Activate(x, epilogue), count);
  });
}

template <typename T>
void LayerNorm(const float* x, const float* weight, const float* bias, int64_t n, float epsilon,
               void* out) {
  Vec sum = Zero();
  ForEachVector(n, [&](int64_t i, int count) { sum = Add(sum, LoadUpTo(x + i, count)); });
  const Vec mean = Set(ReduceAdd(sum) / static_cast<float>(n));
  Vec squares = Zero();
  ForEachVector(n, [&](int64_t i, int count) {
    Vec d = Sub(LoadUpTo(x + i, count), mean);
    if (count < kLanes) {  // lanes beyond the row must not count as -mean
      float lanes[kLanes];
      Store(lanes, d);
      d = LoadPartial(lanes, count);
    }
    squares = Fma(d, d, squares);
  });
  const float variance = ReduceAdd(squares) / static_cast<float>(n);
  const Vec scale = Set(1.0f / __builtin_sqrtf(variance + epsilon));
  T* to = static_cast<T*>(out);
  ForEachVector(n, [&](int64_t i, int count) {
    const Vec normed = Mul(Sub(LoadUpTo(x + i, count), mean), scale);
    const Vec y = Fma(normed, LoadUpTo(weight + i, count), LoadUpTo(bias + i, count));
    StoreUpTo(to + i, y, count);
  });
}

// x may be out.
template <typename In, typename Out>
inline void RmsNormRow(const In* x, const float* weight, int64_t n, float epsilon, Out* out) {
  Vec squares = Zero();
  ForEachVector(n, [&](int64_t i, int count) {
    const Vec v = LoadUpTo(x + i, count);  // lanes beyond the row are zero
    squares = Fma(v, v, squares);
  });
  const float mean = ReduceAdd(squares) / static_cast<float>(n);
  const Vec scale = Set(1.0f / __builtin_sqrtf(mean + epsilon));
  ForEachVector(n, [&](int64_t i, int count) {
    const Vec normed = Mul(LoadUpTo(x + i, count), scale);
    StoreUpTo(out + i, Mul(normed, LoadUpTo(weight + i, count)), count);
  });
}

template <typename T>
void RmsNorm(const float* x, const float* weight, int64_t n, float epsilon, void* out) {
  RmsNormRow(x, weight, n, epsilon, static_cast<T*>(out));
}

template <typename T>
void HeadRmsNorm(void* head, const float* weight, int64_t n, float epsilon) {
  RmsNormRow(static_cast<const T*>(head), weight, n, epsilon, static_cast<T*>(head));
}

template <typename T>
void Gate(const void* gate, const void* up, Epilogue epilogue, int64_t n, void* out) {
  const T* a = static_cast<const T*>(gate);
  const T* b = static_cast<const T*>(up);
  T* to = static_cast<T*>(out);
  ForEachVector(n, [&](int64_t i, int count) {
    const Vec activated = Activate(LoadUpTo(a + i, count), epilogue);
    StoreUpTo(to + i, Mul(activated, LoadUpTo(b + i, count)), count);
  });
}

template <typename T>
void Rotate(void* head, const float* cos_sin, int rotary_dim) {
  const int half = rotary_dim / 2;
  T* first = static_cast<T*>(head);
  T* second = first + half;
  ForEachVector(half, [&](int64_t i, int count) {
    const Vec a = LoadUpTo(first + i, count);
    const Vec b = LoadUpTo(second + i, count);
    const Vec cosine = LoadUpTo(cos_sin + i, count);
    const Vec sine = LoadUpTo(cos_sin + half + i, count);
    StoreUpTo(first + i, Sub(Mul(a, cosine), Mul(b, sine)), count);
    StoreUpTo(second + i, Fma(b, cosine, Mul(a, sine)), count);
  });
}

void AddTo(const float* y, int64_t n, float* x) {
  ForEachVector(n, [&](int64_t i, int count) {
    StoreUpTo(x + i, Add(LoadUpTo(x + i, count), LoadUpTo(y + i, count)), count);
  });
}

RowSummary Summarize(const float* x, int64_t n) {
  RowSummary summary = {-__builtin_inff(), false};
  Vec max = Set(summary.max);
  Vec nan_or_zero = Zero();  // x - x is NaN for infinities too, so look for NaN itself
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = Load(x + i);
    max = Max(v, max);  // keeps max where v is NaN
    nan_or_zero = Select(IsNan(v), v, nan_or_zero);
  }
  summary.max = ReduceMax(max);
  summary.invalid = Any(IsNan(nan_or_zero));
  for (; i < n; ++i) {
    if (x[i] > summary.max) summary.max = x[i];
    if (x[i] != x[i]) summary.invalid = true;
  }
  return summary;
}

double SumExp(const float* x, int64_t n, float max, float scale, float* out) {
  constexpr int64_t kChunk = 1024;  // float32 partial sums stay short
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t size = n - begin < kChunk ? n - begin : kChunk;
    Vec sum = Zero();
    ForEachVector(size, [&](int64_t i, int count) {
      Vec e = Exp(Mul(Sub(LoadUpTo(x + begin + i, count), Set(max)), Set(scale)));
      if (out != nullptr) StoreUpTo(out + begin + i, e, count);
      if (count < kLanes) {
        float lanes[kLanes];
        Store(lanes, e);
        e = LoadPartial(lanes, count);
      }
      sum = Add(sum, e);
    });
    total += static_cast<double>(ReduceAdd(sum));
  }
  return total;
}

template <typename T>
void MergePartials(const float* partials, int num_partials, int64_t stride, int head_dim,
                   void* out) {
  float max = -__builtin_inff();
  for (int p = 0; p < num_partials; ++p) {
    // The negated comparison lets a NaN through.
    if (!(partials[p * stride] <= max)) max = partials[p * stride];
  }
  float sum = 0.0f;
  for (int p = 0; p < num_partials; ++p) {
    float weight[kLanes];
    Store(weight, Exp(Set(partials[p * stride] - max)));
    sum += weight[0] * partials[p * stride + 1];
  }
  T* to = static_cast<T*>(out);
  ForEachVector(head_dim, [&](int64_t i, int count) {
    Vec acc = Zero();
    for (int p = 0; p < num_partials; ++p) {
      const float* partial = partials + p * stride;
      acc = Fma(Exp(Set(partial[0] - max)), LoadUpTo(partial + 16 + i, count), acc);
    }
    StoreUpTo(to + i, Div(acc, Set(sum)), count);
  });
}

template <typename T>
void SetTyped(TypedKernels* kernels) {
  kernels->epilogue = ApplyEpilogue<T>;
  kernels->to_float = ToFloat<T>;
  kernels->layer_norm = LayerNorm<T>;
  kernels->rms_norm = RmsNorm<T>;
  kernels->head_rms_norm = HeadRmsNorm<T>;
  kernels->gate = Gate<T>;
  kernels->rotate = Rotate<T>;
  kernels->merge_partials = MergePartials<T>;
}

}  // namespace

void SetPointwise(CpuKernels* kernels) {
  SetTyped<float>(&kernels->float32);
  SetTyped<uint16_t>(&kernels->bfloat16);
  kernels->add = AddTo;
  kernels->summarize = Summarize;
  kernels->sum_exp = SumExp;
}

}  // namespace polystrate::cpu::POLYSTRATE_ISA
