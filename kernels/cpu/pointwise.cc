// Operators that touch each element once: embedding, normalisation, gating, addition.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"

namespace polystrate::cpu {
namespace {

constexpr int64_t kElementsPerRange = 16 * 1024;

int64_t RowsPerRange(int64_t row_elements) {
  return std::max<int64_t>(1, kElementsPerRange / std::max<int64_t>(1, row_elements));
}

// Address of row `row` of a matrix, whatever its type.
char* Row(const Tensor& x, int64_t row) {
  return static_cast<char*>(x.raw()) + row * x.row_stride() * SizeOf(x.dtype());
}

// Row t of x += row t of y, both float32.
void AddRow(const CpuContext& context, const Tensor& y, int64_t t, const Tensor& x) {
  context.kernels().add(reinterpret_cast<const float*>(Row(y, t)), x.dim(1),
                        reinterpret_cast<float*>(Row(x, t)));
}

}  // namespace

void EmbeddingLookup(CpuContext& context, const Tensor& ids, const Tensor& table,
                     int32_t vocab_begin, const Tensor& out, const Tensor& drawn) {
  const int64_t hidden_size = table.dim(1);
  const auto to_float = context.kernels(table.dtype()).to_float;
  for (int64_t t = 0; t < ids.dim(0); ++t) {
    float* row = reinterpret_cast<float*>(Row(out, t));
    int32_t id = ids.data<int32_t>()[t];
    if (id < 0 && !drawn.empty()) id = std::max(drawn.data<int32_t>()[FedToken(id)], 0);
    const int64_t held = int64_t{id} - vocab_begin;
    if (held >= 0 && held < table.dim(0)) {
      to_float(Row(table, held), hidden_size, row);
    } else {
      std::fill_n(row, hidden_size, 0.0f);
    }
  }
}

void LayerNorm(CpuContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
               float epsilon, const Tensor& out, const Tensor& add) {
  const int64_t hidden_size = x.dim(1);
  const auto layer_norm = context.kernels(out.dtype()).layer_norm;
  ParallelForRanges(context, x.dim(0), RowsPerRange(hidden_size), x.num_elements(),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t t = begin; t < end; ++t) {
                        if (!add.empty()) AddRow(context, add, t, x);
                        layer_norm(reinterpret_cast<const float*>(Row(x, t)), weight.data<float>(),
                                   bias.data<float>(), hidden_size, epsilon, Row(out, t));
                      }
                    });
}

void RmsNorm(CpuContext& context, const Tensor& x, const Tensor& weight, float epsilon,
             const Tensor& out, const Tensor& add) {
  const int64_t hidden_size = x.dim(1);
  const auto rms_norm = context.kernels(out.dtype()).rms_norm;
  ParallelForRanges(context, x.dim(0), RowsPerRange(hidden_size), x.num_elements(),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t t = begin; t < end; ++t) {
                        if (!add.empty()) AddRow(context, add, t, x);
                        rms_norm(reinterpret_cast<const float*>(Row(x, t)), weight.data<float>(),
                                 hidden_size, epsilon, Row(out, t));
                      }
                    });
}

void HeadRmsNorm(CpuContext& context, const Tensor& weight, float epsilon, const Tensor& x) {
  const int64_t head_dim = weight.dim(0);
  const int64_t num_heads = x.dim(1) / head_dim;
  const int64_t head_bytes = head_dim * SizeOf(x.dtype());
  const auto head_rms_norm = context.kernels(x.dtype()).head_rms_norm;
  ParallelForRanges(context, x.dim(0), RowsPerRange(x.dim(1)), x.num_elements(),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t t = begin; t < end; ++t) {
                        for (int64_t h = 0; h < num_heads; ++h) {
                          head_rms_norm(Row(x, t) + h * head_bytes, weight.data<float>(), head_dim,
                                        epsilon);
                        }
                      }
                    });
}

void GatedActivation(CpuContext& context, const Tensor& gate_up, Activation activation,
                     const Tensor& out) {
  const int64_t n = out.dim(1);
  const auto gate = context.kernels(out.dtype()).gate;
  ParallelForRanges(context, out.dim(0), RowsPerRange(n), gate_up.num_elements(),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t t = begin; t < end; ++t) {
                        const char* row = Row(gate_up, t);
                        gate(row, row + n * SizeOf(out.dtype()), ToEpilogue(activation), n,
                             Row(out, t));
                      }
                    });
}

void AddInPlace(CpuContext& context, const Tensor& y, const Tensor& x) {
  ParallelForRanges(context, x.dim(0), RowsPerRange(x.dim(1)), x.num_elements(),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t t = begin; t < end; ++t) AddRow(context, y, t, x);
                    });
}

void ConcatColumns(CpuContext&, const Tensor& parts, const Tensor& out) {
  const int64_t num_tokens = parts.dim(1);
  const int64_t n = parts.dim(2);
  for (int64_t part = 0; part < parts.dim(0); ++part) {
    const float* from = parts.data<float>() + part * num_tokens * n;
    for (int64_t t = 0; t < num_tokens; ++t) {
      std::copy_n(from + t * n, n, reinterpret_cast<float*>(Row(out, t)) + part * n);
    }
  }
}

}  // namespace polystrate::cpu
