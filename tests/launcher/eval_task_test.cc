#include "launcher/eval_task.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "launcher/eval_encoding.h"
#include "launcher/eval_metrics.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

absl::StatusOr<EvalQuestion> Parse(EvalTask task, const std::string& line) {
  const Json json = *Json::Parse(line, "f:1");
  return ParseQuestion(task, json.root());
}

TEST(EvalTaskTest, LambadaPartsAtTheLastSpace) {
  const auto question =
      Parse(EvalTask::kLambada, R"({"text": "one  two\n\nthree, four-five\nsix"})");
  ASSERT_TRUE(question.ok());
  EXPECT_EQ(question->context, "one  two\n\nthree,");
  EXPECT_EQ(question->continuations, std::vector<std::string>{" four-five\nsix"});
  const auto word = Parse(EvalTask::kLambada, R"({"text": "word"})");
  EXPECT_EQ(word->context, "");
  EXPECT_EQ(word->continuations[0], " word");
}

TEST(EvalTaskTest, ChoicesBeginWithASpace) {
  for (const char* key : {"query", "context"}) {
    const auto question = Parse(
        EvalTask::kChoices,
        absl::StrCat("{\"", key, "\": \"Q:\\nA:\", \"choices\": [\"a\", \" b\"], \"gold\": 1}"));
    ASSERT_TRUE(question.ok()) << question.status();
    EXPECT_EQ(question->context, "Q:\nA:");
    EXPECT_EQ(question->continuations, (std::vector<std::string>{" a", "  b"}));
    EXPECT_EQ(question->gold, 1);
  }
}

TEST(EvalTaskTest, BadLinesNameKeyAndExpectation) {
  struct Case {
    EvalTask task;
    const char* line;
    const char* message;
  };
  const Case cases[] = {
      {EvalTask::kLambada, "[]", R"(expected {"text": TEXT})"},
      {EvalTask::kLambada, "{}", "f:1: \"text\""},
      {EvalTask::kLambada, R"({"text": 5})", "f:1: \"text\" is 5"},
      {EvalTask::kLambada, R"({"text": ""})", "the word to predict"},
      {EvalTask::kLambada, R"({"text": "a b "})", "the word to predict"},
      {EvalTask::kChoices, "3", R"(expected {"query": TEXT, "choices")"},
      {EvalTask::kChoices, R"({"choices": ["a", "b"], "gold": 0})", "\"query\""},
      {EvalTask::kChoices, R"({"query": "", "context": "", "choices": ["a", "b"], "gold": 0})",
       "has \"query\" and \"context\", expected one of them"},
      {EvalTask::kChoices, R"({"query": "q", "choices": "ab", "gold": 0})", "\"choices\" is"},
      {EvalTask::kChoices, R"({"query": "q", "choices": ["a"], "gold": 0})",
       "two choices at least"},
      {EvalTask::kChoices, R"({"query": "q", "choices": ["a", ""], "gold": 0})", "not empty"},
      {EvalTask::kChoices, R"({"query": "q", "choices": ["a", 2], "gold": 0})", "\"choices\" is 2"},
      {EvalTask::kChoices, R"({"query": "q", "choices": ["a", "b"]})", "\"gold\""},
      {EvalTask::kChoices, R"({"query": "q", "choices": ["a", "b"], "gold": "B"})", "\"gold\" is"},
      {EvalTask::kChoices, R"({"query": "q", "choices": ["a", "b"], "gold": -1})",
       "\"gold\" is -1, expected the index of a choice, in [0, 2)"},
      {EvalTask::kChoices, R"({"query": "q", "choices": ["a", "b"], "gold": 2})", "in [0, 2)"},
  };
  for (const Case& test : cases) {
    EXPECT_TRUE(Fails(Parse(test.task, test.line).status(), kInvalid, test.message)) << test.line;
  }
  EXPECT_TRUE(Fails(ParseEvalTask("hellaswag").status(), kInvalid, "expected lambada or choices"));
}

