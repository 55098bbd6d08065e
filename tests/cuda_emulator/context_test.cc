// What a stream owns between operators (kernels/cuda/context.h), as it grows.
#include "kernels/cuda/context.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/core/copy.h"
#include "kernels/core/step_graph.h"

namespace polystrate {
namespace {

constexpr int64_t kMega = int64_t{1} << 20;

// A graph uses the scratch memory that there was when it was recorded.
TEST(CudaContextTest, WhatWasRecordedOutlivesTheGrowthOfScratch) {
  const Stream stream = *Stream::Cuda(0);
  const Buffer ones = *Buffer::AllocatePinned(kMega);
  std::memset(ones.data(), 1, kMega);
  const Tensor from(ones.data(), DType::kInt32, Device{}, {kMega / 4});
  stream.cuda().Scratch(kMega);
  Tensor to;
  const StepGraph graph(stream, [&] {
    to = Tensor(stream.cuda().Scratch(kMega), DType::kInt32, stream.device(), {kMega / 4});
    Copy(stream, from, to);
  });
  EXPECT_NE(stream.cuda().Scratch(100 * kMega), to.raw());
  graph.Replay(stream);
  stream.Synchronize();
  std::vector<int32_t> back(kMega / 4);
  CopyNow(to, Tensor(back.data(), DType::kInt32, Device{}, {kMega / 4}));
  EXPECT_EQ(back, std::vector<int32_t>(back.size(), 0x01010101));
}

// What was uploaded before, and has not even been copied yet, is still read from where it was.
TEST(CudaContextTest, UploadsMayBeLargerThanAllBefore) {
  const Stream stream = *Stream::Cuda(0);
  std::vector<std::vector<int32_t>> arrays;
  for (const int64_t num_bytes : {int64_t{1000}, 33 * kMega, int64_t{2000}, 70 * kMega}) {
    arrays.emplace_back(num_bytes / sizeof(int32_t));
    for (size_t i = 0; i < arrays.back().size(); ++i) {
      arrays.back()[i] = static_cast<int32_t>(i * 2654435761u + arrays.size());
    }
  }
  std::vector<Tensor> uploaded;
  for (const std::vector<int32_t>& array : arrays) {
    uploaded.push_back(Upload(stream, array, {static_cast<int64_t>(array.size())}));
  }
  stream.Synchronize();
  for (size_t i = 0; i < arrays.size(); ++i) {
    std::vector<int32_t> back(arrays[i].size());
    CopyNow(uploaded[i],
            Tensor(back.data(), DType::kInt32, Device{}, {static_cast<int64_t>(back.size())}));
    EXPECT_TRUE(back == arrays[i]) << i;
  }
}

}  // namespace
}  // namespace polystrate
