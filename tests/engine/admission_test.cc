// Every field's range, at its ends and beyond them.

#include "engine/admission.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "engine/engine.h"

namespace polystrate {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

EngineOptions Options() {
  EngineOptions options;
  options.vocab_size = 100;
  options.max_model_len = 64;
  options.num_blocks = 4;  // of 16 tokens
  options.max_num_seqs = 8;
  return options;
}

GenerationRequest Minimal() {
  GenerationRequest request;
  request.prompt = {1, 2, 3};
  return request;
}

absl::Status StatusOf(const GenerationRequest& request, bool has_tokenizer = true) {
  return Admit(request, Options(), has_tokenizer).status();
}

struct SamplingCase {
  const char* field;
  double SamplingParams::*member;
  std::string range;  // as the message has it
  std::vector<double> good;
  std::vector<double> bad;
};

TEST(AdmissionTest, SamplingParametersHaveRanges) {
  const SamplingCase cases[] = {
      {"temperature", &SamplingParams::temperature, "[0, 2]", {0, 1e-9, 2}, {-1e-9, 2.001}},
      {"top_p", &SamplingParams::top_p, "(0, 1]", {1e-9, 1}, {0, -1, 1.001}},
      {"min_p", &SamplingParams::min_p, "[0, 1]", {0, 1}, {-0.001, 1.001}},
      {"frequency_penalty", &SamplingParams::frequency_penalty, "[-2, 2]", {-2, 2}, {-2.1, 2.1}},
      {"presence_penalty", &SamplingParams::presence_penalty, "[-2, 2]", {-2, 2}, {-2.1, 2.1}},
      {"repetition_penalty",
       &SamplingParams::repetition_penalty,
       "above 0 and finite",
       {1e-300, 1, 1e300},
       {0, -1}},
  };
  for (const SamplingCase& test : cases) {
    GenerationRequest request = Minimal();
    for (const double value : test.good) {
      request.sampling.*test.member = value;
      EXPECT_TRUE(StatusOf(request).ok()) << test.field << " " << value;
    }
    std::vector<double> bad = test.bad;
    bad.insert(bad.end(), {kNan, kInfinity, -kInfinity});
    for (const double value : bad) {
      request.sampling.*test.member = value;
      const absl::Status status = StatusOf(request);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.field << " " << value;
      EXPECT_EQ(status.message().find(test.field), 0u) << status;
      EXPECT_NE(status.message().find(test.range), std::string::npos) << status;
    }
  }
}

struct FieldCase {
  std::string message;  // a part of it; empty: accepted
  std::function<void(GenerationRequest*)> set;
};

TEST(AdmissionTest, OtherFieldsHaveRanges) {
  const FieldCase cases[] = {
      {"top_k is -2; it must be -1 or 0", [](auto* r) { r->sampling.top_k = -2; }},
      {"", [](auto* r) { r->sampling.top_k = std::numeric_limits<int32_t>::max(); }},
      {"num_sequences is 0; it must be in [1, 8]", [](auto* r) { r->num_sequences = 0; }},
      {"", [](auto* r) { r->num_sequences = 8; }},
      {"num_sequences is 9; it must be in [1, 8]", [](auto* r) { r->num_sequences = 9; }},
      {"max_tokens is 0; it must be at least 1", [](auto* r) { r->max_tokens = 0; }},
      {"min_tokens is -1; it must be in [0, max_tokens]", [](auto* r) { r->min_tokens = -1; }},
      {"", [](auto* r) { r->max_tokens = r->min_tokens = 5; }},
      {"min_tokens is 6; it must be in [0, max_tokens], and max_tokens is 5",
       [](auto* r) {
         r->max_tokens = 5;
         r->min_tokens = 6;
       }},
      {"", [](auto* r) { r->min_tokens = 61; }},
      {"min_tokens is 62; after the prompt's 3 tokens the context, 64, has room for 61",
       [](auto* r) { r->min_tokens = 62; }},
      {"",
       [](auto* r) {
         r->stop_token_ids = {0, 99};
       }},
      {"stop_token_id 100 is not in the vocabulary, [0, 100)",
       [](auto* r) {
         r->stop_token_ids = {5, 100};
       }},
      {"stop_token_id -1 is not", [](auto* r) { r->stop_token_ids = {-1}; }},
      {"", [](auto* r) { r->stop_token_ids.assign(kMaxStopTokenIds, 7); }},
      {"there are 1025 stop_token_id; there may be 1024",
       [](auto* r) { r->stop_token_ids.assign(kMaxStopTokenIds + 1, 7); }},
      {"", [](auto* r) { r->stop_texts.assign(kMaxStopTexts, std::string(1024, 'x')); }},
      {"there are 65 stop_text; there may be 64",
       [](auto* r) { r->stop_texts.assign(kMaxStopTexts + 1, "x"); }},
      {"stop_text of 0 bytes; it must be UTF-8 of 1 to 1024",
       [](auto* r) { r->stop_texts = {""}; }},
      {"stop_text of 1025 bytes", [](auto* r) { r->stop_texts = {std::string(1025, 'x')}; }},
      {"stop_text of 1 bytes", [](auto* r) { r->stop_texts = {"\xff"}; }},
      {"",
       [](auto* r) {
         r->output_logprobs = true;
         r->output_candidates = kMaxCandidates;
       }},
      {"output_candidates: top_n is 21; it must be in [0, 20]",
       [](auto* r) {
         r->output_logprobs = true;
         r->output_candidates = kMaxCandidates + 1;
       }},
      {"output_candidates: top_n is -1",
       [](auto* r) {
         r->output_logprobs = true;
         r->output_candidates = -1;
       }},
      {"output_candidates is set without", [](auto* r) { r->output_candidates = 1; }},
  };
  for (const FieldCase& test : cases) {
    GenerationRequest request = Minimal();
    test.set(&request);
    const absl::Status status = StatusOf(request);
    if (test.message.empty()) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.message;
    EXPECT_EQ(status.message().find(test.message), 0u) << status << "\nexpected " << test.message;
  }
}

TEST(AdmissionTest, StopTextsNeedATokenizer) {
  GenerationRequest request = Minimal();
  request.stop_texts = {"."};
  EXPECT_TRUE(StatusOf(request, /*has_tokenizer=*/true).ok());
  const absl::Status status = StatusOf(request, /*has_tokenizer=*/false);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message().find("stop_text"), 0u) << status;
}

