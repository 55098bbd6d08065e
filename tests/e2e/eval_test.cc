// `polystrate eval` through the real binary: alone and over ranks, beside `score`, and what it
// refuses.

#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/json.h"
#include "engine/json_writer.h"
#include "tests/testing/places.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

const std::string kModel = SourceFile("models/demo");
const std::string kFolder = SourceFile("tests/golden/eval/");

CommandLine Eval(const std::string& task, const std::string& input, const CommandLine& more = {}) {
  CommandLine command = {"eval", "--model", kModel,    "--task",      task,      "--input",
                         input,  "--dtype", "float32", "--kv_memory", "67108864"};
  command.insert(command.end(), more.begin(), more.end());
  return Polystrate(command);
}

// The questions of the golden file's choice tasks, in the format of `choices`.
std::string WriteChoices(const TempDir& dir) {
  const Json golden = *Json::ReadFile(absl::StrCat(kFolder, "lm_eval.json"), 1 << 20);
  std::string text;
  for (const auto& [name, task] : golden.root().GetObject("tasks")->Members()) {
    if (*task.GetString("task") != "choices") continue;
    for (const JsonView& question : task.GetArray("questions")->Elements()) {
      JsonWriter line;
      line.BeginObject().Key("query").String(*question.GetString("query"));
      line.Key("choices").BeginArray();
      for (const JsonView& choice : question.GetArray("choices")->Elements()) {
        line.String(*choice.AsString("choice"));
      }
      line.EndArray().Key("gold").Int(*question.GetInt("gold")).EndObject();
      absl::StrAppend(&text, line.text(), "\n");
    }
  }
  WriteFile(dir.File("choices.jsonl"), text);
  return dir.File("choices.jsonl");
}

void ExpectSameMetrics(const std::string& got, const std::string& expected) {
  const Json a = *Json::Parse(got, "got"), b = *Json::Parse(expected, "expected");
  EXPECT_EQ(*a.root().GetInt("num_questions"), *b.root().GetInt("num_questions"));
  const auto metrics = b.root().GetObject("metrics")->Members();
  ASSERT_GE(metrics.size(), 2u);
  for (const auto& [name, truth] : metrics) {
    const JsonView metric = *a.root().GetObject("metrics")->GetObject(name);
    for (const char* key : {"value", "stderr"}) {
      const double value = *truth.GetDouble(key);
      // float32 sums in another order move a log-likelihood of size ten by a few 1e-5.
      EXPECT_NEAR(*metric.GetDouble(key), value, 1e-3 * std::abs(value)) << name << " " << key;
    }
  }
}

TEST(EvalTest, TheSameAloneAndOverRanks) {
  TempDir dir;
  const std::string choices = WriteChoices(dir);
  const std::pair<std::string, std::string> tasks[] = {
      {"lambada", absl::StrCat(kFolder, "lambada.jsonl")}, {"choices", choices}};
  for (const auto& [task, input] : tasks) {
    const CommandResult alone = RunCommand(Eval(task, input, {"--json"}));
    ASSERT_EQ(alone.exit_code, 0) << alone.err;
    EXPECT_TRUE(absl::StrContains(alone.err, " continuations, ")) << alone.err;
    const CommandResult ranks =
        RunCommand(Mpirun(4, Eval(task, input, {"--json", "--tp", "2", "--pp", "2"})));
    ASSERT_EQ(ranks.exit_code, 0) << ranks.err;
    ExpectSameMetrics(ranks.out, alone.out);
  }
}

// Perplexity is what `score` says of the last words. Their tokens are all those behind the
// context's.
TEST(EvalTest, LambadaIsWhatScoreSaysOfTheLastWord) {
  TempDir dir;
  WriteFile(dir.File("whole.jsonl"), "{\"text\": \"ROMEO:\\nI take thee at thy word\"}\n");
  WriteFile(dir.File("context.jsonl"), "{\"text\": \"ROMEO:\\nI take thee at thy\"}\n");
  const auto logprobs = [&](const char* name) {
    const CommandResult scored = RunCommand(
        Polystrate({"score", "--model", kModel, "--input", dir.File(name), "--dtype", "float32"}));
    const Json line = *Json::Parse(scored.out, "scored");
    std::vector<double> values;
    for (const JsonView& logprob : line.root().GetArray("logprobs")->Elements()) {
      values.push_back(logprob.IsNull() ? 0.0 : *logprob.AsDouble("logprob"));
    }
    return values;
  };
  const std::vector<double> whole = logprobs("whole.jsonl");
  double sum = 0.0;
  for (size_t i = logprobs("context.jsonl").size(); i < whole.size(); ++i) sum += whole[i];
  ASSERT_LT(sum, 0.0);
  const CommandResult result = RunCommand(Eval("lambada", dir.File("whole.jsonl"), {"--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = *Json::Parse(result.out, "eval");
  const JsonView perplexity = *json.root().GetObject("metrics")->GetObject("perplexity");
  EXPECT_NEAR(std::log(*perplexity.GetDouble("value")), -sum, 1e-4);
  EXPECT_FALSE(perplexity.Has("stderr"));  // of one question: null
}

TEST(EvalTest, LongContextsLoseTheirStart) {
  const std::string input = absl::StrCat(kFolder, "lambada.jsonl");
  const CommandResult result =
      RunCommand(Eval("lambada", input, {"--max_model_len", "12", "--limit", "3"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "warning: 3 contexts were longer")) << result.err;
  EXPECT_TRUE(absl::StrContains(result.out, "|lambada|     3|perplexity|")) << result.out;
}

void ExpectRefused(const CommandLine& command, const std::string& message) {
  const CommandResult result = RunCommand(command, absl::Seconds(60));
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(absl::StrContains(result.err, message)) << message << "\n" << result.err;
}

TEST(EvalTest, BadInput) {
  TempDir dir;
  const std::string file = dir.File("q.jsonl");
  WriteFile(file, "{\"text\": \"a b\"}\n{\"text\": 4}\n");
  ExpectRefused(Eval("lambada", file), "q.jsonl:2: \"text\" is 4, expected");
  ExpectRefused(Eval("choices", file), "q.jsonl:1: ");
  ExpectRefused(Eval("hellaswag", file), "--task is \"hellaswag\"; expected lambada or choices");
  ExpectRefused(Eval("lambada", file, {"--limit", "0"}), "--limit is 0; it must be at least 1");
  ExpectRefused(Eval("lambada", ""), "--input takes a text");
  ExpectRefused(Polystrate({"eval", "--model", kModel, "--task", "lambada"}),
                "--input is required");
  ExpectRefused(Eval("lambada", "/nonexistent"), "cannot read /nonexistent");
  WriteFile(file, "{\"text\": \"a b\"\n");
  ExpectRefused(Eval("lambada", file), "q.jsonl:1: not valid JSON");
  WriteFile(file, "\n{\"query\": \" \", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n");
  ExpectRefused(Eval("choices", file), "q.jsonl:2: the context has no token");
  WriteFile(file, "{\"text\": \"a \xff\"}\n");
  ExpectRefused(Eval("lambada", file), "q.jsonl:1: ");
  const CommandResult help = RunCommand(Polystrate({"eval", "--help"}));
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_TRUE(absl::StartsWith(help.out, "polystrate eval: "));
}

}  // namespace
}  // namespace polystrate
