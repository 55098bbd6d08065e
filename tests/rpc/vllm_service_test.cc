// VllmService in front of a real engine, on the server that both are part of.

#include "rpc/vllm/vllm_service.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "rpc/connector.h"
#include "rpc/grpc_status.h"
#include "rpc/vllm/gateway_request.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/certificates.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

using Stub = gateway::VllmEngine::Stub;

std::unique_ptr<Stub> StubOf(const ServedEngine& served) {
  return gateway::VllmEngine::NewStub(served.channel());
}

// A whole call, read to its end.
struct Told {
  grpc::Status status;
  std::vector<gateway::GenerateStreamChunk> chunks;
  std::vector<gateway::GenerateComplete> completes;
  std::map<std::string, std::string> metadata;

  std::vector<uint32_t> ids(uint32_t index = 0) const {
    std::vector<uint32_t> ids;
    for (const auto& chunk : chunks) {
      if (chunk.index() != index) continue;
      ids.insert(ids.end(), chunk.token_ids().begin(), chunk.token_ids().end());
    }
    return ids;
  }
};

std::vector<uint32_t> IdsOf(const gateway::GenerateComplete& complete) {
  return {complete.output_ids().begin(), complete.output_ids().end()};
}

Told ReadAll(grpc::ClientContext* context,
             grpc::ClientReaderInterface<gateway::GenerateResponse>* stream) {
  Told told;
  gateway::GenerateResponse message;
  while (stream->Read(&message)) {
    if (message.has_chunk()) {
      EXPECT_TRUE(told.completes.empty()) << "a chunk after the end";
      told.chunks.push_back(message.chunk());
    } else {
      told.completes.push_back(message.complete());
    }
  }
  told.status = stream->Finish();
  for (const auto& [key, value] : context->GetServerInitialMetadata()) {
    told.metadata[{key.data(), key.size()}] = {value.data(), value.size()};
  }
  return told;
}

Told Tell(Stub& stub, const gateway::GenerateRequest& request) {
  grpc::ClientContext context;
  const auto stream = stub.Generate(&context, request);
  return ReadAll(&context, stream.get());
}

// GreedyRequest() as a gateway says it, who sets every field.
gateway::GenerateRequest GatewayRequest(uint32_t max_tokens, bool stream = true) {
  gateway::GenerateRequest request;
  for (const uint32_t id : {11u, 7u, 301u}) request.mutable_tokenized()->add_input_ids(id);
  request.mutable_tokenized()->set_original_text("not looked at");
  gateway::SamplingParams& sampling = *request.mutable_sampling_params();
  sampling.set_temperature(0.0f);
  sampling.set_top_p(1.0f);
  sampling.set_repetition_penalty(1.0f);
  sampling.set_max_tokens(max_tokens);
  sampling.set_ignore_eos(true);
  sampling.set_skip_special_tokens(true);
  sampling.set_spaces_between_special_tokens(true);
  sampling.set_n(1);
  request.set_stream(stream);
  return request;
}

TEST(VllmServiceTest, StreamsTheTokensOfOpenEngine) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  const Answer answer = Ask(served.inference(), GreedyRequest(40));
  const Told told = Tell(*stub, GatewayRequest(40));
  ASSERT_TRUE(told.status.ok()) << told.status.error_message();
  EXPECT_EQ(told.ids(), answer.ids);
  uint32_t so_far = 0;
  for (const auto& chunk : told.chunks) {
    so_far += static_cast<uint32_t>(chunk.token_ids_size());
    EXPECT_EQ(chunk.completion_tokens(), so_far);
    EXPECT_EQ(chunk.prompt_tokens(), 3u);
    EXPECT_FALSE(chunk.has_output_logprobs());
    EXPECT_FALSE(chunk.has_input_logprobs());
  }
  ASSERT_EQ(told.completes.size(), 1u);
  const gateway::GenerateComplete& complete = told.completes[0];
  EXPECT_EQ(IdsOf(complete), answer.ids);
  EXPECT_EQ(complete.finish_reason(), "length");
  EXPECT_EQ(complete.prompt_tokens(), 3u);
  EXPECT_EQ(complete.completion_tokens(), 40u);
  EXPECT_EQ(complete.matched_stop_case(), gateway::GenerateComplete::MATCHED_STOP_NOT_SET);
}

