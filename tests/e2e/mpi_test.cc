// The communicators over real MPI ranks.

#include <gtest/gtest.h>

#include <filesystem>

#include "kernels/core/device.h"
#include "tests/testing/places.h"
#include "tests/testing/process.h"

namespace polystrate {
namespace {

class MpiGroups : public ::testing::TestWithParam<std::pair<int, int>> {};

// Ranks of the program, all of which check their groups with tensors of `device`.
void RunRanks(const std::string& program, const std::string& device, int tp, int pp) {
  const CommandResult result = RunCommand(
      Mpirun(tp * pp, {BuiltProgram(program), std::to_string(tp), std::to_string(pp), device}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (int rank = 0; rank < tp * pp; ++rank) {
    EXPECT_NE(result.out.find("rank " + std::to_string(rank) + " done"), std::string::npos);
  }
}

TEST_P(MpiGroups, KeepTheContractOfACommunicator) {
  const auto [tp, pp] = GetParam();
  RunRanks("mpi_ranks", "cpu", tp, pp);
}

TEST_P(MpiGroups, TakeTensorsOfAGpu) {
  if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  const auto [tp, pp] = GetParam();
  RunRanks("mpi_ranks", "cuda", tp, pp);
}

TEST_P(MpiGroups, TakeTensorsOfAnEmulatedGpu) {
  if (!std::filesystem::exists(BuiltProgram("mpi_ranks_emulated"))) GTEST_SKIP() << "not built";
  const auto [tp, pp] = GetParam();
  RunRanks("mpi_ranks_emulated", "cuda", tp, pp);
}

INSTANTIATE_TEST_SUITE_P(Sizes, MpiGroups,
                         ::testing::Values(std::pair(1, 1), std::pair(2, 1), std::pair(1, 3),
                                           std::pair(2, 2), std::pair(3, 2)));

}  // namespace
}  // namespace polystrate
