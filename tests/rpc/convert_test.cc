#include "rpc/convert.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "rpc/grpc_status.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

pb::GenerateRequest Minimal() {
  pb::GenerateRequest wire;
  wire.mutable_token_ids()->add_ids(5);
  return wire;
}

absl::StatusOr<GenerationRequest> Convert(const pb::GenerateRequest& wire) {
  return FromWire(wire, "tiny", /*tokenizer=*/nullptr);
}

TEST(ConvertTest, AbsentFieldsAreTheDocumentedDefaults) {
  const auto request = Convert(Minimal());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompt, std::vector<int32_t>{5});
  EXPECT_EQ(request->sampling.temperature, 1.0);
  EXPECT_EQ(request->sampling.top_p, 1.0);
  EXPECT_EQ(request->sampling.top_k, 0);
  EXPECT_FALSE(request->sampling.seed.has_value());
  EXPECT_FALSE(request->max_tokens.has_value());
  EXPECT_FALSE(request->ignore_eos);
  EXPECT_FALSE(request->prompt_logprobs);
  EXPECT_FALSE(request->output_logprobs);
  EXPECT_EQ(request->sampling.min_p, 0.0);
  EXPECT_EQ(request->sampling.frequency_penalty, 0.0);
  EXPECT_EQ(request->sampling.presence_penalty, 0.0);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.0);
  EXPECT_EQ(request->num_sequences, 1);
  EXPECT_EQ(request->min_tokens, 0);
  EXPECT_TRUE(request->stop_texts.empty());
  EXPECT_FALSE(request->include_stop_in_output);
  EXPECT_EQ(request->output_candidates, 0);
}

TEST(ConvertTest, TextGetsSpecialTokensAndTokenIdsDoNot) {
  const auto tokenizer =
      Tokenizer::ReadFile(SourceFile("tests/golden/tokenizer/spm_llama.json")).value();
  pb::GenerateRequest wire;
  wire.set_prompt("the");
  const std::vector<int32_t> expected = {*tokenizer->TokenToId("<s>"),
                                         *tokenizer->TokenToId("\u2581the")};
  EXPECT_EQ(FromWire(wire, "tiny", tokenizer.get())->prompt, expected);
  EXPECT_EQ(FromWire(Minimal(), "tiny", tokenizer.get())->prompt, std::vector<int32_t>{5});
}

TEST(ConvertTest, EveryFieldArrives) {
  pb::GenerateRequest wire = Minimal();
  wire.set_request_id("r-1");
  wire.set_model("tiny");
  wire.mutable_sampling()->set_temperature(0.5);
  wire.mutable_sampling()->set_top_p(0.25);
  wire.mutable_sampling()->set_top_k(7);
  wire.mutable_sampling()->set_min_p(0.125);
  wire.mutable_sampling()->set_frequency_penalty(-0.5);
  wire.mutable_sampling()->set_presence_penalty(1.5);
  wire.mutable_sampling()->set_repetition_penalty(1.25);
  wire.mutable_sampling()->set_seed(0);
  wire.mutable_sampling()->set_num_sequences(3);
  wire.mutable_stopping()->set_max_tokens(9);
  wire.mutable_stopping()->set_min_tokens(2);
  wire.mutable_stopping()->add_conditions()->set_stop_token_id(3);
  wire.mutable_stopping()->add_conditions()->set_stop_text("\xc3\xa9.");
  wire.mutable_stopping()->add_conditions()->set_stop_token_id(4);
  wire.mutable_stopping()->add_conditions()->set_stop_text("");  // refused by the engine
  wire.mutable_stopping()->set_include_stop_in_output(true);
  wire.mutable_stopping()->set_ignore_eos(true);
  wire.mutable_response()->set_return_prompt_logprobs(true);
  wire.mutable_response()->set_prompt_logprob_start(4);
  wire.mutable_response()->mutable_prompt_candidates()->set_top_n(0xffffffffu);
  wire.mutable_response()->set_return_output_logprobs(true);
  wire.mutable_response()->mutable_output_candidates()->set_top_n(5);
  wire.mutable_kv()->set_bypass_prefix_cache(true);
  wire.mutable_kv()->set_cache_salt("tenant");
  const auto request = Convert(wire);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->request_id, "r-1");
  EXPECT_EQ(request->sampling.temperature, 0.5);
  EXPECT_EQ(request->sampling.top_p, 0.25);
  EXPECT_EQ(request->sampling.top_k, 7);
  EXPECT_EQ(request->sampling.seed, std::optional<uint64_t>(0));
  EXPECT_EQ(request->max_tokens, std::optional<int64_t>(9));
  EXPECT_EQ(request->stop_token_ids, (std::vector<int32_t>{3, 4}));
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_TRUE(request->prompt_logprobs);
  EXPECT_EQ(request->prompt_logprob_start, 4);
  EXPECT_EQ(request->prompt_candidates, 0xffffffff);  // its range is the engine's to check
  EXPECT_TRUE(request->output_logprobs);
  EXPECT_EQ(request->sampling.min_p, 0.125);
  EXPECT_EQ(request->sampling.frequency_penalty, -0.5);
  EXPECT_EQ(request->sampling.presence_penalty, 1.5);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.25);
  EXPECT_EQ(request->num_sequences, 3);
  EXPECT_EQ(request->min_tokens, 2);
  EXPECT_EQ(request->stop_texts, (std::vector<std::string>{"\xc3\xa9.", ""}));
  EXPECT_TRUE(request->include_stop_in_output);
  EXPECT_EQ(request->output_candidates, 5);
  EXPECT_TRUE(request->bypass_prefix_cache);
  EXPECT_EQ(request->cache_salt, "tenant");
}