TEST(VllmServiceTest, AnswersAtOnceWhenNotStreaming) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  gateway::GenerateRequest request = GatewayRequest(40, /*stream=*/false);
  request.mutable_tokenized()->mutable_input_ids()->Resize(100, 5);
  pb::GenerateRequest same = GreedyRequest(40);
  same.mutable_token_ids()->mutable_ids()->Resize(100, 5);
  const Answer answer = Ask(served.inference(), same);
  const Told told = Tell(*stub, request);
  ASSERT_TRUE(told.status.ok()) << told.status.error_message();
  EXPECT_TRUE(told.chunks.empty());
  ASSERT_EQ(told.completes.size(), 1u);
  EXPECT_EQ(IdsOf(told.completes[0]), answer.ids);
  EXPECT_EQ(told.completes[0].prompt_tokens(), 100u);
  EXPECT_EQ(told.completes[0].cached_tokens(), 96u);  // by the call before: whole blocks
}

TEST(VllmServiceTest, TakesATextToo) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  gateway::GenerateRequest request = GatewayRequest(10);
  request.set_text("To be, or not to be");
  pb::GenerateRequest same = GreedyRequest(10);
  same.set_prompt(request.text());
  const Answer answer = Ask(served.inference(), same);
  const Told told = Tell(*stub, request);
  ASSERT_TRUE(told.status.ok()) << told.status.error_message();
  EXPECT_EQ(told.ids(), answer.ids);
  EXPECT_EQ(told.completes.at(0).prompt_tokens(), answer.last().usage().prompt_tokens());
}

TEST(VllmServiceTest, SeveralOutputs) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  pb::GenerateRequest same = GreedyRequest(30);
  same.mutable_sampling()->set_temperature(1.0);
  same.mutable_sampling()->set_seed(77);
  same.mutable_sampling()->set_num_sequences(3);
  std::vector<std::vector<uint32_t>> expected(3);
  for (const pb::GenerateResponse& event : Ask(served.inference(), same).events) {
    for (const pb::TokenInfo& token : event.token().tokens()) {
      expected[event.token().output_index()].push_back(token.token_id());
    }
  }
  ASSERT_NE(expected[0], expected[1]);
  gateway::GenerateRequest request = GatewayRequest(30);
  request.mutable_sampling_params()->set_temperature(1.0f);
  request.mutable_sampling_params()->set_seed(77);
  request.mutable_sampling_params()->set_n(3);
  for (const bool stream : {true, false}) {
    request.set_stream(stream);
    const Told told = Tell(*stub, request);
    ASSERT_EQ(told.completes.size(), 3u) << told.status.error_message();
    for (uint32_t i = 0; i < 3; ++i) {
      EXPECT_EQ(told.completes[i].index(), i);
      EXPECT_EQ(IdsOf(told.completes[i]), expected[i]);
      EXPECT_EQ(told.completes[i].completion_tokens(), 30u);
      EXPECT_EQ(told.ids(i), stream ? expected[i] : std::vector<uint32_t>());
    }
  }
}

TEST(VllmServiceTest, ZeroIsTheDefault) {
  TinyModelSpec spec = ServedModel();
  spec.max_position_embeddings = 64;
  ServedEngine served(spec);
  served.Run();
  const auto stub = StubOf(served);
  pb::GenerateRequest plain = GreedyRequest(1);
  plain.clear_sampling();
  plain.clear_stopping();
  plain.mutable_stopping()->set_ignore_eos(true);
  plain.mutable_sampling()->set_seed(5);
  const Answer answer = Ask(served.inference(), plain);
  ASSERT_EQ(answer.ids.size(), 61u);  // the rest of the context

  gateway::GenerateRequest request = GatewayRequest(1);
  request.clear_sampling_params();
  request.mutable_sampling_params()->set_ignore_eos(true);
  request.mutable_sampling_params()->set_seed(5);
  const Told told = Tell(*stub, request);
  EXPECT_EQ(told.ids(), answer.ids) << told.status.error_message();

  request.mutable_sampling_params()->set_seed(-1);  // as good as none
  EXPECT_NE(Tell(*stub, request).ids(), Tell(*stub, request).ids());
}

