// Against lm-evaluation-harness itself: tests/golden/eval/lm_eval.json, by
// tools/make_eval_golden.py.

#include <gtest/gtest.h>

#include "engine/json.h"
#include "engine/tokenizer.h"
#include "launcher/eval_encoding.h"
#include "launcher/eval_metrics.h"
#include "launcher/eval_task.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

const std::string kGolden = SourceFile("tests/golden/eval/lm_eval.json");
const std::string kModel = SourceFile("models/demo");

TEST(EvalGolden, MetricsAndStandardErrors) {
  const Json golden = *Json::ReadFile(kGolden, 1 << 20);
  const auto tasks = golden.root().GetObject("tasks")->Members();
  ASSERT_EQ(tasks.size(), 4u);
  for (const auto& [name, expected] : tasks) {
    SCOPED_TRACE(name);
    const EvalTask task = *ParseEvalTask(*expected.GetString("task"));
    const JsonView log_likelihoods = *expected.GetArray("log_likelihoods");
    const JsonView greedy = *expected.GetArray("greedy");
    std::vector<EvalQuestion> questions;
    std::vector<std::vector<ContinuationScore>> scores;
    int64_t next = 0;
    for (const JsonView& line : expected.GetArray("questions")->Elements()) {
      questions.push_back(*ParseQuestion(task, line));
      scores.emplace_back();
      for (size_t i = 0; i < questions.back().continuations.size(); ++i, ++next) {
        scores.back().push_back({*log_likelihoods.at(next).AsDouble("log_likelihood"),
                                 *greedy.at(next).AsBool("greedy")});
      }
    }
    ASSERT_EQ(next, log_likelihoods.size());
    const std::vector<Metric> metrics = ComputeMetrics(task, questions, scores);
    const JsonView by_name = *expected.GetObject("metrics");
    ASSERT_EQ(metrics.size(), by_name.Members().size());
    for (const Metric& metric : metrics) {
      const JsonView truth = *by_name.GetObject(metric.name);
      EXPECT_NEAR(metric.value, *truth.GetDouble("value"), 1e-12) << metric.name;
      ASSERT_TRUE(metric.standard_error.has_value()) << metric.name;
      EXPECT_NEAR(*metric.standard_error, *truth.GetDouble("stderr"), 1e-9) << metric.name;
    }
  }
}

TEST(EvalGolden, TokensOfContextAndContinuation) {
  const Json golden = *Json::ReadFile(kGolden, 1 << 20);
  const auto tokenizer = *Tokenizer::ReadFile(std::string(kModel) + "/tokenizer.json");
  EncodingOptions options{.max_model_len = 1 << 20};
  options.prefix_token = *ReadPrefixToken(kModel, *tokenizer, {});
  int refused = 0;
  for (const JsonView& expected : golden.root().GetArray("pairs")->Elements()) {
    const std::string context = *expected.GetString("context");
    const std::string continuation = *expected.GetString("continuation");
    SCOPED_TRACE("\"" + context + "\" \"" + continuation + "\"");
    std::vector<int32_t> tokens;
    for (const char* key : {"context_ids", "continuation_ids"}) {
      for (const JsonView& id : expected.GetArray(key)->Elements()) {
        tokens.push_back(static_cast<int32_t>(*id.AsInt(key)));
      }
    }
    const int64_t begin = expected.GetArray("context_ids")->size();
    const auto pair = EncodePair(*tokenizer, context, continuation, options);
    if (expected.GetArray("continuation_ids")->size() == 0) {  // the harness asserts
      EXPECT_TRUE(Fails(pair.status(), absl::StatusCode::kInvalidArgument, "adds no token"));
      ++refused;
      continue;
    }
    ASSERT_TRUE(pair.ok()) << pair.status();
    EXPECT_EQ(pair->tokens, tokens);
    EXPECT_EQ(pair->continuation_begin, begin);
    EXPECT_FALSE(pair->truncated);
    // The model takes one token less than these: the first goes. The last is never fed.
    options.max_model_len = static_cast<int64_t>(tokens.size()) - 2;
    const auto cut = EncodePair(*tokenizer, context, continuation, options);
    if (begin > 1) {
      ASSERT_TRUE(cut.ok()) << cut.status();
      EXPECT_TRUE(cut->truncated);
      EXPECT_EQ(cut->tokens, std::vector<int32_t>(tokens.begin() + 1, tokens.end()));
      EXPECT_EQ(cut->continuation_begin, begin - 1);
    } else {
      EXPECT_TRUE(Fails(cut.status(), absl::StatusCode::kInvalidArgument, "the continuation has"));
    }
    options.max_model_len = 1 << 20;
  }
  EXPECT_EQ(refused, 1);
}

}  // namespace
}  // namespace polystrate
