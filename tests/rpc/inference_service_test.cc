#include "rpc/inference_service.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

TEST(InferenceServiceTest, StreamsTextAsDeltas) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request;
  request.set_request_id("hamlet-1");
  request.set_model("tiny");
  request.set_prompt("To be, or not to be");
  request.mutable_sampling()->set_seed(7);
  request.mutable_stopping()->set_max_tokens(40);
  request.mutable_stopping()->set_ignore_eos(true);
  const Answer answer = Ask(served.inference(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.echoed_request_id, "hamlet-1");
  EXPECT_EQ(answer.ids.size(), 40u);
  const std::vector<int32_t> ids(answer.ids.begin(), answer.ids.end());
  EXPECT_EQ(answer.text, served.tokenizer().Decode(ids, /*skip_special_tokens=*/true));

  for (const pb::GenerateResponse& event : answer.events) {
    EXPECT_EQ(event.request_id(), "hamlet-1");
    EXPECT_EQ(event.has_usage(), &event == &answer.last());
    if (!event.has_token()) continue;
    EXPECT_TRUE(event.token().has_output_index());
    for (const pb::TokenInfo& token : event.token().tokens()) EXPECT_FALSE(token.has_logprob());
  }
  ASSERT_TRUE(answer.last().has_finished());
  EXPECT_EQ(answer.last().finished().reason(), pb::FINISH_REASON_LENGTH);
  const auto prompt = served.tokenizer().Encode(request.prompt());
  EXPECT_EQ(answer.last().usage().prompt_tokens(), prompt->size());
  EXPECT_EQ(answer.last().usage().completion_tokens(), 40u);
  EXPECT_EQ(answer.last().usage().total_tokens(), prompt->size() + 40);
}

TEST(InferenceServiceTest, MakesARequestIdWhenThereIsNone) {
  ServedEngine served;
  served.Run();
  const Answer first = Ask(served.inference(), GreedyRequest(1));
  const Answer second = Ask(served.inference(), GreedyRequest(1));
  EXPECT_FALSE(first.echoed_request_id.empty());
  EXPECT_EQ(first.last().request_id(), first.echoed_request_id);
  EXPECT_NE(first.echoed_request_id, second.echoed_request_id);
}

TEST(InferenceServiceTest, LogprobsWhenAskedFor) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(3);
  request.mutable_response()->set_return_prompt_logprobs(true);
  request.mutable_response()->set_return_output_logprobs(true);
  const Answer answer = Ask(served.inference(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_TRUE(answer.events.front().has_prompt());
  const pb::PromptOutput& prompt = answer.events.front().prompt();
  ASSERT_EQ(prompt.tokens_size(), 3);
  EXPECT_EQ(prompt.tokens(0).token_id(), 11u);
  EXPECT_FALSE(prompt.tokens(0).has_logprob());  // nothing is before it
  EXPECT_EQ(prompt.tokens(2).token_id(), 301u);
  EXPECT_LT(prompt.tokens(2).logprob(), 0.0);
  for (size_t i = 1; i + 1 < answer.events.size(); ++i) {
    for (const pb::TokenInfo& token : answer.events[i].token().tokens()) {
      EXPECT_TRUE(token.has_logprob());
      EXPECT_LT(token.logprob(), 0.0);
    }
  }

  request.mutable_stopping()->set_max_tokens(0);
  const Answer scores = Ask(served.inference(), request);
  ASSERT_EQ(scores.events.size(), 2u) << scores.status.error_message();
  EXPECT_TRUE(scores.events[0].has_prompt());
  EXPECT_EQ(scores.last().finished().reason(), pb::FINISH_REASON_LENGTH);
  EXPECT_EQ(scores.last().usage().completion_tokens(), 0u);
}

TEST(InferenceServiceTest, PromptScoresFromATokenOnWithRanksAndCandidates) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(0);
  request.mutable_response()->set_return_prompt_logprobs(true);
  const Answer plain = Ask(served.inference(), request);
  ASSERT_TRUE(plain.events.front().has_prompt()) << plain.status.error_message();
  EXPECT_FALSE(plain.events.front().prompt().tokens(0).has_rank());
  EXPECT_EQ(plain.events.front().prompt().tokens(2).candidates_size(), 0);

  request.mutable_response()->set_prompt_logprob_start(2);
  request.mutable_response()->mutable_prompt_candidates()->set_top_n(20);
  const Answer answer = Ask(served.inference(), request);
  ASSERT_EQ(answer.events.front().prompt().tokens_size(), 1) << answer.status.error_message();
  const pb::TokenInfo& token = answer.events.front().prompt().tokens(0);
  EXPECT_EQ(token.token_id(), 301u);
  EXPECT_EQ(token.logprob(), plain.events.front().prompt().tokens(2).logprob());
  EXPECT_EQ(token.rank(), plain.events.front().prompt().tokens(2).rank());
  EXPECT_GE(token.rank(), 1u);
  EXPECT_LE(token.rank(), 1024u);
  ASSERT_EQ(token.candidates_size(), 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(token.candidates(i).rank(), static_cast<uint32_t>(i) + 1);
    EXPECT_LT(token.candidates(i).token_id(), 1024u);
    EXPECT_LE(token.candidates(i).logprob(), token.candidates(std::max(i - 1, 0)).logprob());
  }
}

