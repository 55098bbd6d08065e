// What requests ask of sampling, honoured by a whole engine however the model is cut over ranks,
// against a float64 reference that draws from the logits of one full forward pass.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/testing/local_engine.h"
#include "tests/testing/sampling_reference.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int64_t kVocab = 96;
constexpr int32_t kEos = 0;  // of the tiny model
// Sums in another order than the full forward pass has, on logits of size ten.
constexpr double kTolerance = 1e-4;

TinyModelSpec Spec() {
  TinyModelSpec spec;
  spec.num_kv_heads = 2;
  spec.num_kv_layers = 2;
  spec.reuse_keys = "post_rope";
  return spec;
}

GenerationRequest Request(uint64_t i, SamplingParams sampling) {
  GenerationRequest request;
  request.prompt = RandomTokens(9 + 5 * static_cast<int64_t>(i), kVocab, i);
  request.sampling = sampling;
  request.sampling.seed = 100 + i;
  request.max_tokens = 24;
  request.ignore_eos = true;
  return request;
}

// Every parameter alone, greedy and drawn, and all at once.
std::vector<GenerationRequest> Requests() {
  const SamplingParams params[] = {
      {.temperature = 0.0},
      {.temperature = 0.0, .frequency_penalty = 1.5},
      {.temperature = 0.0, .presence_penalty = 2.0},
      {.temperature = 0.0, .repetition_penalty = 1.4},
      {.temperature = 0.0, .frequency_penalty = -1.0},
      {.temperature = 1.5},
      {.temperature = 1.5, .min_p = 0.1},
      {.temperature = 0.8, .frequency_penalty = 0.7},
      {.temperature = 0.8, .repetition_penalty = 0.7},
      {.temperature = 1.2,
       .top_k = 30,
       .top_p = 0.9,
       .min_p = 0.02,
       .frequency_penalty = 0.4,
       .presence_penalty = -0.3,
       .repetition_penalty = 1.2},
  };
  std::vector<GenerationRequest> requests;
  for (const SamplingParams& sampling : params) {
    requests.push_back(Request(requests.size(), sampling));
    requests.back().output_logprobs = requests.size() % 2 == 1;
    requests.back().output_candidates = requests.size() % 4 == 1 ? 5 : 0;
  }
  // Bans of the tokens it would draw otherwise; see MinTokensBansWhatWouldStop.
  requests.push_back(Request(requests.size(), {.temperature = 0.0}));
  requests.back().min_tokens = 7;
  requests.back().ignore_eos = false;
  return requests;
}

// Logprob, rank and candidates are those of the raw logits.
void ExpectTold(const GenerationRequest& request, const std::vector<float>& logits,
                const LocalOutput& output, size_t at) {
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(double{logit});
  const auto logprob = [&](int32_t token) { return logits[token] - std::log(sum); };
  const int32_t token = output.token_ids[at];
  EXPECT_NEAR(output.logprobs[at], logprob(token), kTolerance);
  ASSERT_EQ(static_cast<int64_t>(output.candidates[at].size()), request.output_candidates);
  if (!request.output_logprobs) {
    EXPECT_EQ(output.ranks[at], 0);
    return;
  }
  const auto above = [&](double bound) {
    return std::count_if(logits.begin(), logits.end(), [&](float x) { return x > bound; });
  };
  EXPECT_GE(output.ranks[at], above(logits[token] + kTolerance) + 1);
  EXPECT_LE(output.ranks[at], above(logits[token] - kTolerance));
  std::vector<float> sorted = logits;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (size_t i = 0; i < output.candidates[at].size(); ++i) {
    const TokenLogProb& candidate = output.candidates[at][i];
    EXPECT_NEAR(logits[candidate.token_id], sorted[i], kTolerance);
    EXPECT_NEAR(candidate.logprob, logprob(candidate.token_id), kTolerance);
  }
}

void ExpectReference(const std::string& model, const GenerationRequest& request,
                     const LocalOutput& output) {
  ASSERT_TRUE(output.status.ok()) << output.status;
  std::vector<int32_t> tokens = request.prompt;
  tokens.insert(tokens.end(), output.token_ids.begin(), output.token_ids.end());
  const auto logits = FullLogits(model, tokens);
  tokens = request.prompt;
  for (size_t at = 0; at < output.token_ids.size(); ++at) {
    SCOPED_TRACE(::testing::Message() << "token " << at);
    const std::vector<float>& row = logits[tokens.size() - 1];
    testing::ExpectDrawn(testing::NextDraw(request, {kEos}, tokens, row), output.token_ids[at],
                         kTolerance);
    ExpectTold(request, row, output, at);
    tokens.push_back(output.token_ids[at]);
  }
}

struct Cut {
  int tp_size;
  int pp_size;
  // Of 4 tokens; the longest request takes 21. 24 hold the first four prompts and six blocks more,
  // and each of the four grows by six: some are preempted.
  int64_t num_blocks;
  int64_t max_num_batched_tokens;
};