// What the smallest output needs decides whether a request can ever run.
TEST(AdmissionTest, AnOutputThatCannotFitTheCacheIsRefused) {
  EngineOptions options = Options();
  options.num_blocks = 1;
  GenerationRequest request = Minimal();
  request.min_tokens = 14;  // 3 + 14 - 1 = 16 tokens in the cache
  EXPECT_EQ(Admit(request, options, true).value(), 14);
  request.min_tokens = 15;
  EXPECT_EQ(Admit(request, options, true).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(AdmissionTest, WhatIsResumedFitsTheRequest) {
  const FieldCase cases[] = {
      {"",
       [](auto* r) {
         r->resumed = {{{0, 99, 5}, false}};
       }},
      {"",
       [](auto* r) {
         r->resumed = {{{0, 99, 5, 7, 7}, true}};
       }},
      {"polystrate.resume: token id 100 is not in the vocabulary, [0, 100)",
       [](auto* r) {
         r->resumed = {{{5, 100}, false}};
       }},
      {"polystrate.resume: token id -1 is not",
       [](auto* r) {
         r->resumed = {{{-1}, true}};
       }},
      {"polystrate.resume has 2 outputs; it must have one for each of num_sequences, 1",
       [](auto* r) { r->resumed.resize(2); }},
      {"polystrate.resume has 1 outputs; it must have one for each of num_sequences, 2",
       [](auto* r) {
         r->resumed.resize(1);
         r->num_sequences = 2;
       }},
      {"polystrate.resume has an output of 6 tokens; max_tokens and the context allow 5",
       [](auto* r) {
         r->resumed = {{std::vector<int32_t>(6, 7), true}};
       }},
      {"polystrate.resume has an output of 62 tokens; max_tokens and the context allow 61",
       [](auto* r) {
         r->max_tokens.reset();
         r->resumed = {{std::vector<int32_t>(62, 7), false}};
       }},
      {"polystrate.resume needs the seed of what it resumes, as temperature is 0.5",
       [](auto* r) {
         r->resumed.resize(1);
         r->sampling.seed.reset();
       }},
      {"",
       [](auto* r) {
         r->resumed.resize(1);
         r->sampling.seed.reset();
         r->sampling.temperature = 1e-6;  // greedy
       }},
  };
  for (const FieldCase& test : cases) {
    GenerationRequest request = Minimal();
    request.sampling.temperature = 0.5;
    request.sampling.seed = 1;
    request.max_tokens = 5;
    test.set(&request);
    const absl::Status status = StatusOf(request);
    EXPECT_EQ(status.ok(), test.message.empty()) << status;
    if (status.ok()) continue;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(status.message().find(test.message), 0u) << status << "\nexpected " << test.message;
  }
}

// On an engine of less memory than the one before.
TEST(AdmissionTest, WhatIsResumedHasToFitTheCache) {
  EngineOptions options = Options();
  options.num_blocks = 1;
  GenerationRequest request = Minimal();
  request.sampling.seed = 1;
  request.resumed = {{std::vector<int32_t>(14, 7), false}};
  EXPECT_EQ(Admit(request, options, true).value(), 14);
  request.resumed[0].tokens.push_back(7);
  EXPECT_EQ(Admit(request, options, true).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(AdmissionTest, TheNumberOfOutputsIsBoundedWhateverTheEngineRuns) {
  EngineOptions options = Options();
  options.max_num_seqs = 1 << 20;
  EXPECT_EQ(MaxNumSequences(options), 16384);
}

TEST(AdmissionTest, ACacheSaltIsBounded) {
  GenerationRequest request = Minimal();
  request.cache_salt.assign(kMaxCacheSaltBytes, 'x');
  EXPECT_TRUE(StatusOf(request).ok());
  request.cache_salt += 'x';
  EXPECT_EQ(StatusOf(request).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StatusOf(request).message(), "cache_salt has 257 bytes; it may have 256");
}

}  // namespace
}  // namespace polystrate