TEST(InferenceServiceTest, StopsAtAStopToken) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(20);
  const Answer whole = Ask(served.inference(), request);
  ASSERT_EQ(whole.ids.size(), 20u);
  const uint32_t stop = whole.ids[9];
  const size_t at = std::find(whole.ids.begin(), whole.ids.end(), stop) - whole.ids.begin();
  request.mutable_stopping()->add_conditions()->set_stop_token_id(stop);
  const Answer answer = Ask(served.inference(), request);
  EXPECT_EQ(answer.ids.size(), at + 1);
  EXPECT_EQ(answer.last().finished().reason(), pb::FINISH_REASON_STOP);
  EXPECT_EQ(answer.last().finished().stop_match().stop_token_id(), stop);

  TinyModelSpec spec = ServedModel();
  spec.eos_token_id = static_cast<int>(stop);
  ServedEngine with_eos(spec);
  with_eos.Run();
  request = GreedyRequest(20);
  request.mutable_stopping()->clear_ignore_eos();
  const Answer ended = Ask(with_eos.inference(), request);
  EXPECT_EQ(ended.ids.size(), at + 1);
  EXPECT_EQ(ended.last().finished().stop_match().eos_token_id(), stop);
}

TEST(InferenceServiceTest, WhatIsRefusedBeforeAcceptanceIsAStatus) {
  ServedEngine served(ServedModel(), /*num_blocks=*/16);
  served.Run();
  struct Case {
    grpc::StatusCode code;
    const char* message;  // must hold this
    std::function<void(pb::GenerateRequest*)> change;
  };
  const Case cases[] = {
      {grpc::StatusCode::INVALID_ARGUMENT, "temperature",
       [](auto* r) { r->mutable_sampling()->set_temperature(2.5); }},
      {grpc::StatusCode::INVALID_ARGUMENT, "top_p",
       [](auto* r) { r->mutable_sampling()->set_top_p(0.0); }},
      {grpc::StatusCode::INVALID_ARGUMENT, "top_k",
       [](auto* r) { r->mutable_sampling()->set_top_k(-2); }},
      {grpc::StatusCode::INVALID_ARGUMENT,
       "prompt_logprob_start is 3; the prompt has 3 tokens, so "
       "it must be in [0, 3)",
       [](auto* r) {
         r->mutable_response()->set_return_prompt_logprobs(true);
         r->mutable_response()->set_prompt_logprob_start(3);
       }},
      {grpc::StatusCode::INVALID_ARGUMENT, "prompt_logprob_start is 4294967295",
       [](auto* r) {
         r->mutable_response()->set_return_prompt_logprobs(true);
         r->mutable_response()->set_prompt_logprob_start(0xffffffffu);
       }},
      {grpc::StatusCode::INVALID_ARGUMENT, "top_n is 21; it must be in [0, 20]",
       [](auto* r) {
         r->mutable_response()->set_return_prompt_logprobs(true);
         r->mutable_response()->mutable_prompt_candidates()->set_top_n(21);
       }},
      {grpc::StatusCode::INVALID_ARGUMENT, "prompt_candidates is set without",
       [](auto* r) { r->mutable_response()->mutable_prompt_candidates()->set_top_n(1); }},
      {grpc::StatusCode::INVALID_ARGUMENT, "max_tokens",
       [](auto* r) { r->mutable_stopping()->set_max_tokens(0); }},
      {grpc::StatusCode::INVALID_ARGUMENT, "empty",
       [](auto* r) { r->mutable_token_ids()->clear_ids(); }},
      {grpc::StatusCode::INVALID_ARGUMENT, "empty", [](auto* r) { r->set_prompt(""); }},
      {grpc::StatusCode::INVALID_ARGUMENT, "vocabulary",
       [](auto* r) { r->mutable_token_ids()->add_ids(1024); }},
      {grpc::StatusCode::INVALID_ARGUMENT, "context",
       [](auto* r) { r->mutable_token_ids()->mutable_ids()->Resize(40000, 1); }},
      {grpc::StatusCode::RESOURCE_EXHAUSTED, "KV cache",
       [](auto* r) { r->mutable_stopping()->set_max_tokens(1000); }},
      {grpc::StatusCode::NOT_FOUND, "tiny", [](auto* r) { r->set_model("other"); }},
      {grpc::StatusCode::UNIMPLEMENTED, "guided",
       [](auto* r) { r->mutable_guided()->set_regex("a+"); }},
  };
  for (const Case& test : cases) {
    pb::GenerateRequest request = GreedyRequest(4);
    test.change(&request);
    const Answer answer = Ask(served.inference(), request);
    EXPECT_EQ(answer.status.error_code(), test.code) << test.message;
    EXPECT_NE(answer.status.error_message().find(test.message), std::string::npos)
        << answer.status.error_message();
    EXPECT_TRUE(answer.events.empty());
  }
  EXPECT_TRUE(Ask(served.inference(), GreedyRequest(4)).status.ok());
  EXPECT_TRUE(served.BecomesIdle());
}