TEST(VllmServiceTest, SaysWhatStoppedIt) {
  TinyModelSpec spec = ServedModel();
  ServedEngine served(spec);
  served.Run();
  const auto stub = StubOf(served);
  const std::vector<uint32_t> whole = Tell(*stub, GatewayRequest(20)).ids();
  ASSERT_EQ(whole.size(), 20u);
  const uint32_t stop = whole[9];
  const size_t at = std::find(whole.begin(), whole.end(), stop) - whole.begin();

  gateway::GenerateRequest by_id = GatewayRequest(20);
  by_id.mutable_sampling_params()->add_stop_token_ids(stop);
  const Told stopped = Tell(*stub, by_id);
  ASSERT_EQ(stopped.completes.size(), 1u) << stopped.status.error_message();
  EXPECT_EQ(stopped.completes[0].finish_reason(), "stop");
  EXPECT_EQ(stopped.completes[0].matched_token_id(), stop);
  EXPECT_EQ(stopped.ids().size(), at + 1);

  const std::vector<int32_t> ids(whole.begin(), whole.end());
  gateway::GenerateRequest by_text = GatewayRequest(20);
  const std::string text = served.tokenizer().Decode(ids, /*skip_special_tokens=*/true);
  ASSERT_GE(text.size(), 8u);
  by_text.mutable_sampling_params()->add_stop(text.substr(4, 4));
  const Told at_text = Tell(*stub, by_text);
  ASSERT_EQ(at_text.completes.size(), 1u) << at_text.status.error_message();
  EXPECT_EQ(at_text.completes[0].finish_reason(), "stop");
  EXPECT_EQ(at_text.completes[0].matched_stop_str(), text.substr(4, 4));

  spec.eos_token_id = static_cast<int>(stop);
  ServedEngine with_eos(spec);
  with_eos.Run();
  gateway::GenerateRequest to_eos = GatewayRequest(20);
  to_eos.mutable_sampling_params()->clear_ignore_eos();
  const Told ended = Tell(*StubOf(with_eos), to_eos);
  ASSERT_EQ(ended.completes.size(), 1u) << ended.status.error_message();
  EXPECT_EQ(ended.completes[0].finish_reason(), "stop");
  EXPECT_EQ(ended.completes[0].matched_stop_case(),
            gateway::GenerateComplete::MATCHED_STOP_NOT_SET);
  EXPECT_EQ(ended.ids().size(), at + 1);
}

void ExpectScores(const gateway::OutputLogProbs& scores, const std::vector<pb::TokenInfo>& tokens,
                  int top_n) {
  ASSERT_EQ(scores.token_logprobs_size(), static_cast<int>(tokens.size()));
  ASSERT_EQ(scores.token_ids_size(), static_cast<int>(tokens.size()));
  ASSERT_EQ(scores.top_logprobs_size(), top_n == 0 ? 0 : static_cast<int>(tokens.size()));
  for (int i = 0; i < scores.token_ids_size(); ++i) {
    EXPECT_EQ(scores.token_ids(i), tokens[i].token_id());
    EXPECT_EQ(scores.token_logprobs(i), static_cast<float>(tokens[i].logprob()));
    if (top_n == 0) continue;
    ASSERT_EQ(scores.top_logprobs(i).values_size(), top_n);
    for (int j = 0; j < top_n; ++j) {
      EXPECT_EQ(scores.top_logprobs(i).token_ids(j), tokens[i].candidates(j).token_id());
      EXPECT_EQ(scores.top_logprobs(i).values(j),
                static_cast<float>(tokens[i].candidates(j).logprob()));
    }
  }
}

