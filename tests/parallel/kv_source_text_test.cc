#include "parallel/kv_source_text.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

using Layers = std::vector<int>;

Layers Parse(const std::string& text, int num_layers) {
  const absl::StatusOr<KvSharing> sharing = ParseKvSource(text, num_layers);
  EXPECT_TRUE(sharing.ok()) << sharing.status();
  return sharing.ok() ? sharing->kv_source : Layers{};
}

TEST(KvSourceTextTest, Lists) {
  EXPECT_EQ(Parse("0,0,2,2", 4), (Layers{0, 0, 2, 2}));
  EXPECT_EQ(Parse("0_0_2_2", 4), (Layers{0, 0, 2, 2}));
  EXPECT_EQ(Parse("0, 0, 2, 2", 4), (Layers{0, 0, 2, 2}));
  EXPECT_EQ(Parse("0", 1), (Layers{0}));
}

TEST(KvSourceTextTest, EveryMapReadsBack) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const int num_layers = 1 + static_cast<int>(random() % 40);
    const int owners = 1 + static_cast<int>(random() % num_layers);
    const KvSharing sharing = KvSharing::Mlkv(num_layers, owners).value();
    for (const char* separator : {",", "_"}) {
      EXPECT_EQ(Parse(absl::StrJoin(sharing.kv_source, separator), num_layers), sharing.kv_source);
    }
    EXPECT_EQ(Parse(absl::StrCat("mlkv", owners), num_layers), sharing.kv_source);
  }
}

TEST(KvSourceTextTest, Names) {
  EXPECT_EQ(Parse("cla1", 3), (Layers{0, 1, 2}));
  EXPECT_EQ(Parse("cla2", 5), (Layers{0, 1, 1, 3, 3}));
  EXPECT_EQ(Parse("cla3", 10), (Layers{0, 1, 1, 1, 4, 4, 4, 7, 7, 7}));
  EXPECT_EQ(Parse("cla4", 8), (Layers{0, 0, 0, 0, 4, 4, 4, 4}));
  EXPECT_EQ(Parse("mlkv4", 10), (Layers{0, 0, 2, 2, 2, 5, 5, 7, 7, 7}));
  EXPECT_EQ(Parse("keep_ends", 6), (Layers{0, 1, 1, 3, 3, 5}));
  EXPECT_EQ(Parse("dense_front", 6), (Layers{0, 1, 2, 2, 2, 5}));
  EXPECT_EQ(Parse("dense_back", 6), (Layers{0, 1, 1, 1, 4, 5}));
}

TEST(KvSourceTextTest, NamesTheRuleThatIsBroken) {
  struct Case {
    const char* text;
    int num_layers;
    const char* message;
  };
  const Case cases[] = {
      {"0,2,2,2", 4, "kv_source[1] is 2; expected 0 to 1"},
      {"0,2,2,2", 4, "reads upward"},
      {"1_1_2_3", 4, "reads upward"},
      {"0,-1,0,0", 4, "kv_source[1] is -1"},
      {"-1,0", 2, "kv_source[0] is -1"},
      {"0,0,1,3", 4, "layer 1 has no KV cache: it reads layer 0"},
      {"0,0,2", 4, "has 3 entries; expected one for each of the 4 layers"},
      {"0,0,2,2,2", 4, "has 5 entries"},
      {"0,0,,2", 4, "\"\" is no layer"},
      {"0,0_2,2", 4, "\"0_2\" is no layer"},
      {"0,x,2,2", 4, "\"x\" is no layer"},
      {"0,99999999999,2,2", 4, "\"99999999999\" is no layer"},
      {"mlkv0", 4, "num_key_value_layers is 0; expected 1 to the number of layers, 4"},
      {"mlkv5", 4, "num_key_value_layers is 5; expected 1 to the number of layers, 4"},
      {"cla0", 4, "CLA sharing factor 0"},
      {"keep_ends", 3, "expected at least 4 layers"},
      {"", 4, "is no sharing map"},
      {"cla", 4, "is no sharing map"},
      {"cla-2", 4, "is no sharing map"},
      {"cla2x", 4, "is no sharing map"},
      {"cla99999999999", 4, "is no sharing map"},
      {"CLA2", 4, "is no sharing map"},
      {"keepends", 4, "claN (as cla2), mlkvM (as mlkv4), keep_ends, dense_front, dense_back"}};
  for (const Case& c : cases) {
    EXPECT_TRUE(Fails(ParseKvSource(c.text, c.num_layers).status(),
                      absl::StatusCode::kInvalidArgument, c.message))
        << c.text;
  }
}

}  // namespace
}  // namespace polystrate
