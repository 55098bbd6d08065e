#include "engine/paper_variants.h"

#include <gtest/gtest.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

std::string Names(const std::vector<PaperVariant>& variants) {
  return absl::StrJoin(variants, ",", [](std::string* out, const PaperVariant& variant) {
    absl::StrAppend(out, variant.name);
  });
}

// Parameters, owners and the last owner by the MLKV paper's code.
TEST(MlkvVariantsTest, HaveThePapersParametersAndOwners) {
  struct Row {
    const char* name;
    int64_t num_parameters;
    std::vector<int> owners;
  };
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, thirds = {0, 3, 6, 9};
  const std::vector<Row> rows = {
      {"MHA-144", 162322944, all},    {"GQA-48", 162316800, all},
      {"MLKV-48", 162316800, thirds}, {"MQA-12", 162332940, all},
      {"MLKV-12", 162332940, thirds}, {"MLKV-6", 162332556, {0, 2, 4, 6, 8, 10}},
      {"MLKV-4", 162320132, thirds},  {"MLKV-2", 162326152, {0, 6}},
      {"MLKV-1", 162319940, {0}}};
  const std::vector<PaperVariant> variants = MlkvVariants();
  ASSERT_EQ(variants.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(rows[i].name);
    EXPECT_EQ(variants[i].name, rows[i].name);
    EXPECT_EQ(variants[i].config.NumParameters(), rows[i].num_parameters);
    EXPECT_EQ(variants[i].config.sharing.owners(), rows[i].owners);
    // The number in the name: KV heads over the whole model.
    const int heads = static_cast<int>(rows[i].owners.size()) * variants[i].config.num_kv_heads;
    EXPECT_EQ(variants[i].name.substr(variants[i].name.find('-') + 1), std::to_string(heads));
  }
}

// 16-bit bytes of KV per token, and the share of owners, as the CLA paper's tables have them.
TEST(ClaVariantsTest, HaveThePapersBytes) {
  const std::pair<const char*, int64_t> expected[] = {
      {"1B-H128-MQA", 10240},     {"1B-H128-MQA-CLA2", 5120}, {"1B-H128-MQA-CLA3", 3584},
      {"1B-H128-MQA-CLA4", 2560}, {"1B-H64-MQA", 5120},       {"3B-H128-MQA", 16384},
      {"3B-H128-MQA-CLA2", 8192}, {"3B-H64-MQA", 8192},       {"3B-H64-MQA-CLA2", 4096}};
  const std::vector<PaperVariant> variants = ClaVariants();
  ASSERT_EQ(variants.size(), std::size(expected));
  for (size_t i = 0; i < variants.size(); ++i) {
    EXPECT_EQ(variants[i].name, expected[i].first);
    EXPECT_EQ(variants[i].config.KvBytesPerToken(DType::kBFloat16), expected[i].second);
  }
}

TEST(SelectVariantsTest, TakesThoseNamedInTheirOrder) {
  EXPECT_EQ(Names(*SelectVariants("")), Names(MlkvVariants()));
  EXPECT_EQ(Names(*SelectVariants("MLKV-6,MHA-144")), "MLKV-6,MHA-144");
  EXPECT_EQ(Names(*SelectVariants("mlkv")), Names(MlkvVariants()));
  EXPECT_EQ(Names(*SelectVariants("MLKV-6,cla")), "MLKV-6," + Names(ClaVariants()));
}

TEST(SelectVariantsTest, RefusesUnknownAndRepeatedNames) {
  for (const auto& [names, message] :
       {std::pair("MLKV-7", "no \"MLKV-7\"; the variants are MHA-144,GQA-48,"),
        std::pair("MLKV-6,", "no \"\";"), std::pair("MLKV-6,MLKV-6", "MLKV-6 twice"),
        std::pair("cla,cla", "1B-H128-MQA twice")}) {
    EXPECT_TRUE(Fails(SelectVariants(names).status(), absl::StatusCode::kInvalidArgument, message));
  }
}

}  // namespace
}  // namespace polystrate
