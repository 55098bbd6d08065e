#include "rpc/server.h"

#include <gtest/gtest.h>

#include <string>

#include "grpcpp/generic/generic_stub.h"
#include "health.grpc.pb.h"
#include "rpc/listen_address.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

HealthCheckResponse::ServingStatus Check(ServedEngine& served, const std::string& service) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  HealthCheckResponse response;
  request.set_service(service);
  const grpc::Status status =
      grpc::health::v1::Health::NewStub(served.channel())->Check(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.status();
}

TEST(ServerTest, HealthIsServingOnlyWhileItServes) {
  ServedEngine served;
  const std::string services[] = {"", "openengine.v1.Inference", "openengine.v1.Control"};
  for (const std::string& service : services) {
    EXPECT_EQ(Check(served, service), HealthCheckResponse::NOT_SERVING) << service;
  }
  served.Run();
  for (const std::string& service : services) {
    EXPECT_EQ(Check(served, service), HealthCheckResponse::SERVING) << service;
  }
  served.server().SetServing(false);
  for (const std::string& service : services) {
    EXPECT_EQ(Check(served, service), HealthCheckResponse::NOT_SERVING) << service;
  }
}

TEST(ServerTest, WhoHasSeenServingIsNeverTurnedAway) {
  ServedEngine served;
  // Before Engine::Run has made the engine ready, as in the launcher.
  served.server().SetServing(true);
  grpc::ClientContext context;
  const auto stream = served.inference().Generate(&context, GreedyRequest(3));
  served.Run();
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids.size(), 3u);
}

// grpc.reflection.v1alpha without its .proto, which no package ships: one request and one answer,
// as bytes.
std::string AskReflection(const ServedEngine& served, const std::string& request) {
  grpc::GenericStub stub(served.channel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  void* tag = nullptr;
  bool ok = false;
  auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(&call);
  EXPECT_TRUE(queue.Next(&tag, &ok) && ok);
  const grpc::Slice request_bytes(request);
  call->Write(grpc::ByteBuffer(&request_bytes, 1), &call);
  EXPECT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer answer;
  call->Read(&answer, &call);
  EXPECT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Slice bytes;
  EXPECT_TRUE(answer.DumpToSingleSlice(&bytes).ok());
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, &call);
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

TEST(ServerTest, ReflectionListsTheServices) {
  ServedEngine served;
  const std::string list_services("\x3a\x00", 2);  // list_services = 7, ""
  const std::string text = AskReflection(served, list_services);
  for (const char* service : {"openengine.v1.Inference", "openengine.v1.Control",
                              "grpc.health.v1.Health", "grpc.reflection.v1alpha"}) {
    EXPECT_NE(text.find(service), std::string::npos) << service;
  }
}

TEST(ServerTest, ReflectionDescribesTheServices) {
  ServedEngine served;
  for (const std::string service : {"openengine.v1.Inference", "grpc.health.v1.Health"}) {
    // file_containing_symbol = 4
    const std::string text =
        AskReflection(served, "\x22" + std::string(1, static_cast<char>(service.size())) + service);
    EXPECT_NE(text.find(".proto"), std::string::npos) << service << ": " << text;
  }
}

TEST(ServerTest, APortInUseIsAnError) {
  ServedEngine served;
  Engine other(served.engine().options(), nullptr);
  RpcServer server(other);
  const absl::Status status = server.Start(served.address());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("in use"), absl::string_view::npos) << status;
  EXPECT_TRUE(server.Start("127.0.0.1:0").ok());
  EXPECT_NE(server.port(), served.server().port());
}

