#include "rpc/control_service.h"

#include <gtest/gtest.h>

#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

// Calls a unary method.
template <typename Request, typename Response>
grpc::Status Call(pb::Control::Stub& stub,
                  grpc::Status (pb::Control::Stub::*method)(grpc::ClientContext*, const Request&,
                                                            Response*),
                  const Request& request, Response* response) {
  grpc::ClientContext context;
  return (stub.*method)(&context, request, response);
}

pb::HealthState HealthOf(ServedEngine& served) {
  pb::HealthResponse health;
  EXPECT_TRUE(
      Call(served.control(), &pb::Control::Stub::Health, pb::HealthRequest(), &health).ok());
  EXPECT_GE(health.checks_size(), 1);
  return health.state();
}

TEST(ControlServiceTest, SaysWhatItIs) {
  ServedEngine served;
  pb::ServerInfo server;
  ASSERT_TRUE(
      Call(served.control(), &pb::Control::Stub::GetServerInfo, pb::GetServerInfoRequest(), &server)
          .ok());
  EXPECT_EQ(server.engine_name(), "polystrate");
  EXPECT_FALSE(server.engine_version().empty());
  EXPECT_FALSE(server.instance_id().empty());
  EXPECT_EQ(server.engine_role(), pb::ENGINE_ROLE_AGGREGATED);
  EXPECT_EQ(server.schema_revision(), 1u);
  EXPECT_EQ(server.minimum_client_revision(), 1u);
  EXPECT_EQ(server.parallelism().tensor_parallel_size(), 1u);
  EXPECT_EQ(server.parallelism().pipeline_parallel_size(), 1u);
  EXPECT_EQ(server.capacity().kv_block_size(), 16u);
  EXPECT_EQ(server.capacity().total_kv_blocks(), 4096u);
  EXPECT_EQ(server.capacity().max_running_requests(), 64u);
  EXPECT_EQ(server.capacity().max_batched_tokens(), 512u);

  pb::ModelInfo model;
  pb::GetModelInfoRequest request;
  ASSERT_TRUE(Call(served.control(), &pb::Control::Stub::GetModelInfo, request, &model).ok());
  EXPECT_EQ(model.model_id(), "tiny");
  EXPECT_EQ(model.max_context_length(), 32768u);
  EXPECT_TRUE(model.supports_text_input());
  EXPECT_TRUE(model.supports_token_ids_input());
  EXPECT_FALSE(model.supports_lora());
  EXPECT_EQ(model.extra().fields().at("vocab_size").number_value(), 1024.0);
  EXPECT_EQ(model.extra().fields().at("eos_token_ids").list_value().values(0).number_value(), 0.0);
  EXPECT_EQ(model.extra().fields_size(), 2);  // no template, no names of tokens
  request.set_model("other");
  EXPECT_EQ(Call(served.control(), &pb::Control::Stub::GetModelInfo, request, &model).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST(ControlServiceTest, SaysWhatChatsAreMadeOf) {
  EngineOptions options;
  options.tokenizer_config = {"{{ messages }}", "<s>", "</s>"};
  ServedEngine served(ServedModel(), 64, {}, options);
  pb::ModelInfo model;
  ASSERT_TRUE(
      Call(served.control(), &pb::Control::Stub::GetModelInfo, pb::GetModelInfoRequest(), &model)
          .ok());
  const auto& extra = model.extra().fields();
  EXPECT_EQ(extra.at("chat_template").string_value(), "{{ messages }}");
  EXPECT_EQ(extra.at("bos_token").string_value(), "<s>");
  EXPECT_EQ(extra.at("eos_token").string_value(), "</s>");
}

// Twice the same prompt: the second finds its first blocks.
TEST(ControlServiceTest, LoadHasCounters) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(5);
  for (uint32_t id = 0; id < 40; ++id) request.mutable_token_ids()->add_ids(3 + id);
  ASSERT_TRUE(Ask(served.inference(), request).status.ok());
  ASSERT_TRUE(Ask(served.inference(), request).status.ok());
  pb::LoadInfo load;
  ASSERT_TRUE(
      Call(served.control(), &pb::Control::Stub::GetLoad, pb::GetLoadRequest(), &load).ok());
  const auto& counters = load.attributes().fields();
  EXPECT_EQ(counters.at("generation_tokens").number_value(), 10.0);
  EXPECT_EQ(counters.at("prompt_tokens").number_value(), 86.0);
  EXPECT_EQ(counters.at("cached_prompt_tokens").number_value(), 32.0);
  EXPECT_EQ(counters.at("preemptions").number_value(), 0.0);
  EXPECT_EQ(counters.at("requests_finished").number_value(), 2.0);
}

TEST(ControlServiceTest, HealthFollowsTheEngine) {
  ServedEngine served;
  EXPECT_EQ(HealthOf(served), pb::HEALTH_STATE_STARTING);
  served.Run();
  ASSERT_TRUE(Ask(served.inference(), GreedyRequest(1)).status.ok());
  EXPECT_EQ(HealthOf(served), pb::HEALTH_STATE_READY);

  grpc::ClientContext context;
  const auto stream = served.inference().Generate(&context, GreedyRequest(20000));
  pb::GenerateResponse event;
  ASSERT_TRUE(stream->Read(&event));
  served.engine().BeginDrain(absl::Minutes(1));
  EXPECT_EQ(HealthOf(served), pb::HEALTH_STATE_DRAINING);
  EXPECT_TRUE(stream->Read(&event));  // what runs goes on
  context.TryCancel();
  served.Stop(absl::InfiniteDuration());
  EXPECT_EQ(HealthOf(served), pb::HEALTH_STATE_NOT_READY);

  pb::HealthRequest probe;
  pb::HealthResponse health;
  probe.set_include_inference_probe(true);
  EXPECT_EQ(Call(served.control(), &pb::Control::Stub::Health, probe, &health).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST(ControlServiceTest, LoadCountsWhatRuns) {
  ServedEngine served;
  served.Run();
  pb::GetLoadRequest request;
  request.set_include_per_rank(true);
  pb::LoadInfo load;
  ASSERT_TRUE(Call(served.control(), &pb::Control::Stub::GetLoad, request, &load).ok());
  EXPECT_TRUE(load.has_running_requests());
  EXPECT_EQ(load.running_requests(), 0u);
  EXPECT_EQ(load.total_kv_blocks(), 4096u);
  EXPECT_GT(load.timestamp_unix_nanos(), 0u);

  grpc::ClientContext context;
  const auto stream = served.inference().Generate(&context, GreedyRequest(20000));
  pb::GenerateResponse event;
  ASSERT_TRUE(stream->Read(&event));
  ASSERT_TRUE(Call(served.control(), &pb::Control::Stub::GetLoad, request, &load).ok());
  EXPECT_EQ(load.running_requests(), 1u);
  EXPECT_GT(load.used_kv_blocks(), 0u);
  EXPECT_GT(load.running_tokens(), 0u);
  ASSERT_EQ(load.ranks_size(), 1);
  EXPECT_EQ(load.ranks(0).running_requests(), 1u);
  context.TryCancel();
}

TEST(ControlServiceTest, AbortEndsAStreamWithItsLastEvent) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(20000);
  request.set_request_id("long");
  grpc::ClientContext context;
  const auto stream = served.inference().Generate(&context, request);
  pb::GenerateResponse event;
  ASSERT_TRUE(stream->Read(&event));

  pb::AbortRequest abort;
  pb::AbortResponse response;
  abort.set_request_id("long");
  ASSERT_TRUE(Call(served.control(), &pb::Control::Stub::Abort, abort, &response).ok());
  EXPECT_EQ(response.status(), pb::ABORT_STATUS_ABORTED);
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.last().finished().reason(), pb::FINISH_REASON_CANCELLED);
  EXPECT_GT(answer.last().usage().completion_tokens(), 0u);
  EXPECT_TRUE(served.BecomesIdle());

  ASSERT_TRUE(Call(served.control(), &pb::Control::Stub::Abort, abort, &response).ok());
  EXPECT_EQ(response.status(), pb::ABORT_STATUS_ALREADY_FINISHED);
}

TEST(ControlServiceTest, AbortOfAllAndOfNothing) {
  ServedEngine served;
  served.Run();
  grpc::ClientContext contexts[3];
  std::vector<std::unique_ptr<grpc::ClientReader<pb::GenerateResponse>>> streams;
  pb::GenerateResponse event;
  for (grpc::ClientContext& context : contexts) {
    streams.push_back(served.inference().Generate(&context, GreedyRequest(20000)));
    ASSERT_TRUE(streams.back()->Read(&event));
  }
  pb::AbortRequest abort;
  pb::AbortResponse response;
  abort.mutable_all_requests();
  ASSERT_TRUE(Call(served.control(), &pb::Control::Stub::Abort, abort, &response).ok());
  for (size_t i = 0; i < streams.size(); ++i) {
    Answer answer;
    ReadToEnd(&contexts[i], streams[i].get(), &answer);
    EXPECT_EQ(answer.last().finished().reason(), pb::FINISH_REASON_CANCELLED);
  }
  EXPECT_TRUE(served.BecomesIdle());

  abort.mutable_kv_session();
  EXPECT_EQ(Call(served.control(), &pb::Control::Stub::Abort, abort, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  abort.Clear();
  EXPECT_EQ(Call(served.control(), &pb::Control::Stub::Abort, abort, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(ControlServiceTest, TheRestIsUnimplemented) {
  ServedEngine served;
  pb::Control::Stub& stub = served.control();
  pb::LoadLoraResponse load;
  pb::UnloadLoraResponse unload;
  pb::ListLorasResponse list;
  pb::GetKvEventSourcesResponse sources;
  using Stub = pb::Control::Stub;
  const grpc::Status statuses[] = {
      Call(stub, &Stub::LoadLora, pb::LoadLoraRequest(), &load),
      Call(stub, &Stub::UnloadLora, pb::UnloadLoraRequest(), &unload),
      Call(stub, &Stub::ListLoras, pb::ListLorasRequest(), &list),
      Call(stub, &Stub::GetKvEventSources, pb::GetKvEventSourcesRequest(), &sources),
  };
  for (const grpc::Status& status : statuses) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
  grpc::ClientContext context;
  const auto events = stub.SubscribeKvEvents(&context, pb::SubscribeKvEventsRequest());
  pb::SubscribeKvEventsResponse event;
  EXPECT_FALSE(events->Read(&event));
  EXPECT_EQ(events->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace polystrate
