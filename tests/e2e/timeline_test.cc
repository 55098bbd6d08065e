// `generate --timeline` over two real ranks: the trace is well formed, and its stages overlap.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/json.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int kPrompts = 8;
constexpr int kMaxTokens = 32;

struct Span {
  int64_t step;
  int64_t tokens;
  double begin_us;
  double end_us;
};

// By stage: with one tensor-parallel rank each stage is a rank.
std::map<int64_t, std::vector<Span>> ReadTrace(const std::string& path) {
  const Json json = *Json::ReadFile(path, 1 << 24);
  std::map<int64_t, std::vector<Span>> stages;
  for (const JsonView& event : json.root().GetArray("traceEvents")->Elements()) {
    EXPECT_EQ(*event.GetString("ph"), "X");
    EXPECT_EQ(*event.GetInt("tid"), 0);
    const JsonView args = *event.GetObject("args");
    const int64_t stage = *event.GetInt("pid");
    EXPECT_EQ(*args.GetInt("stage"), stage);
    EXPECT_EQ(*event.GetString("name"), absl::StrCat("step ", *args.GetInt("step")));
    const double begin = *event.GetDouble("ts");
    stages[stage].push_back(
        {*args.GetInt("step"), *args.GetInt("tokens"), begin, begin + *event.GetDouble("dur")});
  }
  return stages;
}

// Large enough that a step takes a millisecond or so: shorter ones could end before the other rank
// has woken.
std::map<int64_t, std::vector<Span>> RunTwoStages() {
  TinyModelSpec spec;
  spec.num_layers = 6;
  spec.hidden_size = 384;
  spec.num_heads = 12;
  spec.intermediate_size = 1536;
  TempDir dir;
  WriteTinyModel(dir.path(), spec);
  std::string prompts;
  for (int i = 0; i < kPrompts; ++i) {
    absl::StrAppend(&prompts, "{\"prompt_ids\":[", i + 1, ",", i + 2, ",", i + 3, "]}\n");
  }
  WriteFile(dir.File("prompts.jsonl"), prompts);
  const CommandResult result = RunCommand(Mpirun(
      2, Polystrate({"generate", "--model", dir.path(), "--pp", "2", "--prompts",
                     dir.File("prompts.jsonl"), "--max_tokens", absl::StrCat(kMaxTokens),
                     "--temperature", "0", "--ignore_eos", "--timeline", dir.File("trace.json")})));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return ReadTrace(dir.File("trace.json"));
}

TEST(Timeline, EveryRankHasEveryStepOnceAndStagesOverlap) {
  std::map<int64_t, std::vector<Span>> stages = RunTwoStages();
  ASSERT_EQ(stages.size(), 2u);
  const std::vector<Span>& first = stages.at(0);
  const std::vector<Span>& second = stages.at(1);
  ASSERT_EQ(first.size(), second.size());
  // Every plan holds half of the sequences at most, so that the other stage has work too.
  EXPECT_GE(first.size(), size_t{2 * kMaxTokens});

  int64_t tokens = 0;
  int overlapping = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].step, first[0].step + static_cast<int64_t>(i));
    EXPECT_EQ(second[i].step, first[i].step);
    EXPECT_EQ(second[i].tokens, first[i].tokens);
    // A stage cannot have a step done before the one in front of it has begun it.
    EXPECT_GT(second[i].end_us, first[i].begin_us);
    tokens += first[i].tokens;
    if (i + 1 == first.size()) continue;
    for (const std::vector<Span>* spans : {&first, &second}) {
      EXPECT_LE((*spans)[i].end_us, (*spans)[i + 1].begin_us) << "step " << first[i].step;
    }
    overlapping +=
        first[i + 1].begin_us < second[i].end_us && second[i].begin_us < first[i + 1].end_us;
  }
  EXPECT_EQ(tokens, kPrompts * (3 + kMaxTokens - 1));  // the last token is not computed
  // On a busy machine the ranks take turns, so one overlap is asked for; one after the other there
  // is none.
  EXPECT_GT(overlapping, 0);
}

}  // namespace
}  // namespace polystrate
