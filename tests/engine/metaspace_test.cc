#include "engine/metaspace.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/byte_fallback.h"

namespace polystrate {
namespace {

TEST(MetaspaceTest, MarksSpacesAndWhatStartsAPiece) {
  Metaspace metaspace;
  metaspace.mark = "_";
  EXPECT_EQ(metaspace.Mark("a  b ", false), "_a__b_");
  EXPECT_EQ(metaspace.Mark(" a", true), "_a");
  EXPECT_EQ(metaspace.Mark("_a", true), "_a");
  metaspace.prepend = Metaspace::kFirst;
  EXPECT_EQ(metaspace.Mark("a b", true), "_a_b");
  EXPECT_EQ(metaspace.Mark("a b", false), "a_b");
  metaspace.prepend = Metaspace::kNever;
  EXPECT_EQ(metaspace.Mark("a b", true), "a_b");
}

TEST(MetaspaceTest, EveryMarkBeginsAWord) {
  Metaspace metaspace;
  const auto split = [&](std::string_view text) {
    std::vector<std::string_view> words;
    metaspace.Split(text, words);
    return words;
  };
  using Words = std::vector<std::string_view>;
  EXPECT_EQ(split("a\u2581\u2581b\u2581"), (Words{"a", "\u2581", "\u2581b", "\u2581"}));
  EXPECT_EQ(split("\u2581a"), (Words{"\u2581a"}));
  EXPECT_EQ(split(""), Words());
  metaspace.split = false;
  EXPECT_EQ(split("a\u2581b"), (Words{"a\u2581b"}));
}

TEST(ByteFallbackTest, EveryByteHasItsToken) {
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(FallbackToByte(ByteToFallback(static_cast<uint8_t>(byte))), byte);
  }
  EXPECT_EQ(ByteToFallback(10), "<0x0A>");
  EXPECT_EQ(FallbackToByte("<0xfe>"), 0xfe);
  for (const char* other :
       {"", "<0x0>", "<0x0g>", "<0xg0>", "<0x-1>", "<0x0A", "0x0A>>", "<0x00A>"}) {
    EXPECT_EQ(FallbackToByte(other), std::nullopt) << other;
  }
}

}  // namespace
}  // namespace polystrate
