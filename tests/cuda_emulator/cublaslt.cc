#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "tests/cuda_emulator/stream.h"

struct cublasLtContext {};
struct cublasLtMatmulPreferenceOpaque_t {};

struct cublasLtMatmulDescOpaque_t {
  cublasOperation_t transpose_a = CUBLAS_OP_N;
  cublasOperation_t transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int bias_type = -1;  // D's
};

struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  int64_t rows, columns, stride;
};

namespace polystrate::emulator {
namespace {

using Layout = cublasLtMatrixLayoutOpaque_t;

constexpr int kBiasBit = 4, kReluBit = 2, kGeluBit = 32;

float Load(const void* data, cudaDataType_t type, int64_t index) {
  switch (type) {
    case CUDA_R_16F:
      return static_cast<const __half*>(data)[index];
    case CUDA_R_16BF:
      return static_cast<const __nv_bfloat16*>(data)[index];
    default:
      return static_cast<const float*>(data)[index];
  }
}

void Store(void* data, cudaDataType_t type, int64_t index, float value) {
  switch (type) {
    case CUDA_R_16F:
      static_cast<__half*>(data)[index] = value;
      break;
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(data)[index] = value;
      break;
    default:
      static_cast<float*>(data)[index] = value;
  }
}

// The matrix as float32 with k contiguous: `outer` rows of `k`. By columns it is so already when k
// is its first dimension.
std::vector<float> Gather(const void* data, const Layout& layout, bool k_first) {
  const int64_t k = k_first ? layout.rows : layout.columns;
  const int64_t outer = k_first ? layout.columns : layout.rows;
  std::vector<float> values(static_cast<size_t>(outer * k));
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < k; ++i) {
      const int64_t row = k_first ? i : o, column = k_first ? o : i;
      values[o * k + i] = Load(data, layout.type, column * layout.stride + row);
    }
  }
  return values;
}

float Dot(const float* a, const float* b, int64_t k) {
  constexpr int kLanes = 8;
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) sums[l] += a[i + l] * b[i + l];
  }
  float sum = 0.0f;
  for (; i < k; ++i) sum += a[i] * b[i];
  for (float lane : sums) sum += lane;
  return sum;
}

float Activate(float x, int epilogue) {
  if ((epilogue & kReluBit) != 0) return x > 0.0f || std::isnan(x) ? x : 0.0f;
  if ((epilogue & kGeluBit) == 0) return x;
  const float inner = std::sqrt(2.0f / std::numbers::pi_v<float>) * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + std::tanh(inner));
}

struct Product {
  cublasLtMatmulDescOpaque_t desc;
  Layout a_layout, b_layout, c_layout, d_layout;
  const void* a;
  const void* b;
  const void* c;
  void* d;
  float alpha, beta;
};

void Run(const Product& p) {
  const bool a_transposed = p.desc.transpose_a == CUBLAS_OP_T;
  const bool b_transposed = p.desc.transpose_b == CUBLAS_OP_T;
  const std::vector<float> a = Gather(p.a, p.a_layout, a_transposed);
  const std::vector<float> b = Gather(p.b, p.b_layout, !b_transposed);
  const int64_t k = a_transposed ? p.a_layout.rows : p.a_layout.columns;
  const auto bias_type = static_cast<cudaDataType_t>(
      p.desc.bias_type < 0 ? static_cast<int>(p.d_layout.type) : p.desc.bias_type);
  for (int64_t column = 0; column < p.d_layout.columns; ++column) {
    for (int64_t row = 0; row < p.d_layout.rows; ++row) {
      float value = p.alpha * Dot(a.data() + row * k, b.data() + column * k, k);
      if (p.beta != 0.0f) {
        value += p.beta * Load(p.c, p.c_layout.type, column * p.c_layout.stride + row);
      }
      if ((p.desc.epilogue & kBiasBit) != 0) value += Load(p.desc.bias, bias_type, row);
      Store(p.d, p.d_layout.type, column * p.d_layout.stride + row,
            Activate(value, p.desc.epilogue));
    }
  }
}

// What cuBLASLt would refuse: shapes that do not fit, and types that it does not mix.
bool Supported(const cublasLtMatmulDescOpaque_t& desc, const Layout& a, const Layout& b,
               const Layout& c, const Layout& d) {
  const bool a_transposed = desc.transpose_a == CUBLAS_OP_T;
  const bool b_transposed = desc.transpose_b == CUBLAS_OP_T;
  for (const Layout& layout : {a, b, c, d}) {
    if (layout.rows <= 0 || layout.columns <= 0 || layout.stride < layout.rows) return false;
  }
  const bool fits = (a_transposed ? a.columns : a.rows) == d.rows &&
                    (b_transposed ? b.rows : b.columns) == d.columns &&
                    (a_transposed ? a.rows : a.columns) == (b_transposed ? b.columns : b.rows) &&
                    c.rows == d.rows && c.columns == d.columns;
  const bool types = a.type == b.type && c.type == d.type &&
                     (d.type == CUDA_R_32F || d.type == a.type) &&
                     (desc.bias_type < 0 || desc.bias_type == static_cast<int>(d.type));
  return fits && types;
}

}  // namespace
}  // namespace polystrate::emulator

using namespace polystrate::emulator;  // NOLINT: what follows is C's

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "an unknown status";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return 130000; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = new cublasLtMatmulDescOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t num_bytes) {
  const auto set = [&](void* field, size_t field_bytes) {
    if (num_bytes != field_bytes) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(field, value, num_bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(&desc->transpose_a, sizeof(desc->transpose_a));
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(&desc->transpose_b, sizeof(desc->transpose_b));
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(&desc->epilogue, sizeof(desc->epilogue));
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(&desc->bias, sizeof(desc->bias));
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set(&desc->bias_type, sizeof(desc->bias_type));
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t stride) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, static_cast<int64_t>(rows),
                                             static_cast<int64_t>(columns), stride};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void*, size_t num_bytes) {
  const size_t expected =
      attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? sizeof(uint64_t) : sizeof(uint32_t);
  return num_bytes == expected ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int num_wanted,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* num_results) {
  *num_results = 0;
  if (num_wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (!Supported(*desc, *a, *b, *c, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {};
  *num_results = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*, void*,
                              size_t, cudaStream_t stream) {
  const bool has_bias = (desc->epilogue & kBiasBit) != 0;
  if (!Supported(*desc, *a_layout, *b_layout, *c_layout, *d_layout) ||
      (has_bias && desc->bias == nullptr)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const Product product = {*desc,
                           *a_layout,
                           *b_layout,
                           *c_layout,
                           *d_layout,
                           a,
                           b,
                           c,
                           d,
                           *static_cast<const float*>(alpha),
                           *static_cast<const float*>(beta)};
  const cudaError_t error = Enqueue(stream, [product] { Run(product); });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