TEST(ServerTest, AddressesThatAreNone) {
  for (const char* address :
       {"", "127.0.0.1", ":50051", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1",
        "::1:50051", "[]:1", "no.such.host.invalid:1", "192.0.2.1:1"}) {
    const auto listen = CheckListenAddress(address);
    EXPECT_EQ(listen.status().code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_NE(listen.status().message().find(address), absl::string_view::npos);
  }
}

TEST(ServerTest, KnowsWhatOnlyThisMachineReaches) {
  EXPECT_TRUE(CheckListenAddress("127.0.0.1:0")->loopback);
  EXPECT_TRUE(CheckListenAddress("127.1.2.3:0")->loopback);
  EXPECT_FALSE(CheckListenAddress("0.0.0.0:0")->loopback);
}

TEST(ServerTest, ShutdownEndsStreamsAtItsDeadline) {
  ServedEngine served;
  served.Run();
  grpc::ClientContext context;
  const auto stream = served.inference().Generate(&context, GreedyRequest(32000));
  pb::GenerateResponse event;
  ASSERT_TRUE(stream->Read(&event));
  const absl::Time start = absl::Now();
  served.server().Shutdown(start + absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  while (stream->Read(&event)) {
  }
  EXPECT_FALSE(stream->Finish().ok());
  EXPECT_TRUE(served.BecomesIdle());
  served.server().Shutdown(absl::Now());  // again: nothing happens
}

// Where the context is so large that they could be prompts.
TEST(ServerTest, TakesMessagesOfManyMegabytes) {
  TinyModelSpec spec = ServedModel();
  spec.max_position_embeddings = 1 << 20;
  ServedEngine served(spec);
  served.Run();
  pb::GenerateRequest request = GreedyRequest(1);
  request.set_prompt(std::string(6 << 20, '~'));
  const Answer answer = Ask(served.inference(), request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(answer.status.error_message().find("context"), std::string::npos)
      << answer.status.error_message();
}

TEST(ServerTest, MessagesAboveTheLimitAreRefused) {
  RpcServerOptions options;
  options.max_message_bytes = 4096;
  ServedEngine served(ServedModel(), 4096, options);
  served.Run();
  pb::GenerateRequest request = GreedyRequest(1);
  request.mutable_token_ids()->mutable_ids()->Resize(4000, 100);
  EXPECT_EQ(Ask(served.inference(), request).status.error_code(), grpc::StatusCode::OK);
  request.mutable_token_ids()->mutable_ids()->Resize(4200, 100);
  const Answer answer = Ask(served.inference(), request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(answer.events.empty());
  EXPECT_TRUE(served.BecomesIdle());

  Engine other(served.engine().options(), nullptr);
  for (const int64_t bytes : {int64_t{0}, int64_t{1023}, int64_t{1} << 31}) {
    options.max_message_bytes = bytes;
    EXPECT_TRUE(Fails(RpcServer(other).Start("127.0.0.1:0", options),
                      absl::StatusCode::kInvalidArgument, "--max_message_bytes"));
  }
}

TEST(ServerTest, MetadataAboveTheLimitIsRefused) {
  ServedEngine served;
  served.Run();
  const auto status_with = [&served](size_t bytes) {
    grpc::ClientContext context;
    context.AddMetadata("x-long", std::string(bytes, 'x'));
    pb::LoadInfo load;
    // A connection each: gRPC may close the one on which it met too much.
    const auto control = pb::Control::NewStub(served.Connect());
    return control->GetLoad(&context, pb::GetLoadRequest(), &load).error_code();
  };
  EXPECT_EQ(status_with(15 << 10), grpc::StatusCode::OK);
  EXPECT_EQ(status_with(17 << 10), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status_with(10), grpc::StatusCode::OK);
}

TEST(ServerTest, WarnsOfAPortThatIsOpenToOthers) {
  ServedEngine served;
  Engine other(served.engine().options(), nullptr);
  testing::internal::CaptureStderr();
  EXPECT_TRUE(RpcServer(other).Start("127.0.0.1:0").ok());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  EXPECT_TRUE(RpcServer(other).Start("0.0.0.0:0").ok());
  const std::string warnings = testing::internal::GetCapturedStderr();
  for (const char* part : {"plaintext", "--tls_cert", "by anyone", "--api_key_file"}) {
    EXPECT_NE(warnings.find(part), std::string::npos) << warnings;
  }
}

}  // namespace
}  // namespace polystrate
