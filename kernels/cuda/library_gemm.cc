#include "kernels/cuda/library_gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <list>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "kernels/core/status.h"
#include "kernels/cuda/context.h"

namespace polystrate::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr size_t kMaxEntries = 1024;
constexpr uintptr_t kMostAlignment = 256;  // more does cuBLASLt not ask for
constexpr uint32_t kBiasAlignment = 16;

void Check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  CheckFailed(__FILE__, __LINE__, std::string(what) + ": " + cublasLtGetStatusString(status));
}

// What cublasLt...Create makes and Destroy ends.
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
struct Destroyer {
  void operator()(Handle handle) const { kDestroy(handle); }
};
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroyer<Handle, kDestroy>>;

using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return CUDA_R_16BF;
    case DType::kFloat16:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

// The greatest power of two, up to kMostAlignment, that divides the address.
uint32_t AlignmentOf(const Tensor& x) {
  const auto bits = reinterpret_cast<uintptr_t>(x.raw()) | kMostAlignment;
  return static_cast<uint32_t>(bits & -bits);
}

// A product as cuBLASLt sees it.
struct Problem {
  Tensor x, weight, bias, out;  // an empty bias is not added
  bool accumulate;
};

// m, n, k, x stride, out stride, then everything else packed.
using Key = std::array<int64_t, 6>;

Key KeyOf(const Problem& p) {
  const int64_t alignments = AlignmentOf(p.x) | AlignmentOf(p.weight) << 9 |
                             AlignmentOf(p.out) << 18 |
                             static_cast<int64_t>(p.bias.empty() ? 0 : AlignmentOf(p.bias)) << 27;
  return {p.x.dim(0),
          p.weight.dim(0),
          p.weight.dim(1),
          p.x.row_stride(),
          p.out.row_stride(),
          static_cast<int64_t>(p.x.dtype()) | static_cast<int64_t>(p.out.dtype()) << 4 |
              static_cast<int64_t>(p.accumulate) << 8 | alignments << 9};
}

template <typename Value>
void Set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, Value value) {
  Check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
}

template <typename Value>
void Set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         Value value) {
  Check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
}

// A matrix of ours, stored by rows, is its transpose stored by columns, as cuBLASLt has them.
Layout TransposedLayout(const Tensor& x) {
  cublasLtMatrixLayout_t layout = nullptr;
  const int64_t stride = std::max(x.row_stride(), x.dim(1));
  Check(cublasLtMatrixLayoutCreate(&layout, TypeOf(x.dtype()), static_cast<uint64_t>(x.dim(1)),
                                   static_cast<uint64_t>(x.dim(0)), stride),
        "cublasLtMatrixLayoutCreate");
  return Layout(layout);
}

Operation MakeOperation(const Tensor& bias) {
  cublasLtMatmulDesc_t desc = nullptr;
  Check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  Operation operation(desc);
  Set(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (!bias.empty()) {
    Set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    Set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
    Set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.raw());
  }
  return operation;
}

Preference MakePreference(const Problem& p) {
  cublasLtMatmulPreference_t made = nullptr;
  Check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
  Preference preference(made);
  Set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
  // Neither in out's type nor in out itself, which may be bfloat16.
  Set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  Set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, AlignmentOf(p.weight));
  Set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(p.x));
  Set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, AlignmentOf(p.out));
  Set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, AlignmentOf(p.out));
  return preference;
}

struct Entry {
  Key key;
  bool usable = false;
  Operation operation;
  Layout weight, x, out;
  cublasLtMatmulAlgo_t algorithm = {};
};

Entry MakeEntry(cublasLtHandle_t handle, const Problem& p, const Key& key) {
  Entry entry;
  entry.key = key;
  entry.operation = MakeOperation(p.bias);
  entry.weight = TransposedLayout(p.weight);
  entry.x = TransposedLayout(p.x);
  entry.out = TransposedLayout(p.out);
  const Preference preference = MakePreference(p);
  cublasLtMatmulHeuristicResult_t result = {};
  int num_results = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, entry.operation.get(), entry.weight.get(), entry.x.get(), entry.out.get(),
      entry.out.get(), preference.get(), /*requestedAlgoCount=*/1, &result, &num_results);
  entry.usable =
      status == CUBLAS_STATUS_SUCCESS && num_results > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  entry.algorithm = result.algo;
  return entry;
}

}  // namespace

struct LibraryGemm::State {
  ~State() {
    if (handle != nullptr) cublasLtDestroy(handle);
  }

  cublasLtHandle_t handle = nullptr;
  Buffer workspace;
  std::list<Entry> entries;  // most recently used first
  absl::flat_hash_map<Key, std::list<Entry>::iterator> index;

  Entry& Find(const Problem& p);
};

Entry& LibraryGemm::State::Find(const Problem& p) {
  const Key key = KeyOf(p);
  if (const auto found = index.find(key); found != index.end()) {
    entries.splice(entries.begin(), entries, found->second);
    return entries.front();
  }
  // While a graph is recorded, too: what its first run found may have been dropped since, and
  // asking enqueues nothing.
  if (entries.size() == kMaxEntries) {
    index.erase(entries.back().key);
    entries.pop_back();
  }
  entries.push_front(MakeEntry(handle, p, key));
  index[key] = entries.begin();
  return entries.front();
}

LibraryGemm::LibraryGemm(std::unique_ptr<State> state) : state_(std::move(state)) {}
LibraryGemm::~LibraryGemm() = default;

absl::StatusOr<std::unique_ptr<LibraryGemm>> LibraryGemm::Create(Device device) {
  auto state = std::make_unique<State>();
  ASSIGN_OR_RETURN(state->workspace, Buffer::Allocate(device, kWorkspaceBytes));
  Check(cublasLtCreate(&state->handle), "cublasLtCreate");
  return std::unique_ptr<LibraryGemm>(new LibraryGemm(std::move(state)));
}

LibraryGemm::Done LibraryGemm::Run(const CudaContext& context, const Tensor& x,
                                   const Tensor& weight, const Tensor& bias, const Tensor& out,
                                   bool accumulate) {
  const bool can_add =
      !bias.empty() && out.dtype() == DType::kFloat32 && AlignmentOf(bias) >= kBiasAlignment;
  const Tensor added = can_add ? bias : Tensor();
  Entry* entry = &state_->Find({x, weight, added, out, accumulate});
  const bool bias_added = can_add && entry->usable;
  if (can_add && !entry->usable) {
    entry = &state_->Find({x, weight, Tensor(), out, accumulate});
  }
  if (!entry->usable) return Done::kNothing;
  if (bias_added) Set(entry->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.raw());
  const float alpha = 1.0f, beta = accumulate ? 1.0f : 0.0f;
  Check(cublasLtMatmul(state_->handle, entry->operation.get(), &alpha, weight.raw(),
                       entry->weight.get(), x.raw(), entry->x.get(), &beta, out.raw(),
                       entry->out.get(), out.raw(), entry->out.get(), &entry->algorithm,
                       state_->workspace.data(), kWorkspaceBytes, context.stream()),
        "cublasLtMatmul");
  return bias_added || bias.empty() ? Done::kProductAndBias : Done::kProduct;
}

}  // namespace polystrate::cuda