class SamplingTest : public ::testing::TestWithParam<Cut> {};

TEST_P(SamplingTest, DrawsWhatTheReferenceDraws) {
  const TempDir dir;
  WriteTinyModel(dir.path(), Spec());
  const std::vector<GenerationRequest> requests = Requests();
  LocalEngineOptions options;
  options.tp_size = GetParam().tp_size;
  options.pp_size = GetParam().pp_size;
  options.num_blocks = GetParam().num_blocks;
  options.max_num_batched_tokens = GetParam().max_num_batched_tokens;
  options.block_size = 4;
  const std::vector<LocalOutput> outputs = RunLocalEngine(dir.path(), options, requests).outputs;
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "request " << i);
    ExpectReference(dir.path(), requests[i], outputs[i]);
    // And the very tokens that it gets when it runs alone on one rank with memory for all.
    const LocalOutput alone = RunLocalEngine(dir.path(), {}, {requests[i]}).outputs[0];
    EXPECT_EQ(outputs[i].token_ids, alone.token_ids);
    EXPECT_EQ(outputs[i].ranks, alone.ranks);
  }
}

INSTANTIATE_TEST_SUITE_P(Cuts, SamplingTest,
                         ::testing::Values(Cut{1, 1, 400, 512}, Cut{1, 1, 24, 512},
                                           Cut{1, 1, 24, 7}, Cut{2, 1, 24, 16}, Cut{1, 2, 24, 16},
                                           Cut{2, 2, 400, 512}),
                         [](const auto& test) {
                           const Cut& cut = test.param;
                           return "tp" + std::to_string(cut.tp_size) + "_pp" +
                                  std::to_string(cut.pp_size) + "_blocks" +
                                  std::to_string(cut.num_blocks) + "_step" +
                                  std::to_string(cut.max_num_batched_tokens);
                         });

class HonouredTest : public ::testing::Test {
 protected:
  HonouredTest() { WriteTinyModel(dir_.path(), Spec()); }
  LocalOutput Run(const GenerationRequest& request) const {
    return RunLocalEngine(dir_.path(), {}, {request}).outputs[0];
  }
  const TempDir dir_;
};

// A model that repeats itself shows that penalties do something at all.
TEST_F(HonouredTest, PenaltiesChangeWhatIsDrawn) {
  GenerationRequest request = Request(3, {.temperature = 0.0});
  request.max_tokens = 60;
  const std::vector<int32_t> plain = Run(request).token_ids;
  std::vector<int32_t> distinct = plain;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  ASSERT_LT(distinct.size(), plain.size());
  for (double SamplingParams::*penalty :
       {&SamplingParams::frequency_penalty, &SamplingParams::presence_penalty,
        &SamplingParams::repetition_penalty}) {
    GenerationRequest penalised = request;
    penalised.sampling.*penalty = 2.0;
    EXPECT_NE(Run(penalised).token_ids, plain);
  }
  // So large that no token comes twice while an unseen one has a positive logit.
  request.sampling.repetition_penalty = 1e300;
  request.max_tokens = 12;
  std::vector<int32_t> seen = request.prompt;
  for (const int32_t token : Run(request).token_ids) {
    EXPECT_EQ(std::count(seen.begin(), seen.end(), token), 0) << token;
    seen.push_back(token);
  }
}

TEST_F(HonouredTest, MinTokensBansWhatWouldStop) {
  GenerationRequest request = Request(4, {.temperature = 0.0});
  const std::vector<int32_t> plain = Run(request).token_ids;
  request.stop_token_ids = {plain[2], plain[5]};
  ASSERT_LE(Run(request).token_ids.size(), 3u);
  for (const int64_t min_tokens : {4, 10}) {
    request.min_tokens = min_tokens;
    const LocalOutput output = Run(request);
    ExpectReference(dir_.path(), request, output);
    ASSERT_GE(static_cast<int64_t>(output.token_ids.size()), min_tokens);
    for (int64_t i = 0; i < min_tokens; ++i) {
      EXPECT_NE(output.token_ids[i], plain[2]);
      EXPECT_NE(output.token_ids[i], plain[5]);
    }
  }
}

// With every token banned there is nothing to draw; the request says so and others go on.
TEST_F(HonouredTest, MinTokensThatLeaveNothingEndTheRequest) {
  GenerationRequest request = Request(5, {.temperature = 1.0});
  request.min_tokens = 2;
  for (int32_t token = 0; token < kVocab; ++token) request.stop_token_ids.push_back(token);
  const std::vector<LocalOutput> outputs =
      RunLocalEngine(dir_.path(), {}, {request, Request(6, {})}).outputs;
  EXPECT_EQ(outputs[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(outputs[0].status.message().find("min_tokens"), std::string::npos);
  EXPECT_EQ(outputs[1].token_ids.size(), 24u);
}

}  // namespace
}  // namespace polystrate
