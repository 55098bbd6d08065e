// The sampling surface as a client sees it: over a real channel, against a float64 reference that
// draws again from the logits of one forward pass.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "rpc/convert.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/sampling_reference.h"

namespace polystrate {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Sums in another order than the full forward pass has, on logits of size ten.
constexpr double kTolerance = 1e-4;

pb::GenerateRequest Request() {
  pb::GenerateRequest request = GreedyRequest(16);
  request.mutable_response()->set_return_output_logprobs(true);
  return request;
}

struct Range {
  const char* message;
  std::function<void(pb::GenerateRequest*)> set;
};

template <typename Set>
void AddDoubles(std::vector<Range>* ranges, const char* message, std::vector<double> values,
                Set set) {
  values.insert(values.end(), {kNan, kInfinity, -kInfinity});
  for (const double value : values) {
    ranges->push_back({message, [=](auto* r) { (r->mutable_sampling()->*set)(value); }});
  }
}

std::vector<Range> OutOfRange() {
  using Sampling = pb::SamplingParams;
  std::vector<Range> ranges;
  AddDoubles(&ranges, "temperature", {-0.1, 2.1}, &Sampling::set_temperature);
  AddDoubles(&ranges, "top_p", {0, 1.1}, &Sampling::set_top_p);
  AddDoubles(&ranges, "min_p", {-0.1, 1.1}, &Sampling::set_min_p);
  AddDoubles(&ranges, "frequency_penalty", {-2.1, 2.1}, &Sampling::set_frequency_penalty);
  AddDoubles(&ranges, "presence_penalty", {-2.1, 2.1}, &Sampling::set_presence_penalty);
  AddDoubles(&ranges, "repetition_penalty", {0, -1}, &Sampling::set_repetition_penalty);
  const std::vector<Range> others = {
      {"top_k is -2", [](auto* r) { r->mutable_sampling()->set_top_k(-2); }},
      {"num_sequences is 0; it must be in [1, 64]",
       [](auto* r) { r->mutable_sampling()->set_num_sequences(0); }},
      {"num_sequences is 65; it must be in [1, 64]",
       [](auto* r) { r->mutable_sampling()->set_num_sequences(65); }},
      {"num_sequences", [](auto* r) { r->mutable_sampling()->set_num_sequences(0xffffffffu); }},
      {"max_tokens is 0; it must be at least 1",
       [](auto* r) { r->mutable_stopping()->set_max_tokens(0); }},
      {"min_tokens is 17; it must be in [0, max_tokens], and max_tokens is 16",
       [](auto* r) { r->mutable_stopping()->set_min_tokens(17); }},
      {"stop_token_id 1024 is not in the vocabulary, [0, 1024)",
       [](auto* r) { r->mutable_stopping()->add_conditions()->set_stop_token_id(1024); }},
      {"stop_text of 0 bytes; it must be UTF-8 of 1 to 1024 bytes",
       [](auto* r) { r->mutable_stopping()->add_conditions()->set_stop_text(""); }},
      {"there may be 64",
       [](auto* r) {
         for (int i = 0; i < 65; ++i) r->mutable_stopping()->add_conditions()->set_stop_text(".");
       }},
      {"output_candidates: top_n is 21; it must be in [0, 20]",
       [](auto* r) { r->mutable_response()->mutable_output_candidates()->set_top_n(21); }},
      {"output_candidates is set without",
       [](auto* r) {
         r->mutable_response()->set_return_output_logprobs(false);
         r->mutable_response()->mutable_output_candidates()->set_top_n(1);
       }},
  };
  ranges.insert(ranges.end(), others.begin(), others.end());
  return ranges;
}

TEST(SamplingTest, WhatIsOutOfRangeIsRefusedByName) {
  ServedEngine served;
  served.Run();
  for (const Range& test : OutOfRange()) {
    pb::GenerateRequest request = Request();
    test.set(&request);
    const Answer answer = Ask(served.inference(), request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << test.message;
    EXPECT_NE(answer.status.error_message().find(test.message), std::string::npos)
        << answer.status.error_message() << "\nexpected " << test.message;
    EXPECT_TRUE(answer.events.empty());
  }
  EXPECT_TRUE(Ask(served.inference(), Request()).status.ok());
}

// The tokens of each output.
std::vector<std::vector<pb::TokenInfo>> TokensOf(const Answer& answer, size_t num_outputs) {
  std::vector<std::vector<pb::TokenInfo>> outputs(num_outputs);
  for (const pb::GenerateResponse& event : answer.events) {
    for (const pb::TokenInfo& token : event.token().tokens()) {
      outputs.at(event.token().output_index()).push_back(token);
    }
  }
  return outputs;
}

void ExpectReference(const std::string& model, const GenerationRequest& request,
                     const std::vector<int32_t>& eos, const std::vector<pb::TokenInfo>& output) {
  std::vector<int32_t> tokens = request.prompt;
  for (const pb::TokenInfo& token : output)
    tokens.push_back(static_cast<int32_t>(token.token_id()));
  const auto all_logits = FullLogits(model, tokens);
  tokens = request.prompt;
  for (const pb::TokenInfo& token : output) {
    SCOPED_TRACE(::testing::Message() << "position " << tokens.size());
    const std::vector<float>& logits = all_logits[tokens.size() - 1];
    const auto id = static_cast<int32_t>(token.token_id());
    testing::ExpectDrawn(testing::NextDraw(request, eos, tokens, logits), id, kTolerance);
    double sum = 0.0;
    for (const float logit : logits) sum += std::exp(double{logit});
    EXPECT_NEAR(token.logprob(), logits[id] - std::log(sum), kTolerance);
    EXPECT_GE(token.rank(), 1u);
    ASSERT_EQ(token.candidates_size(), request.output_candidates);
    for (const pb::LogProb& candidate : token.candidates()) {
      EXPECT_NEAR(candidate.logprob(), logits[candidate.token_id()] - std::log(sum), kTolerance);
      EXPECT_EQ(candidate.rank() == token.rank(), candidate.token_id() == token.token_id());
    }
    tokens.push_back(id);
  }
}

struct Honoured {
  const char* name;
  std::function<void(pb::GenerateRequest*)> set;
};

TEST(SamplingTest, EveryValueIsHonoured) {
  const TempDir dir;
  WriteTinyModel(dir.path(), ServedModel());
  ServedEngine served;
  served.Run();
  const std::vector<int32_t> eos = served.engine().options().eos_token_ids;
  const Answer plain = Ask(served.inference(), Request());
  const std::vector<Honoured> cases = {
      {"frequency_penalty", [](auto* r) { r->mutable_sampling()->set_frequency_penalty(1.9); }},
      {"presence_penalty", [](auto* r) { r->mutable_sampling()->set_presence_penalty(1.9); }},
      {"repetition_penalty", [](auto* r) { r->mutable_sampling()->set_repetition_penalty(1.8); }},
      {"min_tokens",
       [&](auto* r) {
         r->mutable_stopping()->set_min_tokens(12);
         r->mutable_stopping()->add_conditions()->set_stop_token_id(plain.ids[1]);
       }},
      {"min_p",
       [](auto* r) {
         r->mutable_sampling()->set_temperature(1.9);
         r->mutable_sampling()->set_min_p(0.2);
       }},
      {"num_sequences and everything else", [](auto* r) {
         pb::SamplingParams& sampling = *r->mutable_sampling();
         sampling.set_num_sequences(3);
         sampling.set_temperature(1.5);
         sampling.set_top_k(100);
         sampling.set_top_p(0.95);
         sampling.set_min_p(0.01);
         sampling.set_frequency_penalty(0.3);
         sampling.set_presence_penalty(-0.2);
         sampling.set_repetition_penalty(1.1);
         r->mutable_response()->mutable_output_candidates()->set_top_n(20);
       }}};
  for (const Honoured& test : cases) {
    SCOPED_TRACE(test.name);
    pb::GenerateRequest wire = Request();
    wire.mutable_sampling()->set_seed(77);
    test.set(&wire);
    const Answer answer = Ask(served.inference(), wire);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_NE(answer.ids, plain.ids);
    GenerationRequest request = FromWire(wire, "tiny", &served.tokenizer()).value();
    const auto outputs = TokensOf(answer, request.num_sequences);
    for (const auto& output : outputs) {
      EXPECT_GE(output.size(), std::max<size_t>(request.min_tokens, 12));
      ExpectReference(dir.path(), request, eos, output);
      ++*request.sampling.seed;  // that of the next output
    }
  }
  EXPECT_TRUE(served.BecomesIdle());
}

TEST(SamplingTest, ModelInfoTellsWhatIsSupported) {
  ServedEngine served;
  grpc::ClientContext context;
  pb::ModelInfo info;
  ASSERT_TRUE(served.control().GetModelInfo(&context, {}, &info).ok());
  const pb::GenerationCapabilities& generation = info.generation();
  EXPECT_EQ(generation.max_num_sequences(), 64u);
  EXPECT_TRUE(generation.supports_stop_in_output());
  for (const pb::LogprobCapabilities& logprobs :
       {generation.prompt_logprobs(), generation.output_logprobs()}) {
    EXPECT_TRUE(logprobs.supported());
    EXPECT_EQ(logprobs.max_top_n(), 20u);
    ASSERT_EQ(logprobs.candidate_selection_modes_size(), 1);
    EXPECT_EQ(logprobs.candidate_selection_modes(0), pb::CANDIDATE_TOKEN_SELECTION_MODE_TOP_N);
  }
}

}  // namespace
}  // namespace polystrate