TEST(EvalTaskTest, FilesAndLimits) {
  TempDir dir;
  const std::string path = dir.File("q.jsonl");
  WriteFile(path, "{\"text\": \"a b\"}\n\n{\"text\": \"c d\"}\n{\"text\": \"\"}\n");
  EXPECT_TRUE(Fails(ReadQuestions(EvalTask::kLambada, path, std::nullopt).status(), kInvalid,
                    path + ":4: \"text\" is"));
  const auto two = ReadQuestions(EvalTask::kLambada, path, 2);
  ASSERT_TRUE(two.ok()) << two.status();
  ASSERT_EQ(two->size(), 2u);
  EXPECT_EQ((*two)[1].where, path + ":3");
  EXPECT_EQ(ReadQuestions(EvalTask::kLambada, path, 1)->size(), 1u);
  WriteFile(path, "\n");
  EXPECT_TRUE(Fails(ReadQuestions(EvalTask::kLambada, path, std::nullopt).status(), kInvalid,
                    "has no questions"));
}

// The likeliest choice is another one by each of the three measures.
TEST(EvalMetricsTest, LengthsOfChoices) {
  const auto accuracies = [](int64_t gold) {
    const EvalQuestion question{"f:1", "q", {" a", " abcdefgh", " éééééé"}, gold};
    // Per character -3, -0.75 and -0.9; per byte -3, -0.75 and -0.45.
    const std::vector<std::vector<ContinuationScore>> scores = {{{-3.0}, {-6.0}, {-5.4}}};
    std::vector<double> values;
    for (const Metric& metric : ComputeMetrics(EvalTask::kChoices, {&question, 1}, scores)) {
      values.push_back(metric.value);
      EXPECT_FALSE(metric.standard_error.has_value());  // of one question
    }
    return values;
  };
  EXPECT_EQ(accuracies(0), (std::vector<double>{1, 0, 0}));  // acc, acc_norm, acc_bytes
  EXPECT_EQ(accuracies(1), (std::vector<double>{0, 1, 0}));
  EXPECT_EQ(accuracies(2), (std::vector<double>{0, 0, 1}));
}

TEST(EvalMetricsTest, TheFirstOfEqualsCounts) {
  const EvalQuestion question{"f:1", "q", {" a", " b"}, 0};
  const std::vector<std::vector<ContinuationScore>> scores = {{{-1.0}, {-1.0}}};
  EXPECT_EQ(ComputeMetrics(EvalTask::kChoices, {&question, 1}, scores)[0].value, 1.0);
}

TEST(EvalMetricsTest, LambadaOfOneQuestion) {
  const EvalQuestion question{"f:1", "q", {" a"}, 0};
  const auto metrics = ComputeMetrics(EvalTask::kLambada, {&question, 1}, {{{-2.0, true}}});
  EXPECT_NEAR(metrics[0].value, std::exp(2.0), 1e-12);
  EXPECT_FALSE(metrics[0].standard_error.has_value());
  EXPECT_EQ(metrics[1].value, 1.0);
}

TEST(EvalEncodingTest, PrefixToken) {
  const auto tokenizer = *Tokenizer::ReadFile(SourceFile("models/demo/tokenizer.json"));
  TempDir dir;
  const auto prefix = [&](const std::string& config) {
    WriteFile(dir.File("tokenizer_config.json"), config);
    return ReadPrefixToken(dir.path(), *tokenizer, {7});
  };
  EXPECT_EQ(*ReadPrefixToken(dir.path(), *tokenizer, {7, 8}), 7);  // no such file
  EXPECT_EQ(*ReadPrefixToken(dir.path(), *tokenizer, {}), std::nullopt);
  EXPECT_EQ(*prefix("{}"), 7);
  EXPECT_EQ(*prefix(R"({"bos_token": "<|endoftext|>"})"), 0);
  EXPECT_EQ(*prefix(R"({"bos_token": {"content": "<|endoftext|>", "lstrip": false}})"), 0);
  EXPECT_EQ(*prefix(R"({"bos_token": null, "eos_token": "<|endoftext|>"})"), 0);
  EXPECT_EQ(*prefix(R"({"bos_token": "<unknown>"})"), 7);
  EXPECT_TRUE(Fails(prefix(R"({"bos_token": 5})").status(), kInvalid, "\"bos_token\" is 5"));
  EXPECT_TRUE(Fails(prefix("[]").status(), kInvalid, "tokenizer_config.json"));
  EXPECT_TRUE(Fails(EncodePair(*tokenizer, "", " a", {.max_model_len = 9}).status(), kInvalid,
                    "the context is empty"));
  EXPECT_TRUE(Fails(EncodePair(*tokenizer, " \n", " a", {.max_model_len = 9}).status(), kInvalid,
                    "white space alone"));
}

}  // namespace
}  // namespace polystrate
