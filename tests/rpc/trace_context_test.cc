#include "rpc/trace_context.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

constexpr char kGood[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContext, TakesWhatTheStandardTakes) {
  EXPECT_TRUE(IsTraceparent(kGood));
  EXPECT_TRUE(IsTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"));
  EXPECT_TRUE(IsTraceparent("cc-12345678901234567890123456789012-1234567890123456-ff"));
  EXPECT_TRUE(IsTraceparent("cc-12345678901234567890123456789012-1234567890123456-01-later"));
}

TEST(TraceContext, DropsWhatIsMalformed) {
  for (const char* text : {
           "",
           "00",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
           "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "0g-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
           "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
       }) {
    EXPECT_FALSE(IsTraceparent(text)) << text;
  }
  EXPECT_FALSE(IsTraceparent(absl::StrCat("cc", kGood + 2, "-", std::string(300, 'x'))));
}

}  // namespace
}  // namespace polystrate
