// The equality matrix's axis of devices.

#include <gtest/gtest.h>

#include "tests/engine/parity_cases.h"

namespace polystrate {
namespace {

// The same model on a GPU says what the CPU says: with its decode steps recorded or not, planned
// ahead or not, over chunks, preemption, ranks. (tests/CMakeLists.txt runs these on an emulated GPU
// too.)
class DeviceParity : public Parity {
 protected:
  void SetUp() override {
    if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
    requests_.clear();
    // Few, because a step of an emulated GPU takes tens of milliseconds.
    for (int64_t length : {1, 11}) {
      requests_.push_back(Request(RandomTokens(length, 96, length), 4));
    }
    requests_[1].prompt_logprobs = std::get<1>(GetParam()) == ReuseKeys::kPreRope;
  }
  LocalEngineOptions OnGpu() const {
    LocalEngineOptions options = Options();
    options.device = DeviceType::kCuda;
    return options;
  }
};

TEST_P(DeviceParity, GraphsOrNoneChunksAndPreemption) {
  const std::vector<LocalOutput> expected = Run(Options());
  LocalEngineOptions options = OnGpu();
  options.num_blocks = 5;  // 20 tokens where the requests grow to 8 and 16
  ExpectSame(Run(options), expected, kFloat32Tolerance);
  options = OnGpu();
  options.graphs = false;
  options.max_num_batched_tokens = 5;
  options.prefill_skip = false;
  options.async_scheduling = std::get<1>(GetParam()) == ReuseKeys::kPreRope;
  ExpectSame(Run(options), expected, kFloat32Tolerance);
}

TEST_P(DeviceParity, OverRanksOfOneGpu) {
  const std::vector<LocalOutput> expected = Run(Options());
  for (const auto& [tp_size, pp_size] : {std::pair(3, 1), std::pair(2, 2)}) {
    SCOPED_TRACE(testing::Message() << "tp " << tp_size << " pp " << pp_size);
    LocalEngineOptions options = OnGpu();
    options.tp_size = tp_size;
    options.pp_size = pp_size;
    options.max_num_batched_tokens = 16;
    options.async_anywhere = true;
    ExpectSame(Run(options), expected, kFloat32Tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Maps_cuda, DeviceParity,
                         ::testing::Combine(::testing::ValuesIn(Maps()),
                                            ::testing::Values(ReuseKeys::kPostRope,
                                                              ReuseKeys::kPreRope)),
                         CaseName);

}  // namespace
}  // namespace polystrate
