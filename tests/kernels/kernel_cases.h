// What the operator tests share: the parameters every operator runs under, and how results are
// judged.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cpu/context.h"
#include "kernels/cpu/isa.h"
#include "kernels/cuda/context.h"
#include "kernels/ops.h"
#include "tests/testing/reference.h"

namespace polystrate::testing {

// Storage type, and where the operator runs.
struct KernelCase {
  DType dtype = DType::kFloat32;
  Device device;
  cpu::Isa isa = cpu::Isa::kAvx2;  // this and the next: of a CPU
  int num_threads = 1;
  bool warpgroups = true;  // of a GPU: CudaContext::set_warpgroups
};

inline std::vector<KernelCase> CpuKernelCases(const std::vector<DType>& dtypes,
                                              const std::vector<int>& thread_counts) {
  std::vector<KernelCase> cases;
  for (DType dtype : dtypes) {
    for (cpu::Isa isa : {cpu::Isa::kAvx2, cpu::Isa::kAvx512Bf16}) {
      for (int num_threads : thread_counts) cases.push_back({dtype, Device{}, isa, num_threads});
    }
  }
  return cases;
}

inline std::vector<KernelCase> CpuKernelCases() {
  return CpuKernelCases({DType::kFloat32, DType::kBFloat16}, {1, 2});
}

// Only GPUs compute with float16.
inline std::vector<KernelCase> GpuKernelCases() {
  std::vector<KernelCase> cases;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    cases.push_back({dtype, {DeviceType::kCuda, 0}});
  }
  return cases;
}

inline std::vector<KernelCase> AllKernelCases() {
  std::vector<KernelCase> cases = CpuKernelCases();
  for (const KernelCase& c : GpuKernelCases()) cases.push_back(c);
  return cases;
}

// Operators that have kernels of warpgroups run once more without them.
inline std::vector<KernelCase> AllKernelCasesAndWithoutWarpgroups() {
  std::vector<KernelCase> cases = AllKernelCases();
  for (KernelCase c : GpuKernelCases()) {
    if (c.dtype == DType::kFloat32) continue;
    c.warpgroups = false;
    cases.push_back(c);
  }
  return cases;
}

// Of operators on float32 alone.
inline std::vector<KernelCase> Float32KernelCases(int num_threads) {
  std::vector<KernelCase> cases = CpuKernelCases({DType::kFloat32}, {num_threads});
  cases.push_back({DType::kFloat32, {DeviceType::kCuda, 0}});
  return cases;
}

inline std::string CaseName(const KernelCase& c) {
  const std::string dtype = Name(c.dtype);
  if (c.device.type == DeviceType::kCuda) {
    return dtype + (c.warpgroups ? "_cuda" : "_cuda_without_warpgroups");
  }
  return dtype + (c.isa == cpu::Isa::kAvx2 ? "_avx2_" : "_avx512_") +
         std::to_string(c.num_threads) + "threads";
}
inline std::string KernelCaseName(const ::testing::TestParamInfo<KernelCase>& info) {
  return CaseName(info.param);
}
inline void PrintTo(const KernelCase& c, std::ostream* out) { *out << CaseName(c); }

// Operators have finished when they return, on GPUs too, so that tests may look at what they wrote.
inline const bool kLaunchesBlock = setenv("CUDA_LAUNCH_BLOCKING", "1", 1) == 0;

class KernelTest : public ::testing::TestWithParam<KernelCase> {
 protected:
  void SetUp() override {
    stream_ = MakeStream(num_threads());
    if (!stream_.has_value()) {
      GTEST_SKIP() << (on_gpu() ? "no GPU" : "this processor lacks the instruction set");
    }
  }

  // Of this case's device, with as many threads if it is a CPU; nothing where there is none.
  std::optional<Stream> MakeStream(int num_threads) const {
    if (on_gpu()) {
      if (NumCudaDevices() == 0) return std::nullopt;
      Stream stream = *Stream::Cuda(GetParam().device.index);
      stream.cuda().set_warpgroups(GetParam().warpgroups);
      return stream;
    }
    if (!cpu::Supports(GetParam().isa)) return std::nullopt;
    Stream stream = Stream::Cpu(num_threads);
    stream.cpu().UseIsa(GetParam().isa);
    stream.cpu().SetMinParallelWork(0);
    return stream;
  }

  DType dtype() const { return GetParam().dtype; }
  bool on_gpu() const { return GetParam().device.type == DeviceType::kCuda; }
  int num_threads() const { return GetParam().num_threads; }
  const Stream& stream() const { return *stream_; }

 private:
  std::optional<Stream> stream_;
};

// `magnitude`: typical size of the expected values, which scales the absolute tolerance.
inline void ExpectNear(const std::vector<double>& expected, const HostTensor& actual, DType dtype,
                       const std::string& what, double magnitude = 1.0) {
  const Error error = Measure(expected, actual.Values());
  const Tolerance tolerance = ToleranceFor(dtype);
  EXPECT_LE(error.max_abs, tolerance.max_abs * magnitude) << what << ", nmse " << error.nmse;
  EXPECT_LE(error.nmse, tolerance.nmse) << what << ", max abs " << error.max_abs;
  EXPECT_TRUE(actual.MarginIntact()) << what << ": wrote outside the tensor";
}

}  // namespace polystrate::testing
