// What an engine refuses before it accepts, and how: two ranks, and a client. A case for each row
// of the behaviour that docs/serving.md promises; afterwards the engine serves as before.

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "engine/retry_delay.h"
#include "rpc/grpc_status.h"
#include "tests/e2e/served_ranks.h"

namespace polystrate {
namespace {

using grpc::StatusCode;

// What an edit of a good request must be refused with.
struct Refusal {
  std::function<void(pb::GenerateRequest*)> edit;
  std::vector<std::string> words;  // in the message
};

// Every one is refused at once, with no event; and then the engine serves as before.
void ExpectRefused(ServedRanks& engine, const std::vector<Refusal>& refusals, StatusCode code) {
  const Answer before = Ask(engine.inference(), GreedyRequest(8));
  ASSERT_TRUE(before.status.ok()) << before.status.error_message();
  for (const Refusal& refusal : refusals) {
    pb::GenerateRequest request = GreedyRequest(8);
    refusal.edit(&request);
    SCOPED_TRACE(request.ShortDebugString().substr(0, 200));
    const Answer answer = Ask(engine.inference(), request);
    EXPECT_EQ(answer.status.error_code(), code) << answer.status.error_message();
    EXPECT_FALSE(RetryDelayOf(FromGrpc(answer.status)).has_value()) << "it will never do";
    EXPECT_TRUE(answer.events.empty());
    for (const std::string& word : refusal.words) {
      EXPECT_TRUE(absl::StrContains(answer.status.error_message(), word))
          << word << " in: " << answer.status.error_message();
    }
  }
  EXPECT_TRUE(engine.Serving());
  EXPECT_TRUE(engine.BecomesIdle());
  EXPECT_EQ(Ask(engine.inference(), GreedyRequest(8)).ids, before.ids);
}

TEST(Behaviour, BadParameterIsInvalidArgumentWithFieldAndRange) {
  const auto sampling = [](auto set) {
    return [set](pb::GenerateRequest* request) { set(request->mutable_sampling()); };
  };
  const auto stopping = [](auto set) {
    return [set](pb::GenerateRequest* request) { set(request->mutable_stopping()); };
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  ServedRanks engine;
  ExpectRefused(
      engine,
      {{sampling([](auto* s) { s->set_temperature(2.5); }), {"temperature", "2.5", "[0, 2]"}},
       {sampling([nan](auto* s) { s->set_temperature(nan); }), {"temperature", "nan", "[0, 2]"}},
       {sampling([](auto* s) { s->set_top_p(0); }), {"top_p", "(0, 1]"}},
       {sampling([](auto* s) { s->set_top_k(-2); }), {"top_k", "-1 or 0"}},
       {sampling([](auto* s) { s->set_min_p(1.5); }), {"min_p", "[0, 1]"}},
       {sampling([](auto* s) { s->set_frequency_penalty(2.5); }), {"frequency_penalty", "[-2, 2]"}},
       {sampling([](auto* s) { s->set_presence_penalty(-3); }), {"presence_penalty", "[-2, 2]"}},
       {sampling([](auto* s) { s->set_repetition_penalty(0); }), {"repetition_penalty", "above 0"}},
       {sampling([](auto* s) { s->set_num_sequences(0); }), {"num_sequences", "[1, 64]"}},
       {sampling([](auto* s) { s->set_num_sequences(100000); }), {"num_sequences", "[1, 64]"}},
       {stopping([](auto* s) { s->set_max_tokens(0); }), {"max_tokens", "at least 1"}},
       {stopping([](auto* s) { s->set_min_tokens(9); }), {"min_tokens", "[0, max_tokens]"}},
       {stopping([](auto* s) { s->add_conditions()->set_stop_text(""); }), {"stop_text", "1 to"}},
       {stopping([](auto* s) { s->add_conditions()->set_stop_token_id(1024); }),
        {"stop_token_id", "1024", "[0, 1024)"}},
       {stopping([](auto* s) { s->add_conditions(); }), {"stopping.conditions"}},
       {[](auto* request) {
          request->mutable_response()->set_return_output_logprobs(true);
          request->mutable_response()->mutable_output_candidates()->set_top_n(21);
        },
        {"output_candidates", "21", "[0, 20]"}},
       {[](auto* request) { request->mutable_token_ids()->add_ids(1u << 31); }, {"token_ids"}},
       {[](auto* request) { request->mutable_token_ids()->add_ids(1024); }, {"1024", "[0, 1024)"}},
       {[](auto* request) { request->mutable_token_ids()->clear_ids(); }, {"prompt is empty"}},
       {[](auto* request) { request->clear_token_ids(); }, {"prompt", "token_ids"}},
       {[](auto* request) { request->set_request_id("a b"); }, {"request_id", "visible ASCII"}}},
      StatusCode::INVALID_ARGUMENT);
}

TEST(Behaviour, FieldSetButUnsupportedIsUnimplemented) {
  ServedRanks engine;
  ExpectRefused(
      engine,
      {{[](auto* r) { r->mutable_kv()->mutable_session()->set_session_id("s"); }, {"kv.session"}},
       {[](auto* r) { r->mutable_guided()->set_regex("a*"); }, {"guided"}},
       {[](auto* r) { r->add_media()->set_url("http://x"); }, {"media"}},
       {[](auto* r) { r->set_lora_name("l"); }, {"lora_name"}},
       {[](auto* r) { (*r->mutable_extra()->mutable_fields())["k"].set_number_value(1); },
        {"extra"}},
       {[](auto* r) { r->mutable_response()->mutable_prompt_candidates()->mutable_all(); },
        {"prompt_candidates.all"}}},
      StatusCode::UNIMPLEMENTED);
}

TEST(Behaviour, UnknownModelIsNotFound) {
  ServedRanks engine;
  ExpectRefused(engine, {{[](auto* request) { request->set_model("gpt-5"); }, {"gpt-5"}}},
                StatusCode::NOT_FOUND);
}

TEST(Behaviour, DuplicateLiveRequestIdIsAlreadyExists) {
  ServedRanks engine;
  pb::GenerateRequest request = GreedyRequest(1500);
  request.set_request_id("twice");
  OpenStream first(engine, request);
  first.WaitForTokens();
  for (int i = 0; i < 3; ++i) {
    const Answer second = Ask(engine.inference(), request);
    EXPECT_EQ(second.status.error_code(), StatusCode::ALREADY_EXISTS);
    EXPECT_TRUE(absl::StrContains(second.status.error_message(), "twice"));
    EXPECT_TRUE(second.events.empty());
  }
  const Answer whole = first.Rest();
  EXPECT_TRUE(whole.status.ok());
  EXPECT_EQ(whole.ids.size(), 1500u);
  // It is free again.
  request.mutable_stopping()->set_max_tokens(2);
  EXPECT_TRUE(Ask(engine.inference(), request).status.ok());
  EXPECT_TRUE(engine.BecomesIdle());
}

TEST(Behaviour, PromptAndLeastOutputBeyondTheContextIsInvalidArgument) {
  ServedRanksOptions options;
  options.flags = {"--max_model_len", "64"};
  ServedRanks engine(options);
  const auto prompt_of = [](int num_tokens) {
    return [num_tokens](pb::GenerateRequest* request) {
      request->clear_stopping();
      request->mutable_token_ids()->clear_ids();
      for (int i = 0; i < num_tokens; ++i) request->mutable_token_ids()->add_ids(5);
    };
  };
  ExpectRefused(engine,
                {{prompt_of(64), {"64", "context"}},
                 {prompt_of(5000), {"5000", "64"}},
                 {[](auto* request) {
                    request->mutable_stopping()->clear_max_tokens();
                    request->mutable_stopping()->set_min_tokens(62);
                  },
                  {"min_tokens", "62", "64"}}},
                StatusCode::INVALID_ARGUMENT);
  // The longest that fits.
  pb::GenerateRequest longest = GreedyRequest(1);
  prompt_of(63)(&longest);
  const Answer answer = Ask(engine.inference(), longest);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids.size(), 1u);
}

TEST(Behaviour, RequestThatCanNeverFitTheCacheIsResourceExhausted) {
  ServedRanksOptions options;
  options.flags = {"--kv_memory", std::to_string(8 * kBlockBytes)};
  ServedRanks engine(options);
  ASSERT_EQ(engine.Load().total_kv_blocks(), 8u);
  // 8 blocks hold 128 tokens, and a sequence's last needs no place: 3 + 126 tokens just fit.
  ExpectRefused(engine,
                {{[](auto* request) { request->mutable_stopping()->set_max_tokens(127); },
                  {"129 tokens of KV cache", "can never run"}}},
                StatusCode::RESOURCE_EXHAUSTED);
  const Answer answer = Ask(engine.inference(), GreedyRequest(126));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids.size(), 126u);
}

// Until the engine has taken `num_queued` requests into its queue.
void WaitForQueue(ServedRanks& engine, uint32_t num_queued) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (engine.Load().queued_requests() != num_queued && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(engine.Load().queued_requests(), num_queued);
}

TEST(Behaviour, QueueFullIsResourceExhaustedWithRetryInfo) {
  ServedRanksOptions options;
  options.flags = {"--max_num_seqs",      "1", "--max_queued_requests", "2",
                   "--max_queued_tokens", "99"};
  ServedRanks engine(options);
  OpenStream running(engine, GreedyRequest(32000));
  running.WaitForTokens();
  const auto expect_refused = [&engine](const pb::GenerateRequest& request) {
    const Answer answer = Ask(engine.inference(), request);
    EXPECT_EQ(answer.status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
    const auto delay = RetryDelayOf(FromGrpc(answer.status));
    ASSERT_TRUE(delay.has_value()) << answer.status.error_message();
    EXPECT_GE(*delay, absl::Seconds(1));
    EXPECT_TRUE(answer.events.empty());
    EXPECT_TRUE(engine.Serving());
  };
  OpenStream first(engine, GreedyRequest(4));
  WaitForQueue(engine, 1);
  pb::GenerateRequest long_prompt = GreedyRequest(4);
  for (int i = 0; i < 100; ++i) long_prompt.mutable_token_ids()->add_ids(5);
  expect_refused(long_prompt);  // by its tokens
  OpenStream second(engine, GreedyRequest(4));
  WaitForQueue(engine, 2);
  expect_refused(GreedyRequest(4));  // by their number
  running.Cancel();
  for (OpenStream* queued : {&first, &second}) {
    const Answer answer = queued->Rest();
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.ids.size(), 4u);
  }
  EXPECT_TRUE(engine.BecomesIdle());
  EXPECT_TRUE(Ask(engine.inference(), long_prompt).status.ok());
}

}  // namespace
}  // namespace polystrate