struct FieldCase {
  const char* name;  // of the field, as the message must have it
  std::function<void(pb::GenerateRequest*)> set;
};

TEST(ConvertTest, WhatIsSetAndUnsupportedIsNamed) {
  const FieldCase cases[] = {
      {"response.prompt_candidates.all",
       [](auto* r) { r->mutable_response()->mutable_prompt_candidates()->mutable_all(); }},
      {"response.prompt_candidates.token_ids",
       [](auto* r) {
         r->mutable_response()->mutable_prompt_candidates()->mutable_token_ids()->add_ids(1);
       }},
      {"response.output_candidates.all",
       [](auto* r) { r->mutable_response()->mutable_output_candidates()->mutable_all(); }},
      {"response.output_candidates.token_ids",
       [](auto* r) { r->mutable_response()->mutable_output_candidates()->mutable_token_ids(); }},
      {"kv.session", [](auto* r) { r->mutable_kv()->mutable_session(); }},
      {"guided", [](auto* r) { r->mutable_guided()->set_regex("a+"); }},
      {"guided", [](auto* r) { r->mutable_guided()->mutable_json_object(); }},
      {"guided", [](auto* r) { r->mutable_guided()->set_backend("xgrammar"); }},
      {"media", [](auto* r) { r->add_media()->set_url("http://x/"); }},
      {"lora_name", [](auto* r) { r->set_lora_name("x"); }},
      {"extra.\"k\"",
       [](auto* r) { (*r->mutable_extra()->mutable_fields())["k"].set_bool_value(true); }},
  };
  for (const FieldCase& test : cases) {
    pb::GenerateRequest wire = Minimal();
    test.set(&wire);
    const absl::Status status = Convert(wire).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << test.name;
    EXPECT_EQ(status.message().find(test.name), 0) << status;
  }
}

// Zero is not absent, and what int32 does not hold must not wrap round into the range.
TEST(ConvertTest, NumbersOfOutputsKeepTheirSize) {
  pb::GenerateRequest wire = Minimal();
  for (const uint32_t n : {0u, 1u, 0x7fffffffu, 0x80000001u, 0xffffffffu}) {
    wire.mutable_sampling()->set_num_sequences(n);
    EXPECT_EQ(Convert(wire)->num_sequences, std::min<int64_t>(n, 0x7fffffff));
  }
}

TEST(ConvertTest, WhatIsSetToItsDefaultIsFine) {
  pb::GenerateRequest wire = Minimal();
  pb::SamplingParams& sampling = *wire.mutable_sampling();
  sampling.set_min_p(0.0);
  sampling.set_frequency_penalty(0.0);
  sampling.set_presence_penalty(0.0);
  sampling.set_repetition_penalty(1.0);
  sampling.set_num_sequences(1);
  wire.mutable_stopping()->set_min_tokens(0);
  wire.mutable_stopping()->set_include_stop_in_output(false);
  wire.mutable_response()->mutable_prompt_candidates();
  wire.mutable_response()->mutable_output_candidates()->set_top_n(0);
  wire.mutable_response()->set_prompt_logprob_start(0);
  wire.mutable_kv()->set_bypass_prefix_cache(false);
  wire.mutable_kv()->set_cache_salt("");
  wire.mutable_guided();
  wire.mutable_extra();
  const auto request = Convert(wire);
  EXPECT_TRUE(request.ok()) << request.status();
}

TEST(ConvertTest, BadValuesAreInvalidArguments) {
  const FieldCase cases[] = {
      {"prompt", [](auto* r) { r->clear_token_ids(); }},
      {"no tokenizer", [](auto* r) { r->set_prompt("text"); }},
      {"token_ids", [](auto* r) { r->mutable_token_ids()->add_ids(0x80000000u); }},
      {"stop_token_id",
       [](auto* r) { r->mutable_stopping()->add_conditions()->set_stop_token_id(0xffffffffu); }},
      {"stopping.conditions", [](auto* r) { r->mutable_stopping()->add_conditions(); }},
      {"request_id", [](auto* r) { r->set_request_id("two words"); }},
      {"request_id", [](auto* r) { r->set_request_id("\xc3\xa9"); }},
      {"request_id", [](auto* r) { r->set_request_id(std::string(257, 'x')); }},
  };
  for (const FieldCase& test : cases) {
    pb::GenerateRequest wire = Minimal();
    test.set(&wire);
    const absl::Status status = Convert(wire).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.name;
    EXPECT_NE(status.message().find(test.name), absl::string_view::npos) << status;
  }
}

