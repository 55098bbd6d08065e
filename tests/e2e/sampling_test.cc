// Sampling flags through the real binary: alone and over ranks the same tokens.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "engine/json.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

struct Output {
  std::vector<int64_t> token_ids;
  std::vector<int64_t> ranks;
  size_t num_candidates = 0;  // of the first token
  int64_t index = -1;
};

std::vector<int64_t> Ints(const JsonView& object, const char* key) {
  std::vector<int64_t> values;
  for (const JsonView& element : object.GetArray(key)->Elements()) {
    values.push_back(*element.AsInt(key));
  }
  return values;
}

std::vector<Output> Parse(const std::string& out) {
  std::vector<Output> outputs;
  for (const absl::string_view line : absl::StrSplit(out, '\n', absl::SkipEmpty())) {
    const Json json = *Json::Parse(std::string(line), "generate");
    Output& output = outputs.emplace_back();
    output.token_ids = Ints(json.root(), "token_ids");
    output.ranks = Ints(json.root(), "ranks");
    output.num_candidates = json.root().GetArray("candidates")->Elements().at(0).Elements().size();
    if (json.root().Has("output_index")) output.index = *json.root().GetInt("output_index");
  }
  return outputs;
}

class SamplingFlagsTest : public ::testing::Test {
 protected:
  SamplingFlagsTest() {
    TinyModelSpec spec;
    spec.num_kv_layers = 2;
    spec.reuse_keys = "post_rope";
    WriteTinyModel(dir_.path(), spec);
  }
  CommandLine Generate(const CommandLine& more) const {
    CommandLine command = {"generate", "--model", dir_.path(), "--prompt_ids", "5,6,7,8"};
    command.insert(command.end(), more.begin(), more.end());
    return Polystrate(command);
  }
  const TempDir dir_;
};

TEST_F(SamplingFlagsTest, GiveTheSameTokensHoweverTheModelIsCut) {
  const CommandLine flags = {"--max_tokens",
                             "20",
                             "--min_tokens",
                             "20",
                             "--n",
                             "3",
                             "--seed",
                             "4",
                             "--min_p",
                             "0.01",
                             "--frequency_penalty",
                             "0.8",
                             "--top_k",
                             "40",
                             "--repetition_penalty",
                             "1.2",
                             "--stop_token_ids",
                             "9,10",
                             "--presence_penalty",
                             "-0.2",
                             "--json",
                             "--logprobs",
                             "3"};
  const CommandResult alone = RunCommand(Generate(flags));
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  const std::vector<Output> expected = Parse(alone.out);
  ASSERT_EQ(expected.size(), 3u);
  CommandLine cut = Generate(flags);
  cut.insert(cut.end(), {"--tp", "2", "--pp", "2"});
  const CommandResult ranks = RunCommand(Mpirun(4, cut));
  ASSERT_EQ(ranks.exit_code, 0) << ranks.err;
  const std::vector<Output> got = Parse(ranks.out);
  ASSERT_EQ(got.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(expected[i].token_ids.size(), 20u);
    EXPECT_EQ(expected[i].ranks.size(), 20u);
    EXPECT_EQ(expected[i].num_candidates, 3u);
    EXPECT_EQ(expected[i].index, static_cast<int64_t>(i));
    EXPECT_EQ(got[i].token_ids, expected[i].token_ids);
  }
  EXPECT_NE(expected[0].token_ids, expected[1].token_ids);
}

TEST_F(SamplingFlagsTest, MistakesAreNamed) {
  const std::pair<CommandLine, const char*> cases[] = {
      {{"--logprobs", "3"}, "--logprobs is printed with --json"},
      {{"--logprobs", "21", "--json"}, "output_candidates: top_n is 21; it must be in [0, 20]"},
      {{"--n", "0"}, "--n is 0"},
      {{"--n", "65"}, "num_sequences is 65; it must be in [1, 64]"},
      {{"--min_p", "2"}, "min_p is 2; it must be in [0, 1]"},
      {{"--frequency_penalty", "nan"}, "frequency_penalty is nan; it must be in [-2, 2]"},
      {{"--stop_token_ids", "1,x"}, "--stop_token_ids takes integers"},
      {{"--stop_token_ids", "-1"}, "--stop_token_ids is -1"},
      {{"--stop", "x"}, "no tokenizer"},
  };
  for (const auto& [flags, message] : cases) {
    const CommandResult result = RunCommand(Generate(flags));
    EXPECT_EQ(result.exit_code, 2) << message;
    EXPECT_NE(result.err.find(message), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  }
}

}  // namespace
}  // namespace polystrate
