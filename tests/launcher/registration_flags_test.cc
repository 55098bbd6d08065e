#include "launcher/registration_flags.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

RegistrationFlags Flags(const std::vector<std::string>& arguments) {
  RegistrationFlags flags;
  FlagSet set("polystrate test");
  flags.AddTo(&set);
  EXPECT_TRUE(set.Parse(arguments).ok());
  return flags;
}

std::string TargetOf(const RegistrationFlags& flags, const std::string& listen, int port) {
  EXPECT_TRUE(flags.Check(listen).ok());
  const auto made = flags.Make(listen, port);
  EXPECT_TRUE(made.ok());
  return made->empty() ? "" : made->front().target;
}

TEST(RegistrationFlags, TheTargetIsWhatOthersReach) {
  EXPECT_EQ(TargetOf(Flags({}), "0.0.0.0:50051", 50051), "");
  const RegistrationFlags plain = Flags({"--register", "c:1"});
  EXPECT_EQ(TargetOf(plain, "10.0.0.1:50051", 50051), "10.0.0.1:50051");
  EXPECT_EQ(TargetOf(plain, "10.0.0.1:0", 41234), "10.0.0.1:41234");
  EXPECT_EQ(TargetOf(plain, "[fd00::1]:0", 41234), "[fd00::1]:41234");
  const RegistrationFlags named = Flags({"--register", "c:1", "d:2", "--advertise", "engine-0:7"});
  EXPECT_EQ(TargetOf(named, "0.0.0.0:0", 41234), "engine-0:7");
  const auto made = named.Make("0.0.0.0:0", 41234);
  ASSERT_EQ(made->size(), 2u);
  EXPECT_EQ((*made)[0].coordinator, "c:1");
  EXPECT_EQ((*made)[1].coordinator, "d:2");
  EXPECT_EQ(TargetOf(Flags({"--register", "c:1", "--advertise", "engine-0:0"}), "0.0.0.0:0", 41234),
            "engine-0:41234");
}

TEST(RegistrationFlags, WhatLeadsNowhereIsNamed) {
  struct Case {
    std::vector<std::string> arguments;
    std::string listen;
    std::string message;
  };
  const Case cases[] = {
      {{"--register", "c"}, "10.0.0.1:1", "--register is \"c\""},
      {{"--register", "c:1", "d:0"}, "10.0.0.1:1", "--register is \"d:0\""},
      {{"--register", "c:1"}, "0.0.0.0:50051", "--advertise"},
      {{"--register", "c:1"}, "[::]:50051", "--advertise"},
      {{"--register", "c:1", "--advertise", "0.0.0.0:5"}, "10.0.0.1:1", "--advertise is"},
      {{"--register", "c:1", "--advertise", ":0"}, "10.0.0.1:1", "--advertise is"},
      {{"--register", "c:1", "--advertise", "host"}, "10.0.0.1:1", "--advertise is"},
      {{"--advertise", "host:1"}, "10.0.0.1:1", "--register"},
  };
  for (const Case& test : cases) {
    EXPECT_TRUE(Fails(Flags(test.arguments).Check(test.listen), absl::StatusCode::kInvalidArgument,
                      test.message));
  }
  EXPECT_TRUE(Fails(
      Flags({"--register", "c:1", "--register_tls_ca", "/no/such.pem"}).Make("h:1", 1).status(),
      absl::StatusCode::kNotFound, "for --register: /no/such.pem"));
}

}  // namespace
}  // namespace polystrate