TEST(InferenceServiceTest, ALiveIdCannotBeUsedAgain) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(20000);
  request.set_request_id("twin");
  grpc::ClientContext context;
  const auto stream = served.inference().Generate(&context, request);
  pb::GenerateResponse event;
  ASSERT_TRUE(stream->Read(&event));
  const Answer twin = Ask(served.inference(), request);
  EXPECT_EQ(twin.status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  ASSERT_TRUE(stream->Read(&event));  // the first goes on
  context.TryCancel();
  stream->Finish();
  EXPECT_TRUE(served.BecomesIdle());
  request.mutable_stopping()->set_max_tokens(1);
  EXPECT_TRUE(Ask(served.inference(), request).status.ok());
}

TEST(InferenceServiceTest, UnavailableUntilItServesAndWhenItDrains) {
  ServedEngine served;
  Answer answer = Ask(served.inference(), GreedyRequest(4));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  served.Run();
  EXPECT_TRUE(Ask(served.inference(), GreedyRequest(4)).status.ok());
  served.Stop(absl::InfiniteDuration());
  answer = Ask(served.inference(), GreedyRequest(4));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(answer.status.error_message().find("draining"), std::string::npos);
}

TEST(InferenceServiceTest, AFailureAfterAcceptanceIsOneEngineErrorAndOk) {
  TinyModelSpec spec = ServedModel();
  spec.edit = [](std::vector<StoredTensor>* tensors) {
    for (StoredTensor& tensor : *tensors) {
      if (tensor.name.find("final_layer_norm.weight") == std::string::npos) continue;
      tensor.bytes = EncodeFloats(std::vector<float>(tensor.shape[0], NAN), tensor.dtype);
    }
  };
  ServedEngine served(spec);
  served.Run();
  const Answer answer = Ask(served.inference(), GreedyRequest(4));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.events.size(), 1u);
  EXPECT_EQ(answer.last().error().code(), pb::ERROR_CODE_INTERNAL);
  EXPECT_FALSE(answer.last().error().retryable());
  EXPECT_EQ(answer.last().usage().prompt_tokens(), 3u);
  EXPECT_TRUE(served.BecomesIdle());
}