TEST(ConvertTest, AnotherModelIsNotFound) {
  pb::GenerateRequest wire = Minimal();
  wire.set_model("huge");
  const absl::Status status = Convert(wire).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("tiny"), absl::string_view::npos) << status;
}

TEST(ConvertTest, TokensTellWhatWasAskedFor) {
  pb::TokenInfo wire;
  ToWire(TokenInfo{.token_id = 4, .logprob = -0.5f, .text = "x"}, nullptr, &wire);
  EXPECT_EQ(wire.token(), "x");
  EXPECT_FALSE(wire.has_logprob() || wire.has_rank());
  wire.Clear();
  const std::vector<TokenLogProb> likeliest = {{9, -0.25f}, {4, -0.5f}};
  const TokenInfo asked{.token_id = 4, .logprob = -0.5f, .rank = 2, .candidates = likeliest};
  ToWire(asked, nullptr, &wire);
  EXPECT_EQ(wire.logprob(), -0.5);
  EXPECT_EQ(wire.rank(), 2u);
  ASSERT_EQ(wire.candidates_size(), 2);
  EXPECT_EQ(wire.candidates(0).token_id(), 9u);
  EXPECT_EQ(wire.candidates(0).logprob(), -0.25);
  EXPECT_EQ(wire.candidates(0).rank(), 1u);
  EXPECT_EQ(wire.candidates(1).token_id(), 4u);
  EXPECT_EQ(wire.candidates(1).rank(), 2u);
}

// An output's token has the text that came with it, all others their own.
TEST(ConvertTest, TokensThatMightHaveComeReadAsTheyWould) {
  const auto tokenizer = Tokenizer::ReadFile(SourceFile("models/demo/tokenizer.json")).value();
  const int32_t the = *tokenizer->TokenToId("\u0120the");
  const std::vector<TokenLogProb> likeliest = {{0, -0.25f}, {the, -0.5f}, {5000, -9.0f}};
  const TokenInfo token{.token_id = the, .rank = 2, .candidates = likeliest, .text = "?! the"};
  pb::TokenInfo wire;
  ToWire(token, tokenizer.get(), &wire);
  EXPECT_EQ(wire.token(), "?! the");
  EXPECT_EQ(wire.candidates(0).token(), "<|endoftext|>");
  EXPECT_EQ(wire.candidates(1).token(), " the");
  EXPECT_EQ(wire.candidates(2).token(), "");  // the embedding's alone
  wire.Clear();
  ToWire(the, PromptScore{}, tokenizer.get(), &wire);  // the first of a prompt, which has no score
  EXPECT_EQ(wire.token(), " the");
  wire.Clear();
  ToWire(the, PromptScore{-0.5f, 1, likeliest}, tokenizer.get(), &wire);
  EXPECT_EQ(wire.token(), " the");
  EXPECT_EQ(wire.candidates(0).token(), "<|endoftext|>");
}

TEST(ConvertTest, FinishReasonsAndWhatMatched) {
  pb::GenerationFinished wire;
  ToWire(Finished{.reason = FinishReason::kStop, .stop_token_id = 3, .stopped_by_eos = true},
         &wire);
  EXPECT_TRUE(wire.has_output_index());
  EXPECT_EQ(wire.reason(), pb::FINISH_REASON_STOP);
  EXPECT_EQ(wire.stop_match().eos_token_id(), 3u);
  wire.Clear();
  ToWire(Finished{.reason = FinishReason::kStop, .stop_token_id = 4}, &wire);
  EXPECT_EQ(wire.stop_match().stop_token_id(), 4u);
  wire.Clear();
  ToWire(Finished{.reason = FinishReason::kLength}, &wire);
  EXPECT_EQ(wire.reason(), pb::FINISH_REASON_LENGTH);
  EXPECT_FALSE(wire.has_stop_match());
  wire.Clear();
  ToWire(Finished{.reason = FinishReason::kCancelled}, &wire);
  EXPECT_EQ(wire.reason(), pb::FINISH_REASON_CANCELLED);
}

TEST(ConvertTest, StatusesKeepCodeAndMessage) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
  // Trailers are small; a message made of a client's own bytes may not be.
  EXPECT_LE(ToGrpc(absl::InternalError(std::string(1 << 20, 'x'))).error_message().size(), 4096u);
}

TEST(ConvertTest, EngineErrorsKeepTheirMeaning) {
  for (const absl::Status& status :
       {absl::InternalError("a"), absl::InvalidArgumentError("b"), absl::UnimplementedError("c"),
        absl::ResourceExhaustedError("d"), absl::AlreadyExistsError("e")}) {
    pb::EngineError wire;
    ToWire(status, &wire);
    EXPECT_EQ(FromWire(wire), status);
    EXPECT_EQ(wire.retryable(), status.code() == absl::StatusCode::kResourceExhausted);
  }
}

}  // namespace
}  // namespace polystrate
