// Products with few rows, as decode steps have them: bound by the weights' bytes, which are read
// once for all rows.
#pragma once

#include <cstdint>

#include "kernels/cuda/context.h"
#include "kernels/ops.h"

namespace polystrate::cuda {

// Most rows of x. The tensor cores take up to 16 columns of activations for the price of one;
// beyond that the activations are read more often than the weights (each thread block of 16 weight
// rows reads all of x), and cuBLASLt's larger tiles are better. To be measured: 8, 16 and 32.
inline constexpr int64_t kSkinnyRows = 16;

// The contract of Gemm (ops.h), any n and k, at least one row and at most kSkinnyRows.
// A row's results do not depend on the other rows nor on their number, and are the same every time.
void SkinnyGemm(const CudaContext& context, const Tensor& x, const Tensor& weight,
                const Tensor& bias, const Tensor& out, const GemmOptions& options);

// SkinnyGemm's ways, which are its own business. The first streams weights of two bytes through the
// tensor cores and wants 16-byte steps everywhere: false, with nothing done, where it has not. The
// second takes anything.
bool StreamGemm(const CudaContext& context, const Tensor& x, const Tensor& weight,
                const Tensor& bias, const Tensor& out, const GemmOptions& options);
void DotGemm(const CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
             const Tensor& out, const GemmOptions& options);

}  // namespace polystrate::cuda