TEST(VllmServiceTest, LogprobsOfOutputAndPrompt) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  for (const int top_n : {0, 3}) {
    pb::GenerateRequest same = GreedyRequest(5);
    same.mutable_response()->set_return_prompt_logprobs(true);
    same.mutable_response()->mutable_prompt_candidates()->set_top_n(top_n);
    same.mutable_response()->set_return_output_logprobs(true);
    same.mutable_response()->mutable_output_candidates()->set_top_n(top_n);
    std::vector<pb::TokenInfo> prompt;
    std::vector<pb::TokenInfo> output;
    for (const pb::GenerateResponse& event : Ask(served.inference(), same).events) {
      for (const auto& token : event.prompt().tokens()) prompt.push_back(token);
      for (const auto& token : event.token().tokens()) output.push_back(token);
    }
    ASSERT_EQ(prompt.size(), 3u);

    gateway::GenerateRequest request = GatewayRequest(5);
    request.mutable_sampling_params()->set_logprobs(top_n);
    request.mutable_sampling_params()->set_prompt_logprobs(top_n);
    const Told streamed = Tell(*stub, request);
    ASSERT_TRUE(streamed.status.ok()) << streamed.status.error_message();
    gateway::OutputLogProbs all;
    for (const auto& chunk : streamed.chunks) all.MergeFrom(chunk.output_logprobs());
    ExpectScores(all, output, top_n);
    EXPECT_FALSE(streamed.completes.at(0).has_output_logprobs());
    EXPECT_FALSE(streamed.completes.at(0).has_input_logprobs());
    const gateway::InputLogProbs& input = streamed.chunks.at(0).input_logprobs();
    ASSERT_EQ(input.token_logprobs_size(), 3);
    EXPECT_FALSE(input.token_logprobs(0).has_value());
    EXPECT_EQ(input.token_ids(2), 301u);
    EXPECT_EQ(input.token_logprobs(2).value(), static_cast<float>(prompt[2].logprob()));
    ASSERT_EQ(input.top_logprobs_size(), top_n == 0 ? 0 : 3);
    if (top_n > 0) {
      EXPECT_EQ(input.top_logprobs(2).values_size(), top_n);
    }

    request.set_stream(false);
    const Told whole = Tell(*stub, request);
    ExpectScores(whole.completes.at(0).output_logprobs(), output, top_n);
    EXPECT_EQ(whole.completes.at(0).input_logprobs().SerializeAsString(),
              input.SerializeAsString());
  }
}

