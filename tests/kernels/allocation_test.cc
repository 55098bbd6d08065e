// In a steady state the operators of a decode step make no object on the heap. (Arenas, which only
// grow, do not go through operator new and are not counted.)
#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/kernels/kernel_cases.h"

namespace {
std::atomic<int64_t> num_allocations{0};  // of this test program
}  // namespace

// Not inlined: GCC would warn of the free() it then sees for the result of a new.
[[gnu::noinline]] void* operator new(size_t size) {
  ++num_allocations;
  void* p = std::malloc(size == 0 ? 1 : size);
  if (p == nullptr) std::abort();
  return p;
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace polystrate::testing {
namespace {

class AllocationTest : public KernelTest {};

TEST_P(AllocationTest, DecodeStepMakesNoObject) {
  Random random(1);
  constexpr int64_t kHidden = 64, kVocab = 500, kBatch = 3, kContext = 1300;
  const HostTensor x = HostTensor(DType::kFloat32, {kBatch, kHidden}).FillNormal(random);
  const HostTensor weight = HostTensor(dtype(), {3 * kHidden, kHidden}).FillNormal(random);
  const HostTensor head = HostTensor(dtype(), {kVocab, kHidden}).FillNormal(random);
  const HostTensor norm = HostTensor(DType::kFloat32, {kHidden}).FillNormal(random);
  const HostTensor keys = HostTensor(dtype(), {82, 2, 16, 32}).FillNormal(random);
  const HostTensor values = HostTensor(dtype(), {82, 2, 16, 32}).FillNormal(random);
  const HostTensor normed(dtype(), {kBatch, kHidden}), qkv(dtype(), {kBatch, 3 * kHidden});
  const HostTensor mixed(dtype(), {kBatch, kHidden});
  const HostTensor logits(DType::kFloat32, {kBatch, kVocab});
  std::vector<int32_t> table;
  table.reserve(kBatch * 82);
  for (int32_t i = 0; i < kBatch * 82; ++i) table.push_back(i % 82);
  const HostInts cu({0, 1, 2, 3}), lens({kContext, 20, 600}), tables(table, kBatch);
  const HostInts slots({1299, 19, 599}), positions({1299, 19, 599});
  const HostTensor cos_sin(DType::kFloat32, {kContext, 8});
  const RopeTable rope{cos_sin.tensor(), 8};
  FillRopeTable(RopeFrequencies(10000.0, 8), 1.0f, rope);
  AttentionOptions options;
  options.head_dim = 32;
  const std::vector<SampleRow> rows = {{.top_p = 0.9f}, {.top_k = 5}, {.temperature = 0.0f}};
  std::vector<SampleResult> results(kBatch);
  const auto step = [&] {
    const Tensor all = qkv.tensor();
    LayerNorm(stream(), x.tensor(), norm.tensor(), norm.tensor(), 1e-5f, normed.tensor());
    Gemm(stream(), normed.tensor(), weight.tensor(), Tensor(), all);
    const KvSlot slot = {keys.tensor(), values.tensor()};
    RotateAndStoreKv(stream(), rope, positions.tensor(), 32, /*rotate_key=*/true,
                     all.Columns(0, kHidden), all.Columns(kHidden, kHidden),
                     all.Columns(2 * kHidden, kHidden), slots.tensor(), slot);
    PagedAttention(stream(), all.Columns(0, kHidden), slot,
                   {cu.tensor(), lens.tensor(), tables.tensor()}, options, mixed.tensor());
    Gemm(stream(), mixed.tensor(), head.tensor(), Tensor(), logits.tensor());
    Sample(stream(), logits.tensor(), kVocab, rows, absl::MakeSpan(results));
  };
  // The threads take the tasks as they come: a few steps until each has had the largest.
  for (int i = 0; i < 5; ++i) step();
  const int64_t before = num_allocations;
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(num_allocations, before);
}

INSTANTIATE_TEST_SUITE_P(Kernels, AllocationTest, ::testing::ValuesIn(CpuKernelCases()),
                         KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
