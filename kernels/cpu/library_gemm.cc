#include "kernels/cpu/library_gemm.h"

#include <omp.h>

#include <array>
#include <cstring>
#include <list>
#include <string>
#include <unordered_map>

#include "absl/container/flat_hash_map.h"
#include "dnnl.hpp"
#include "kernels/cpu/arena.h"

namespace polystrate::cpu {
namespace {

using dnnl::memory;

constexpr size_t kMaxPrimitives = 256;  // about 20 KiB of machine code each

// m, n, k, x stride, out stride, then everything else packed.
using Key = std::array<int64_t, 6>;

Key KeyOf(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out,
          const GemmOptions& options) {
  return {x.dim(0),
          weight.dim(0),
          weight.dim(1),
          x.row_stride(),
          out.row_stride(),
          static_cast<int64_t>(x.dtype()) | static_cast<int64_t>(out.dtype()) << 8 |
              static_cast<int64_t>(options.activation) << 16 |
              static_cast<int64_t>(options.accumulate) << 24 |
              static_cast<int64_t>(!bias.empty()) << 25};
}

memory::data_type TypeOf(DType dtype) {
  return dtype == DType::kFloat32 ? memory::data_type::f32 : memory::data_type::bf16;
}

void AppendActivation(Activation activation, dnnl::post_ops* ops) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kGelu:
      return ops->append_eltwise(1.0f, dnnl::algorithm::eltwise_gelu_erf, 0.0f, 0.0f);
    case Activation::kGeluTanh:
      return ops->append_eltwise(1.0f, dnnl::algorithm::eltwise_gelu_tanh, 0.0f, 0.0f);
    case Activation::kRelu:
      return ops->append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
    case Activation::kSilu:
      return ops->append_eltwise(1.0f, dnnl::algorithm::eltwise_swish, /*alpha=*/1.0f, 0.0f);
  }
}

// oneDNN takes the number of threads from the caller's OpenMP setting, at creation and execution.
class ThreadsGuard {
 public:
  explicit ThreadsGuard(int num_threads) : saved_(omp_get_max_threads()) {
    if (saved_ != num_threads) omp_set_num_threads(num_threads);
  }
  ~ThreadsGuard() { omp_set_num_threads(saved_); }
  ThreadsGuard(const ThreadsGuard&) = delete;
  ThreadsGuard& operator=(const ThreadsGuard&) = delete;

 private:
  const int saved_;
};

// A primitive with its argument objects, which only need new addresses for each call.
struct Entry {
  Key key;
  bool usable = false;
  dnnl::matmul primitive;
  size_t scratchpad_bytes = 0;
  std::unordered_map<int, memory> arguments;
};

}  // namespace

struct LibraryGemm::State {
  explicit State(int threads) : num_threads(threads) {}

  const int num_threads;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  Arena scratchpad;
  std::list<Entry> entries;  // most recently used first
  absl::flat_hash_map<Key, std::list<Entry>::iterator> index;

  Entry& Find(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out,
              const GemmOptions& options);
  void Create(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out,
              const GemmOptions& options, Entry* entry);
};

Entry& LibraryGemm::State::Find(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                const Tensor& out, const GemmOptions& options) {
  const Key key = KeyOf(x, weight, bias, out, options);
  const auto found = index.find(key);
  if (found != index.end()) {
    entries.splice(entries.begin(), entries, found->second);
    return entries.front();
  }
  if (entries.size() >= kMaxPrimitives) {
    index.erase(entries.back().key);
    entries.pop_back();
  }
  entries.emplace_front();
  entries.front().key = key;
  index[key] = entries.begin();
  Create(x, weight, bias, out, options, &entries.front());
  return entries.front();
}

void LibraryGemm::State::Create(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                const Tensor& out, const GemmOptions& options, Entry* entry) {
  const int64_t m = x.dim(0), n = weight.dim(0), k = weight.dim(1);
  const memory::desc x_desc({m, k}, TypeOf(x.dtype()), memory::dims{x.row_stride(), 1});
  // Row-major [n, k] is the transposed matrix [k, n] stored by columns: no copy is made.
  const memory::desc weight_desc({k, n}, TypeOf(weight.dtype()), memory::dims{1, k});
  const memory::desc out_desc({m, n}, TypeOf(out.dtype()), memory::dims{out.row_stride(), 1});
  const memory::desc bias_desc({1, n}, memory::data_type::f32, memory::format_tag::ab);
  dnnl::post_ops ops;
  if (options.accumulate) ops.append_sum(1.0f);
  AppendActivation(options.activation, &ops);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(ops);
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::desc desc =
      bias.empty() ? dnnl::matmul::desc(x_desc, weight_desc, out_desc)
                   : dnnl::matmul::desc(x_desc, weight_desc, bias_desc, out_desc);
  const dnnl::matmul::primitive_desc primitive_desc(desc, attributes, engine,
                                                    /*allow_empty=*/true);
  // The reference implementation is a triple loop; the caller has better.
  if (!primitive_desc || std::strstr(primitive_desc.impl_info_str(), "ref") != nullptr) return;
  entry->primitive = dnnl::matmul(primitive_desc);
  entry->scratchpad_bytes = primitive_desc.scratchpad_desc().get_size();
  entry->arguments = {
      {DNNL_ARG_SRC, memory(x_desc, engine, nullptr)},
      {DNNL_ARG_WEIGHTS, memory(weight_desc, engine, nullptr)},
      {DNNL_ARG_DST, memory(out_desc, engine, nullptr)},
      {DNNL_ARG_SCRATCHPAD, memory(primitive_desc.scratchpad_desc(), engine, nullptr)},
  };
  if (!bias.empty()) entry->arguments.emplace(DNNL_ARG_BIAS, memory(bias_desc, engine, nullptr));
  entry->usable = true;
}

LibraryGemm::LibraryGemm(int num_threads) : state_(new State(num_threads)) {}
LibraryGemm::~LibraryGemm() = default;

bool LibraryGemm::Run(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out,
                      const GemmOptions& options) {
  const ThreadsGuard threads(state_->num_threads);
  Entry& entry = state_->Find(x, weight, bias, out, options);
  if (!entry.usable) return false;
  entry.arguments.at(DNNL_ARG_SRC).set_data_handle(x.raw());
  entry.arguments.at(DNNL_ARG_WEIGHTS).set_data_handle(weight.raw());
  entry.arguments.at(DNNL_ARG_DST).set_data_handle(out.raw());
  entry.arguments.at(DNNL_ARG_SCRATCHPAD)
      .set_data_handle(state_->scratchpad.Get(static_cast<int64_t>(entry.scratchpad_bytes)));
  if (!bias.empty()) entry.arguments.at(DNNL_ARG_BIAS).set_data_handle(bias.raw());
  entry.primitive.execute(state_->stream, entry.arguments);
  return true;
}

}  // namespace polystrate::cpu