TEST(VllmServiceTest, WhatCannotBeHadIsRefusedByName) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  using Request = gateway::GenerateRequest;
  struct Case {
    grpc::StatusCode code;
    const char* message;
    std::function<void(Request*)> change;
  };
  constexpr auto kUnimplemented = grpc::StatusCode::UNIMPLEMENTED;
  constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  const Case cases[] = {
      {kUnimplemented, "kv_transfer_params is", [](auto* r) { r->mutable_kv_transfer_params(); }},
      {kUnimplemented, "kv_transfer_params_json",
       [](auto* r) { r->set_kv_transfer_params_json("{}"); }},
      {kUnimplemented, "mm_inputs", [](auto* r) { r->mutable_mm_inputs(); }},
      {kUnimplemented, "data_parallel_rank", [](auto* r) { r->set_data_parallel_rank(1); }},
      {kUnimplemented, "logit_bias",
       [](auto* r) { (*r->mutable_sampling_params()->mutable_logit_bias())[5] = 1.0f; }},
      {kUnimplemented, "truncate_prompt_tokens",
       [](auto* r) { r->mutable_sampling_params()->set_truncate_prompt_tokens(5); }},
      {kUnimplemented, "json_schema",
       [](auto* r) { r->mutable_sampling_params()->set_json_schema("{}"); }},
      {kUnimplemented, "regex", [](auto* r) { r->mutable_sampling_params()->set_regex("a"); }},
      {kUnimplemented, "grammar", [](auto* r) { r->mutable_sampling_params()->set_grammar("a"); }},
      {kUnimplemented, "structural_tag",
       [](auto* r) { r->mutable_sampling_params()->set_structural_tag("a"); }},
      {kUnimplemented, "json_object",
       [](auto* r) { r->mutable_sampling_params()->set_json_object(true); }},
      {kUnimplemented, "choice", [](auto* r) { r->mutable_sampling_params()->mutable_choice(); }},
      {kUnimplemented, "logprobs -1",
       [](auto* r) { r->mutable_sampling_params()->set_logprobs(-1); }},
      {kUnimplemented, "prompt_logprobs -1",
       [](auto* r) { r->mutable_sampling_params()->set_prompt_logprobs(-1); }},
      {kInvalid, "logprobs is -2", [](auto* r) { r->mutable_sampling_params()->set_logprobs(-2); }},
      {kInvalid, "tokenized and text", [](auto* r) { r->clear_input(); }},
      {kInvalid, "temperature",
       [](auto* r) { r->mutable_sampling_params()->set_temperature(2.5f); }},
      {kInvalid, "top_p", [](auto* r) { r->mutable_sampling_params()->set_top_p(1.5f); }},
      {kInvalid, "request_id", [](auto* r) { r->set_request_id("a b"); }},
      {kInvalid, "context",
       [](auto* r) { r->mutable_tokenized()->mutable_input_ids()->Resize(40000, 1); }},
  };
  for (const Case& test : cases) {
    for (const bool stream : {true, false}) {
      Request request = GatewayRequest(4, stream);
      test.change(&request);
      const Told told = Tell(*stub, request);
      EXPECT_TRUE(
          Fails(FromGrpc(told.status), static_cast<absl::StatusCode>(test.code), test.message));
      EXPECT_TRUE(told.completes.empty() && told.chunks.empty());
      EXPECT_TRUE(told.metadata.empty()) << test.message;  // so that it is the request's failure
    }
  }
  Request harmless = GatewayRequest(4);
  harmless.set_data_parallel_rank(0);
  harmless.mutable_sampling_params()->set_json_object(false);
  harmless.set_kv_transfer_params_json("");
  EXPECT_TRUE(Tell(*stub, harmless).status.ok());
}

TEST(VllmServiceTest, WhatIsOfNoUseToTryAgainSaysSo) {
  pb::EngineError error;
  error.set_message("the logits are NaN");
  error.set_code(pb::ERROR_CODE_INTERNAL);
  EXPECT_TRUE(Fails(GatewayStatus(error), absl::StatusCode::kFailedPrecondition, "NaN"));
  error.set_retryable(true);
  EXPECT_TRUE(Fails(GatewayStatus(error), absl::StatusCode::kInternal, "NaN"));
  error.set_code(pb::ERROR_CODE_OVERLOADED);
  EXPECT_TRUE(Fails(GatewayStatus(error), absl::StatusCode::kResourceExhausted, "NaN"));
}

// A long stream that has begun.
struct LiveStream {
  LiveStream(Stub& stub, const std::string& id, bool stream = true) {
    gateway::GenerateRequest request = GatewayRequest(30000, stream);
    request.set_request_id(id);
    reader = stub.Generate(&context, request);
    if (!stream) return;
    gateway::GenerateResponse first;
    EXPECT_TRUE(reader->Read(&first));
  }
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<gateway::GenerateResponse>> reader;
};

