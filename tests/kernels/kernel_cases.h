// What the operator tests share: the parameters every operator runs under, and how results are
// judged.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "kernels/cpu/context.h"
#include "kernels/cpu/isa.h"
#include "kernels/ops.h"
#include "tests/testing/reference.h"

namespace polystrate::testing {

// Storage type, instruction set, number of threads.
using KernelCase = std::tuple<DType, cpu::Isa, int>;

inline auto AllKernelCases() {
  return ::testing::Combine(::testing::Values(DType::kFloat32, DType::kBFloat16),
                            ::testing::Values(cpu::Isa::kAvx2, cpu::Isa::kAvx512Bf16),
                            ::testing::Values(1, 2));
}

inline std::string KernelCaseName(const ::testing::TestParamInfo<KernelCase>& info) {
  return std::string(Name(std::get<0>(info.param))) +
         (std::get<1>(info.param) == cpu::Isa::kAvx2 ? "_avx2_" : "_avx512_") +
         std::to_string(std::get<2>(info.param)) + "threads";
}

class KernelTest : public ::testing::TestWithParam<KernelCase> {
 protected:
  void SetUp() override {
    if (!cpu::Supports(isa())) GTEST_SKIP() << "this processor lacks the instruction set";
    stream_.cpu().UseIsa(isa());
    stream_.cpu().SetMinParallelWork(0);
  }
  DType dtype() const { return std::get<0>(GetParam()); }
  cpu::Isa isa() const { return std::get<1>(GetParam()); }
  int num_threads() const { return std::get<2>(GetParam()); }
  const Stream& stream() const { return stream_; }

 private:
  Stream stream_ = Stream::Cpu(std::get<2>(GetParam()));
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
