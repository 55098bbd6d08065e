#include "engine/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace polystrate {
namespace {

std::string Lossy(std::string_view bytes) {
  std::string text;
  if (AppendDecodable(bytes, text) != bytes.size()) text += kReplacement;
  return text;
}

TEST(Utf8Test, EveryCodePointAndNothingElse) {
  for (uint32_t c = 0x80; c < 0x200000; c += c < 0x11000 ? 1 : 7) {
    std::string bytes;  // of the shortest form, valid or not
    if (c < 0x800) {
      bytes = {static_cast<char>(0xc0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      bytes = {static_cast<char>(0xe0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
               static_cast<char>(0x80 | (c & 63))};
    } else {
      bytes = {static_cast<char>(0xf0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 63)),
               static_cast<char>(0x80 | ((c >> 6) & 63)), static_cast<char>(0x80 | (c & 63))};
    }
    const bool valid = c < 0x110000 && (c < 0xd800 || c >= 0xe000);
    const Utf8Step step = DecodeUtf8(bytes);
    ASSERT_EQ(step.status == Utf8Step::kValid, valid) << c;
    if (valid) {
      ASSERT_EQ(step.code_point, c);
      ASSERT_EQ(step.num_bytes, bytes.size());
      ASSERT_EQ(DecodeUtf8(bytes.substr(0, bytes.size() - 1)).status, Utf8Step::kIncomplete);
    }
  }
}

TEST(Utf8Test, FindsTheFirstInvalidByte) {
  EXPECT_EQ(FirstInvalidUtf8(""), 0u);
  EXPECT_EQ(FirstInvalidUtf8("plain text of more than eight bytes"), 35u);
  EXPECT_EQ(FirstInvalidUtf8("plain text \xff"), 11u);
  EXPECT_EQ(FirstInvalidUtf8("\u00e9\u00e9\u00e9\u00e9\xc3"), 8u);
  EXPECT_EQ(FirstInvalidUtf8("a\xc0\x80"), 1u);
}

// The numbers of U+FFFD are those of Python's bytes.decode(errors="replace").
TEST(Utf8Test, ReplacesMaximalSubparts) {
  EXPECT_EQ(Lossy("a\xff\xfe z"), "a\ufffd\ufffd z");
  EXPECT_EQ(Lossy("\xe2\x82z"), "\ufffdz");
  EXPECT_EQ(Lossy("\xe2\x82"), "\ufffd");
  EXPECT_EQ(Lossy("\xf0\x9f\x98"), "\ufffd");
  EXPECT_EQ(Lossy("\xf0\x9f\x98\xf0\x9f\x98\x80"), "\ufffd\U0001f600");
  EXPECT_EQ(Lossy("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");
  EXPECT_EQ(Lossy("\xf4\x90\x80\x80"), "\ufffd\ufffd\ufffd\ufffd");
  EXPECT_EQ(Lossy("\xc0\xaf\xe0\x80\xbf"), "\ufffd\ufffd\ufffd\ufffd\ufffd");
}

}  // namespace
}  // namespace polystrate