TEST(VllmServiceTest, Aborts) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  LiveStream one(*stub, "one");
  LiveStream two(*stub, "two");
  grpc::ClientContext context;
  gateway::AbortRequest abort;
  for (const char* id : {"one", "unheard-of", "two"}) abort.add_request_ids(id);
  gateway::AbortResponse response;
  const grpc::Status status = stub->Abort(&context, abort, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  for (LiveStream* stream : {&one, &two}) {
    const Told told = ReadAll(&stream->context, stream->reader.get());
    EXPECT_TRUE(told.status.ok()) << told.status.error_message();
    ASSERT_EQ(told.completes.size(), 1u);
    EXPECT_EQ(told.completes[0].finish_reason(), "abort");
  }
  EXPECT_TRUE(served.BecomesIdle());
}

TEST(VllmServiceTest, ACancelledCallEndsAtTheEngine) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  for (const bool streams : {true, false}) {
    LiveStream live(*stub, "live", streams);
    while (served.engine().load().running_requests == 0) absl::SleepFor(absl::Milliseconds(1));
    live.context.TryCancel();
    const Told told = ReadAll(&live.context, live.reader.get());
    EXPECT_EQ(told.status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(served.BecomesIdle());
  }
}

TEST(VllmServiceTest, ADeadlineEndsAtTheEngine) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  for (const bool streams : {true, false}) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(300)));
    const auto stream = stub->Generate(&context, GatewayRequest(30000, streams));
    const Told told = ReadAll(&context, stream.get());
    EXPECT_EQ(told.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(served.BecomesIdle());
  }
}

TEST(VllmServiceTest, MetadataGoesBothWays) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  grpc::ClientContext context;
  context.AddMetadata("traceparent", trace);
  gateway::GenerateRequest request = GatewayRequest(2);
  request.set_request_id("mine");
  const auto stream = stub->Generate(&context, request);
  const Told told = ReadAll(&context, stream.get());
  EXPECT_EQ(told.metadata.at("openengine-request-id"), "mine");
  EXPECT_EQ(told.metadata.at("traceparent"), trace);

  grpc::ClientContext wrong;
  wrong.AddMetadata("openengine-priority", "very");
  const auto refused = stub->Generate(&wrong, request);
  EXPECT_TRUE(Fails(FromGrpc(ReadAll(&wrong, refused.get()).status),
                    absl::StatusCode::kInvalidArgument, "openengine-priority"));
}

TEST(VllmServiceTest, AReaderThatStopsIsGivenUp) {
  RpcServerOptions options;
  options.reader_timeout = absl::Milliseconds(300);
  ServedEngine served(ServedModel(), 4096, options);
  served.Run();
  const auto channel = served.Connect(/*window=*/1024);
  const auto stub = gateway::VllmEngine::NewStub(channel);
  LiveStream live(*stub, "live");
  EXPECT_TRUE(served.BecomesIdle());
  served.server().Shutdown(absl::Now() + absl::Seconds(20));  // it is not waited for
  const Told told = ReadAll(&live.context, live.reader.get());
  EXPECT_FALSE(told.status.ok());
}

TEST(VllmServiceTest, ADrainLetsStreamsEnd) {
  ServedEngine served;
  served.Run();
  const auto stub = StubOf(served);
  gateway::GenerateRequest request = GatewayRequest(500);
  grpc::ClientContext context;
  const auto stream = stub->Generate(&context, request);
  gateway::GenerateResponse first;
  ASSERT_TRUE(stream->Read(&first));
  std::thread shutdown([&served] {
    served.Stop(absl::Seconds(60));
    served.server().Shutdown(absl::Now() + absl::Seconds(60));
  });
  const Told told = ReadAll(&context, stream.get());
  shutdown.join();
  EXPECT_TRUE(told.status.ok()) << told.status.error_message();
  EXPECT_EQ(told.completes.at(0).completion_tokens(), 500u);
}