TEST(InferenceServiceTest, ALostEngineIsUnavailable) {
  ServedEngine served;
  served.Run();
  grpc::ClientContext context;
  const auto stream = served.inference().Generate(&context, GreedyRequest(20000));
  pb::GenerateResponse event;
  ASSERT_TRUE(stream->Read(&event));
  served.Stop(absl::ZeroDuration());  // no time to finish
  while (stream->Read(&event)) EXPECT_TRUE(event.has_token());
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(InferenceServiceTest, AClientThatGoesAwayFreesItsBlocks) {
  ServedEngine served;
  served.Run();
  for (int i = 0; i < 5; ++i) {
    grpc::ClientContext context;
    const auto stream = served.inference().Generate(&context, GreedyRequest(20000));
    pb::GenerateResponse event;
    ASSERT_TRUE(stream->Read(&event));
    EXPECT_EQ(served.engine().load().running_requests, 1);
    context.TryCancel();
    while (stream->Read(&event)) {
    }
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(served.BecomesIdle());
  }
}

TEST(InferenceServiceTest, ADeadlineEndsTheRequest) {
  ServedEngine served;
  served.Run();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  Answer answer;
  const auto stream = served.inference().Generate(&context, GreedyRequest(32000));
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  for (const pb::GenerateResponse& event : answer.events) EXPECT_TRUE(event.has_token());
  EXPECT_TRUE(served.BecomesIdle());
}

// A reader that stalls costs no more than its own output, in fewer and larger events.
TEST(InferenceServiceTest, ASlowReaderGetsMergedDeltas) {
  ServedEngine served;
  served.Run();
  constexpr uint32_t kTokens = 4000;
  pb::GenerateRequest request = GreedyRequest(kTokens);
  request.mutable_response()->set_return_output_logprobs(true);
  const auto stub = pb::Inference::NewStub(served.Connect(/*window=*/16384));
  grpc::ClientContext context;
  const auto stream = stub->Generate(&context, request);
  stream->WaitForInitialMetadata();
  ASSERT_TRUE(served.BecomesIdle());  // the engine does not wait for the reader
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids.size(), kTokens);
  EXPECT_EQ(answer.last().usage().completion_tokens(), kTokens);
  EXPECT_LT(answer.events.size(), kTokens / 2);
  const std::vector<int32_t> ids(answer.ids.begin(), answer.ids.end());
  EXPECT_EQ(answer.text, served.tokenizer().Decode(ids, /*skip_special_tokens=*/true));
}

TEST(InferenceServiceTest, ManyStreamsAtOnceEachGetTheirOwn) {
  ServedEngine served;
  served.Run();
  constexpr int kStreams = 48;
  std::vector<Answer> answers(kStreams);
  std::vector<std::thread> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.emplace_back([&served, &answers, i] {
      pb::GenerateRequest request = GreedyRequest(1 + i % 7 * 10);
      request.set_request_id("s" + std::to_string(i));
      answers[i] = Ask(served.inference(), request);
    });
  }
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < kStreams; ++i) {
    const Answer& answer = answers[i];
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.ids.size(), 1u + i % 7 * 10);
    int ends = 0;
    for (const pb::GenerateResponse& event : answer.events) {
      EXPECT_EQ(event.request_id(), "s" + std::to_string(i));
      ends += event.has_finished() || event.has_error();
    }
    EXPECT_EQ(ends, 1);
    EXPECT_TRUE(answer.last().has_finished());
  }
  EXPECT_TRUE(served.BecomesIdle());
}

}  // namespace
}  // namespace polystrate
