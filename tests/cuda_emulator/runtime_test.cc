// The emulated runtime: what is an error on a GPU is one here.
#include <cstring>

#include "tests/cuda_emulator/emulated_device.h"

namespace polystrate::cuda {
namespace {

using RuntimeTest = EmulatorTest;
using RuntimeDeathTest = EmulatorTest;

__global__ void AddOne(int* values) { ++values[threadIdx.x]; }
__global__ void Nothing() {}

cudaError_t TryLaunch(dim3 grid, dim3 block, size_t shared_bytes) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  const cudaError_t error = cudaLaunchKernelEx(&config, Nothing);
  EXPECT_EQ(cudaGetLastError(), error);
  return error;
}

TEST_F(RuntimeTest, LaunchesThatAGpuRefuses) {
  EXPECT_EQ(TryLaunch(1, 1024, 0), cudaSuccess);
  EXPECT_EQ(TryLaunch(1, 1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(TryLaunch(1, dim3(32, 32, 2), 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(TryLaunch(dim3(1, 65536), 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(TryLaunch(0, 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(TryLaunch(1, 1, 48 << 10), cudaSuccess);
  EXPECT_EQ(TryLaunch(1, 1, (48 << 10) + 1), cudaErrorInvalidValue);
  const auto allow = [](int bytes) {
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(&Nothing),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  };
  EXPECT_EQ(allow((227 << 10) + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(allow(227 << 10), cudaSuccess);
  EXPECT_EQ(TryLaunch(1, 1, 227 << 10), cudaSuccess);
}

TEST_F(RuntimeTest, MemoryIsPoisonAndCopiesKeepToIt) {
  void* device = nullptr;
  ASSERT_EQ(cudaMalloc(&device, 1000), cudaSuccess);
  std::vector<unsigned char> bytes(1001, 0);
  const auto copy = [&](size_t n, cudaMemcpyKind kind) {
    return kind == cudaMemcpyDeviceToHost ? cudaMemcpy(bytes.data(), device, n, kind)
                                          : cudaMemcpy(device, bytes.data(), n, kind);
  };
  EXPECT_EQ(copy(1000, cudaMemcpyDeviceToHost), cudaSuccess);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(bytes[i], 0xff);
  EXPECT_EQ(copy(1001, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(copy(1000, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(bytes.data(), device, 10, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  size_t free_bytes = 0, total_bytes = 0;
  cudaMemGetInfo(&free_bytes, &total_bytes);
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, free_bytes + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaFree(static_cast<char*>(device) + 8), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(device), cudaSuccess);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

TEST_F(RuntimeDeathTest, HostCodeKeepsOffDeviceMemory) {
  if (system("grep -qw ospke /proc/cpuinfo") != 0) {
    GTEST_SKIP() << "this processor has no memory protection keys";
  }
  const Buffer buffer = *Buffer::Allocate({DeviceType::kCuda, 0}, 64);
  EXPECT_DEATH(std::memset(buffer.data(), 1, 1), "");
}

class GraphTest : public EmulatorTest {
 protected:
  cudaError_t Begin() {
    return cudaStreamBeginCapture(context().stream(), cudaStreamCaptureModeThreadLocal);
  }
  cudaError_t End() { return cudaStreamEndCapture(context().stream(), &graph_); }

  cudaGraph_t graph_ = nullptr;
};

TEST_F(GraphTest, RecordsAndReplays) {
  const Shown<int> values(4);
  const Shown<int> copy(4);
  ASSERT_EQ(Begin(), cudaSuccess);
  Launch(context(), AddOne, 1, 4, 0, values.data());
  cudaMemcpyAsync(copy.data(), values.data(), 16, cudaMemcpyDefault, context().stream());
  Launch(context(), AddOne, 1, 4, 0, values.data());
  ASSERT_EQ(End(), cudaSuccess);
  EXPECT_EQ(values[0], 0);
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph_), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph_), cudaSuccess);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(exec, context().stream()), cudaSuccess);
  EXPECT_EQ(values[3], 6);
  EXPECT_EQ(copy[3], 5);
  cudaGraphExecDestroy(exec);
}

TEST_F(GraphTest, WhatMayNotBeRecordedSpoilsIt) {
  void* data = nullptr;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Begin(), cudaSuccess);
    EXPECT_EQ(i == 0   ? cudaMalloc(&data, 1)
              : i == 1 ? cudaStreamSynchronize(context().stream())
                       : cudaDeviceSynchronize(),
              cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(End(), cudaErrorStreamCaptureInvalidated);
  }
  EXPECT_EQ(cudaMalloc(&data, 1), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaSuccess);
}

TEST_F(GraphTest, AnotherStreamJoinsThroughEvents) {
  cudaStream_t other = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  const Shown<int> values(1);
  for (const bool joined : {true, false}) {
    ASSERT_EQ(Begin(), cudaSuccess);
    cudaEventRecord(begin, context().stream());
    EXPECT_EQ(cudaStreamWaitEvent(other, begin), cudaSuccess);
    EXPECT_EQ(cudaMemsetAsync(values.data(), 1, 4, other), cudaSuccess);
    cudaEventRecord(end, other);
    if (joined) {
      EXPECT_EQ(cudaStreamWaitEvent(context().stream(), end), cudaSuccess);
    }
    EXPECT_EQ(cudaEventSynchronize(end), cudaErrorCapturedEvent) << "spoils it";
    EXPECT_EQ(End(), cudaErrorStreamCaptureInvalidated);
  }
  EXPECT_EQ(values[0], 0);
  ASSERT_EQ(Begin(), cudaSuccess);
  cudaEventRecord(begin, context().stream());
  cudaStreamWaitEvent(other, begin);
  EXPECT_EQ(End(), cudaErrorStreamCaptureUnjoined);
  cudaStreamDestroy(other);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

}  // namespace
}  // namespace polystrate::cuda