template <typename Request, typename Response>
Response Get(Stub& stub,
             grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*)) {
  grpc::ClientContext context;
  Response response;
  const grpc::Status status = (stub.*method)(&context, Request(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

TEST(VllmServiceTest, SaysWhatItIs) {
  TinyModelSpec spec = ServedModel();
  spec.eos_token_id = 9;
  ServedEngine served(spec);
  const auto stub = StubOf(served);
  EXPECT_FALSE(Get(*stub, &Stub::HealthCheck).healthy());
  EXPECT_TRUE(Fails(FromGrpc(Tell(*stub, GatewayRequest(1)).status), absl::StatusCode::kUnavailable,
                    "starting"));
  served.Run();
  EXPECT_TRUE(Tell(*stub, GatewayRequest(1)).status.ok());
  EXPECT_TRUE(Get(*stub, &Stub::HealthCheck).healthy());

  const gateway::GetModelInfoResponse model = Get(*stub, &Stub::GetModelInfo);
  EXPECT_TRUE(model.is_generation());
  EXPECT_EQ(model.served_model_name(), "tiny");
  EXPECT_EQ(model.max_context_length(), 32768u);
  EXPECT_EQ(model.vocab_size(), 1024u);
  ASSERT_EQ(model.eos_token_ids_size(), 1);
  EXPECT_EQ(model.eos_token_ids(0), 9);
  EXPECT_EQ(model.model_path() + model.tokenizer_path(), "");

  LiveStream live(*stub, "live");
  const gateway::GetServerInfoResponse server = Get(*stub, &Stub::GetServerInfo);
  EXPECT_EQ(server.active_requests(), 1u);
  EXPECT_GT(server.uptime_seconds(), 0.0);
  EXPECT_EQ(server.data_parallel_size(), 1);
  const gateway::GetLoadsResponse loads = Get(*stub, &Stub::GetLoads);
  ASSERT_EQ(loads.loads_size(), 1);
  EXPECT_EQ(loads.dp_rank_count(), 1);
  EXPECT_TRUE(absl::StartsWith(loads.timestamp(), "20")) << loads.timestamp();
  EXPECT_FALSE(loads.version().empty());
  EXPECT_EQ(loads.loads(0).num_running_reqs(), 1);
  EXPECT_EQ(loads.loads(0).num_total_reqs(), 1);
  EXPECT_EQ(loads.loads(0).max_total_num_tokens(), 4096 * 16);
  EXPECT_GT(loads.loads(0).token_usage(), 0.0);
  EXPECT_EQ(loads.loads(0).max_running_requests(), 64);
  live.context.TryCancel();
}

// What stands at the port is passed once; between the two services of one server nothing does.
TEST(VllmServiceTest, KeysAndCertificatesAreForThePort) {
  TempDir dir;
  const CertificatePaths authority = MakeAuthority(dir.path(), "authority");
  const CertificatePaths own = MakeCertificate(dir.path(), "server", authority);
  RpcServerOptions options;
  options.security.tls_cert = own.certificate;
  options.security.tls_key = own.private_key;
  options.security.tls_client_ca = authority.certificate;
  options.security.api_key_file = dir.File("keys");
  WriteFile(options.security.api_key_file, "a-key-that-is-long-enough-to-be-one\n");
  ServedEngine served(ServedModel(), 4096, options);
  served.Run();
  ConnectorOptions client;
  client.tls_ca = authority.certificate;
  client.tls_cert = own.certificate;
  client.tls_key = own.private_key;
  const auto keyless =
      gateway::VllmEngine::NewStub(Connector::Create(client)->Connect(served.address()));
  EXPECT_TRUE(Fails(FromGrpc(Tell(*keyless, GatewayRequest(1)).status),
                    absl::StatusCode::kUnauthenticated, "API key"));
  client.api_key_file = options.security.api_key_file;
  const auto stub =
      gateway::VllmEngine::NewStub(Connector::Create(client)->Connect(served.address()));
  const Told told = Tell(*stub, GatewayRequest(5));
  EXPECT_TRUE(told.status.ok()) << told.status.error_message();
  EXPECT_EQ(told.ids().size(), 5u);
  EXPECT_EQ(Get(*stub, &Stub::GetModelInfo).vocab_size(), 1024u);
}

}  // namespace
}  // namespace polystrate
