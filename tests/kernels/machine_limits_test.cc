#include "kernels/machine_limits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "kernels/core/copy.h"
#include "kernels/cuda/limits.h"

namespace polystrate {
namespace {

TEST(MachineLimitsTest, SummarizesInAnyOrder) {
  const Timing timing = Summarize({9, 1, 5, 3, 7, 2, 8, 4, 6, 0});
  EXPECT_EQ(timing.median, 5);
  EXPECT_EQ(timing.fastest, 1);
  EXPECT_EQ(timing.slowest, 8);
}

// Warm-up, then each repetition behind its `before`.
TEST(MachineLimitsTest, TimesWhatItIsToldTo) {
  const Stream stream = Stream::Cpu(1);
  std::string calls;
  const Timing timing = Time(
      stream, 3, [&] { calls += 'w'; }, [&] { calls += 'b'; });
  EXPECT_EQ(calls, "wbwbwbw");
  EXPECT_GE(timing.fastest, 0.0);
}

// The following need a GPU and are skipped, by name, where there is none.
class GpuLimitsTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
    absl::StatusOr<Stream> stream = Stream::Cuda(GetParam());
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_ = std::make_unique<Stream>(*std::move(stream));
  }
  const Stream& stream() const { return *stream_; }

 private:
  std::unique_ptr<Stream> stream_;
};

// Of sizes that are no multiple of what all thread blocks take at a time.
TEST_P(GpuLimitsTest, CopySweepCopiesAll) {
  constexpr int64_t kCount = 3 * cuda::kSweepGrain / 4;
  const OwnedTensor from(DType::kFloat32, {kCount}, stream().device());
  const OwnedTensor to(DType::kFloat32, {kCount + 1}, stream().device());
  cuda::CopySweep(stream().cuda(), (*from).raw(), (*to).raw(), (*from).num_bytes());
  stream().Synchronize();
  const OwnedTensor expected(DType::kFloat32, {kCount + 1}), copied(DType::kFloat32, {kCount + 1});
  CopyNow(*to, *copied);
  const float* begin = (*expected).data<float>();
  EXPECT_TRUE(std::equal(begin, begin + kCount + 1, (*copied).data<float>()));
}

TEST_P(GpuLimitsTest, ReadSweepReadsAndWritesNothing) {
  const OwnedTensor data(DType::kFloat32, {cuda::kSweepGrain / 4}, stream().device());
  const OwnedTensor sink(DType::kFloat32, {1}, stream().device());
  cuda::ReadSweep(stream().cuda(), (*data).raw(), (*data).num_bytes(),
                  static_cast<uint32_t*>((*sink).raw()));
  stream().Synchronize();
  const OwnedTensor expected(DType::kFloat32, {1}), left(DType::kFloat32, {1});
  CopyNow(*sink, *left);
  EXPECT_EQ((*left).data<float>()[0], (*expected).data<float>()[0]);
}

TEST_P(GpuLimitsTest, TimesByTheGpusClock) {
  const GpuSweep sweep(stream(), int64_t{8} << 20);
  const Timing timing = Time(
      stream(), 5, [&] { sweep.Copy(); }, [&] { sweep.Read(); });
  EXPECT_GT(timing.fastest, 0.0);
  EXPECT_LE(timing.fastest, timing.median);
  EXPECT_LE(timing.median, timing.slowest);
}

INSTANTIATE_TEST_SUITE_P(Kernels, GpuLimitsTest, ::testing::Values(0),
                         [](const ::testing::TestParamInfo<int>&) { return "cuda"; });

}  // namespace
}  // namespace polystrate
