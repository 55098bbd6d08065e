// What an engine tells about a prompt: from which token on, ranks and candidates, however the
// prompt is cut into steps and the model over ranks.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/engine.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int64_t kContext = 64;

TinyModelSpec Spec() {
  TinyModelSpec spec;
  spec.num_kv_heads = 2;
  spec.num_kv_layers = 2;
  spec.reuse_keys = "post_rope";
  spec.max_position_embeddings = kContext;
  return spec;
}

GenerationRequest ScoreRequest(const std::vector<int32_t>& prompt, int64_t start,
                               int64_t candidates) {
  GenerationRequest request;
  request.prompt = prompt;
  request.max_tokens = 0;
  request.prompt_logprobs = true;
  request.prompt_logprob_start = start;
  request.prompt_candidates = candidates;
  return request;
}

double LogSumExp(const std::vector<float>& logits) {
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit));
  return std::log(sum);
}

// Log-probabilities agree within `tolerance`; so do ranks, where no other logit is so near that the
// order may turn.
void ExpectScores(const std::vector<std::vector<float>>& logits, const GenerationRequest& request,
                  const LocalOutput& output) {
  constexpr double kTolerance = 1e-4;  // sums in another order, on logits of size ten
  ASSERT_TRUE(output.status.ok()) << output.status;
  const auto size = static_cast<int64_t>(request.prompt.size());
  const int64_t start = request.prompt_logprob_start;
  ASSERT_EQ(static_cast<int64_t>(output.prompt_scores.size()), size - start);
  for (int64_t position = start; position < size; ++position) {
    SCOPED_TRACE(position);
    const PromptScore& score = output.prompt_scores[position - start];
    if (position == 0) {
      EXPECT_TRUE(std::isnan(score.logprob));
      EXPECT_EQ(score.rank, 0);
      EXPECT_TRUE(score.candidates.empty());
      continue;
    }
    const std::vector<float>& row = logits[position - 1];
    const float logit = row[request.prompt[position]];
    EXPECT_NEAR(score.logprob, logit - LogSumExp(row), kTolerance);
    const auto above = [&](double bound) {
      return std::count_if(row.begin(), row.end(), [&](float x) { return x > bound; });
    };
    EXPECT_GE(score.rank, above(logit + kTolerance) + 1);
    EXPECT_LE(score.rank, above(logit - kTolerance));
    ASSERT_EQ(static_cast<int64_t>(score.candidates.size()), request.prompt_candidates);
    std::vector<float> sorted = row;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (size_t i = 0; i < score.candidates.size(); ++i) {
      const TokenLogProb& candidate = score.candidates[i];
      EXPECT_NEAR(candidate.logprob, sorted[i] - LogSumExp(row), kTolerance) << i;
      EXPECT_NEAR(row[candidate.token_id], sorted[i], kTolerance) << i;
      if (static_cast<int32_t>(i) + 1 == score.rank) {
        EXPECT_EQ(candidate.token_id, request.prompt[position]);
      }
    }
  }
}

struct Cut {
  int tp_size;
  int pp_size;
  int64_t num_blocks;
  int64_t max_num_batched_tokens;
};

class PromptScoresTest : public testing::TestWithParam<Cut> {};

TEST_P(PromptScoresTest, AreThoseOfTheFullForwardPass) {
  TempDir dir;
  WriteTinyModel(dir.path(), Spec());
  std::vector<std::vector<int32_t>> prompts;
  std::vector<GenerationRequest> requests;
  // One token more than the context is allowed: the last one is not computed.
  for (int64_t length : {1, 2, 17, 33, 64, 65}) {
    prompts.push_back(RandomTokens(length, 96, static_cast<uint64_t>(length)));
    for (int64_t start : {int64_t{0}, int64_t{1}, length / 2, length - 1}) {
      if (start >= length) continue;
      requests.push_back(ScoreRequest(prompts.back(), start, (start * 7 + length) % 21));
    }
  }
  LocalEngineOptions options;
  options.tp_size = GetParam().tp_size;
  options.pp_size = GetParam().pp_size;
  options.block_size = 4;
  options.num_blocks = GetParam().num_blocks;
  options.max_num_batched_tokens = GetParam().max_num_batched_tokens;
  const LocalRun run = RunLocalEngine(dir.path(), options, requests);
  size_t index = 0;
  for (std::vector<int32_t>& prompt : prompts) {
    std::vector<int32_t> computed = prompt;
    if (computed.size() > kContext) computed.pop_back();
    const auto logits = FullLogits(dir.path(), computed);
    for (; index < requests.size() && requests[index].prompt == prompt; ++index) {
      SCOPED_TRACE(index);
      ExpectScores(logits, requests[index], run.outputs[index]);
    }
  }
  EXPECT_EQ(index, requests.size());
}

INSTANTIATE_TEST_SUITE_P(Cuts, PromptScoresTest,
                         testing::Values(Cut{1, 1, 400, 512}, Cut{1, 1, 400, 7}, Cut{2, 2, 16, 16},
                                         Cut{1, 2, 17, 5}),
                         [](const auto& test) {
                           const Cut& cut = test.param;
                           return "tp" + std::to_string(cut.tp_size) + "_pp" +
                                  std::to_string(cut.pp_size) + "_blocks" +
                                  std::to_string(cut.num_blocks) + "_batch" +
                                  std::to_string(cut.max_num_batched_tokens);
                         });

// A request that scores and generates: the prompt's last token is computed then.
TEST(PromptScoresTest, BesideGeneratedTokens) {
  TempDir dir;
  WriteTinyModel(dir.path(), Spec());
  const std::vector<int32_t> prompt = RandomTokens(20, 96, 5);
  GenerationRequest both = ScoreRequest(prompt, 12, 2);
  both.max_tokens = 6;
  both.sampling.temperature = 0.0;
  both.ignore_eos = true;
  GenerationRequest plain = both;
  plain.prompt_logprobs = false;
  plain.prompt_logprob_start = 0;
  plain.prompt_candidates = 0;
  const LocalRun run = RunLocalEngine(dir.path(), {}, {both, plain});
  ExpectScores(FullLogits(dir.path(), prompt), both, run.outputs[0]);
  EXPECT_EQ(run.outputs[0].token_ids, run.outputs[1].token_ids);
  // What is generated greedily is of rank 1 when it is scored.
  std::vector<int32_t> whole = prompt;
  whole.insert(whole.end(), run.outputs[0].token_ids.begin(), run.outputs[0].token_ids.end());
  const LocalRun again = RunLocalEngine(dir.path(), {}, {ScoreRequest(whole, 20, 1)});
  for (size_t i = 0; i < 6; ++i) {
    const PromptScore& score = again.outputs[0].prompt_scores[i];
    EXPECT_EQ(score.rank, 1) << i;
    EXPECT_EQ(score.candidates[0].token_id, whole[20 + i]) << i;
    EXPECT_EQ(score.candidates[0].logprob, score.logprob) << i;
  }
}

}  // namespace
}  // namespace polystrate
