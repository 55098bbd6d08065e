// The communicators over real MPI ranks.

#include <gtest/gtest.h>

#include "tests/testing/places.h"
#include "tests/testing/process.h"

namespace polystrate {
namespace {

class MpiGroups : public ::testing::TestWithParam<std::pair<int, int>> {};

TEST_P(MpiGroups, KeepTheContractOfACommunicator) {
  const auto [tp, pp] = GetParam();
  const CommandResult result = RunCommand(
      Mpirun(tp * pp, {BuiltProgram("mpi_ranks"), std::to_string(tp), std::to_string(pp)}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (int rank = 0; rank < tp * pp; ++rank) {
    EXPECT_NE(result.out.find("rank " + std::to_string(rank) + " done"), std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, MpiGroups,
                         ::testing::Values(std::pair(1, 1), std::pair(2, 1), std::pair(1, 3),
                                           std::pair(2, 2), std::pair(3, 2)));

}  // namespace
}  // namespace polystrate
