#include "launcher/load_dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/testing/expect_status.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int64_t kVocabulary = 50;

std::vector<LoadPrompt> Make(DatasetFlags flags, int64_t n, uint64_t seed = 0) {
  EXPECT_TRUE(flags.Check().ok());
  auto prompts = MakeDataset(flags, n, seed, kVocabulary);
  EXPECT_TRUE(prompts.ok()) << prompts.status();
  return *std::move(prompts);
}

TEST(LoadDatasetTest, RandomLengthsCoverTheirRangeAndIdsTheVocabulary) {
  DatasetFlags flags;
  flags.random_input_len = 10;
  flags.random_output_len = 4;
  flags.random_range_ratio = 0.25;  // [7, 13] and [3, 5]
  std::set<size_t> inputs;
  std::set<int64_t> outputs;
  std::set<uint32_t> ids;
  for (const LoadPrompt& prompt : Make(flags, 500)) {
    inputs.insert(prompt.token_ids.size());
    outputs.insert(prompt.max_tokens);
    ids.insert(prompt.token_ids.begin(), prompt.token_ids.end());
    EXPECT_EQ(prompt.text, "");
  }
  EXPECT_EQ(inputs, (std::set<size_t>{7, 8, 9, 10, 11, 12, 13}));
  EXPECT_EQ(outputs, (std::set<int64_t>{3, 4, 5}));
  EXPECT_EQ(ids.size(), static_cast<size_t>(kVocabulary));
  EXPECT_EQ(*ids.rbegin(), kVocabulary - 1);
  EXPECT_EQ(flags.LongestSequence(), 13 + 5);

  flags.random_range_ratio = 0.0;
  for (const LoadPrompt& prompt : Make(flags, 20)) {
    EXPECT_EQ(prompt.token_ids.size(), 10u);
    EXPECT_EQ(prompt.max_tokens, 4);
  }
}

TEST(LoadDatasetTest, TheSeedDecidesAndMorePromptsBeginWithTheSame) {
  DatasetFlags flags;
  flags.random_range_ratio = 0.5;
  const auto few = Make(flags, 3, 5);
  const auto more = Make(flags, 9, 5);
  for (size_t i = 0; i < few.size(); ++i) EXPECT_EQ(few[i].token_ids, more[i].token_ids);
  EXPECT_NE(Make(flags, 3, 6)[0].token_ids, few[0].token_ids);
}

TEST(LoadDatasetTest, PrefixesTakeTurnsAndSuffixesDiffer) {
  DatasetFlags flags;
  flags.name = "prefix_repetition";
  flags.prefix_len = 20;
  flags.suffix_len = 8;
  flags.num_prefixes = 3;
  flags.prefix_output_len = 6;
  const auto prompts = Make(flags, 9);
  std::set<std::vector<uint32_t>> prefixes, suffixes;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto& ids = prompts[i].token_ids;
    ASSERT_EQ(ids.size(), 28u);
    EXPECT_EQ(prompts[i].max_tokens, 6);
    EXPECT_TRUE(std::equal(ids.begin(), ids.begin() + 20, prompts[i % 3].token_ids.begin()));
    prefixes.insert({ids.begin(), ids.begin() + 20});
    suffixes.insert({ids.begin() + 20, ids.end()});
  }
  EXPECT_EQ(prefixes.size(), 3u);
  EXPECT_EQ(suffixes.size(), 9u);
  EXPECT_EQ(flags.LongestSequence(), 34);
}

TEST(LoadDatasetTest, AFilesLinesComeInOrderAndOverAgain) {
  const TempDir dir;
  DatasetFlags flags;
  flags.path = dir.File("prompts.jsonl");
  flags.custom_output_len = 9;
  WriteFile(flags.path, "{\"prompt\": \"To be\"}\n\n{\"token_ids\": [4, 5], \"max_tokens\": 3}\n");
  const auto prompts = Make(flags, 5);
  ASSERT_EQ(prompts.size(), 5u);
  for (const size_t i : {0, 2, 4}) {
    EXPECT_EQ(prompts[i].text, "To be");
    EXPECT_EQ(prompts[i].max_tokens, 9);
  }
  for (const size_t i : {1, 3}) {
    EXPECT_EQ(prompts[i].token_ids, (std::vector<uint32_t>{4, 5}));
    EXPECT_EQ(prompts[i].max_tokens, 3);
  }
  EXPECT_EQ(Make(flags, 1).size(), 1u);
}

TEST(LoadDatasetTest, WhatIsWrongInAFileIsNamedWithItsLine) {
  const TempDir dir;
  DatasetFlags flags;
  flags.path = dir.File("prompts.jsonl");
  ASSERT_TRUE(flags.Check().ok());
  const auto fails = [&](const std::string& text, const std::string& message) {
    WriteFile(flags.path, text);
    return Fails(MakeDataset(flags, 2, 0, 0).status(), kInvalid, message);
  };
  EXPECT_TRUE(fails("", "no prompts"));
  EXPECT_TRUE(fails("{\"text\": \"a\"}\n{\"other\": 1}\n", "prompts.jsonl:2: expected one prompt"));
  EXPECT_TRUE(fails("{\"text\": \"a\", \"prompt\": \"b\"}\n", "expected one prompt"));
  EXPECT_TRUE(fails("{\"text\": \"\"}\n", "expected one prompt"));
  EXPECT_TRUE(fails("[1]\n", "expected one prompt"));
  EXPECT_TRUE(fails("{\"token_ids\": [-1]}\n", "a token id"));
  EXPECT_TRUE(fails("{\"text\": \"a\", \"max_tokens\": 0}\n", "\"max_tokens\" is 0"));
}

TEST(LoadDatasetTest, FlagsAreCheckedByName) {
  const auto fails = [](auto change, const std::string& message) {
    DatasetFlags flags;
    change(flags);
    return Fails(flags.Check(), kInvalid, message);
  };
  EXPECT_TRUE(
      fails([](DatasetFlags& f) { f.name = "sharegpt"; }, "--dataset_name is \"sharegpt\""));
  EXPECT_TRUE(fails([](DatasetFlags& f) { f.name = "custom"; }, "--dataset_path"));
  EXPECT_TRUE(fails([](DatasetFlags& f) { f.name = "random", f.path = "x"; }, "--dataset_path"));
  EXPECT_TRUE(fails([](DatasetFlags& f) { f.random_range_ratio = 1.0; }, "--random_range_ratio"));
  EXPECT_TRUE(fails([](DatasetFlags& f) { f.random_input_len = 0; }, "--random_input_len is 0"));
  EXPECT_TRUE(fails([](DatasetFlags& f) { f.num_prefixes = 0; }, "_num_prefixes is 0"));
  DatasetFlags huge;
  huge.random_input_len = 1 << 20;
  ASSERT_TRUE(huge.Check().ok());
  EXPECT_TRUE(Fails(MakeDataset(huge, 1 << 20, 0, kVocabulary).status(), kInvalid, "in all"));
}

}  // namespace
}  // namespace polystrate
