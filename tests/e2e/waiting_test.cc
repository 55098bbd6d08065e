// A rank bounds how long its threads spin, unless the user has said something about it.

#include <gtest/gtest.h>

#include "tests/testing/process.h"

namespace polystrate {
namespace {

// What libgomp read from the environment of the last start.
std::string SpinCount(const std::string& setting) {
  CommandLine command = {
      "env", "-u", "GOMP_SPINCOUNT", "-u", "OMP_WAIT_POLICY", "OMP_DISPLAY_ENV=verbose", setting};
  for (const std::string& word : Polystrate({"generate", "--help"})) command.push_back(word);
  const CommandResult result = RunCommand(command);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const std::string name = "GOMP_SPINCOUNT = '";
  const size_t at = result.err.rfind(name);
  if (at == std::string::npos) return "";
  const size_t begin = at + name.size();
  return result.err.substr(begin, result.err.find('\'', begin) - begin);
}

TEST(Waiting, SpinningIsBoundedUnlessTheUserSaysOtherwise) {
  if (SpinCount("A=1").empty()) GTEST_SKIP() << "not libgomp, or one that does not tell";
  EXPECT_EQ(SpinCount("A=1"), "1000");
  EXPECT_EQ(SpinCount("GOMP_SPINCOUNT=77"), "77");
  EXPECT_EQ(SpinCount("OMP_WAIT_POLICY=passive"), "0");
}

}  // namespace
}  // namespace polystrate
