// When enqueued work runs: not before somebody waits for it.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstring>

namespace polystrate::cuda {
namespace {

class QueueTest : public ::testing::Test {
 protected:
  QueueTest() {
    cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&other_, cudaStreamNonBlocking);
    cudaEventCreate(&event_);
    void* pinned = nullptr;
    cudaMallocHost(&pinned, kBytes);
    pinned_ = static_cast<char*>(pinned);
    std::memset(pinned_, 0, kBytes);
  }
  ~QueueTest() override {
    cudaStreamDestroy(stream_);
    cudaStreamDestroy(other_);
    cudaEventDestroy(event_);
    cudaFreeHost(pinned_);
  }

  static constexpr size_t kBytes = 8;
  cudaStream_t stream_ = nullptr, other_ = nullptr;
  cudaEvent_t event_ = nullptr;
  char* pinned_ = nullptr;
};

TEST_F(QueueTest, RunsWhenItIsWaitedFor) {
  cudaMemsetAsync(pinned_, 1, 1, stream_);
  EXPECT_EQ(pinned_[0], 0);
  cudaStreamSynchronize(other_);
  EXPECT_EQ(pinned_[0], 0);
  cudaStreamSynchronize(stream_);
  EXPECT_EQ(pinned_[0], 1);
}

TEST_F(QueueTest, AnEventIsPassedByLooking) {
  cudaMemsetAsync(pinned_, 1, 1, stream_);
  cudaEventRecord(event_, stream_);
  cudaMemsetAsync(pinned_, 2, 1, stream_);
  EXPECT_EQ(cudaEventQuery(event_), cudaErrorNotReady);
  while (cudaEventQuery(event_) == cudaErrorNotReady) {
  }
  EXPECT_EQ(pinned_[0], 1);
  cudaEventSynchronize(event_);
  EXPECT_EQ(pinned_[0], 1);
  cudaDeviceSynchronize();
  EXPECT_EQ(pinned_[0], 2);
}

TEST_F(QueueTest, AStreamWaitsForTheEventAsItWasRecorded) {
  cudaMemsetAsync(pinned_, 1, 1, other_);
  cudaEventRecord(event_, other_);
  cudaStreamWaitEvent(stream_, event_);
  cudaMemcpyAsync(pinned_ + 1, pinned_, 1, cudaMemcpyHostToHost, stream_);
  cudaMemsetAsync(pinned_, 2, 1, other_);
  cudaEventRecord(event_, other_);
  cudaStreamSynchronize(stream_);
  EXPECT_EQ(pinned_[1], 1);
  EXPECT_EQ(pinned_[0], 1);
}

// As on a GPU: the driver takes a copy of what is not page-locked, and waits until it is written.
TEST_F(QueueTest, CopiesOfPageableMemoryAreDoneWithIt) {
  char plain = 1;
  cudaMemcpyAsync(pinned_, &plain, 1, cudaMemcpyHostToDevice, stream_);
  plain = 7;
  cudaMemcpyAsync(&plain, pinned_, 1, cudaMemcpyDeviceToHost, stream_);
  EXPECT_EQ(plain, 1);
}

}  // namespace
}  // namespace polystrate::cuda
