// API keys: who gets in, by every method, and what a client that does not is told.

#include "rpc/api_keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <map>
#include <set>
#include <string>

#include "google/protobuf/descriptor.h"
#include "grpcpp/generic/generic_stub.h"
#include "health.grpc.pb.h"
#include "rpc/client.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

constexpr char kKey[] = "first-key-0123456789abcdef";
constexpr char kNextKey[] = "second-key-0123456789abcdef";

using Metadata = std::multimap<std::string, std::string>;

class ApiKeysTest : public testing::Test {
 protected:
  ApiKeysTest() : file_(dir_.File("keys")) { Write(std::string(kKey) + "\n"); }

  void Write(const std::string& text) {
    WriteFile(file_, text);
    chmod(file_.c_str(), 0600);
  }
  RpcServerOptions Options() const {
    RpcServerOptions options;
    options.security.api_key_file = file_;
    return options;
  }

  // Any method with an empty request, its answer not looked at.
  static grpc::Status Call(const ServedEngine& served, const std::string& method,
                           const Metadata& metadata) {
    return Call(served.channel(), method, metadata);
  }
  static grpc::Status Call(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                           const Metadata& metadata) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    grpc::CompletionQueue queue;
    grpc::ByteBuffer reply;
    grpc::Status status;
    grpc::GenericStub stub(channel);
    const grpc::Slice empty;
    const auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&empty, 1), &queue);
    call->StartCall();
    call->Finish(&reply, &status, &status);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    return status;
  }
  static grpc::StatusCode Load(const ServedEngine& served, const Metadata& metadata) {
    return Call(served, "/openengine.v1.Control/GetLoad", metadata).error_code();
  }
  static Metadata Bearer(const std::string& key) { return {{"authorization", "Bearer " + key}}; }

  TempDir dir_;
  const std::string file_;
};

// "/package.Service/Method" of every service.
std::vector<std::string> AllMethods() {
  std::vector<std::string> methods;
  for (const char* proto : {"openengine.proto", "polystrate_admin.proto", "health.proto"}) {
    const auto* file = google::protobuf::DescriptorPool::generated_pool()->FindFileByName(proto);
    CHECK(file != nullptr);
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        methods.push_back("/" + file->service(s)->full_name() + "/" +
                          file->service(s)->method(m)->name());
      }
    }
  }
  methods.push_back("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
  methods.push_back("/no.such.Service/Method");
  return methods;
}

TEST_F(ApiKeysTest, NoMethodButHealthAnswersWithoutAKey) {
  ServedEngine served(ServedModel(), 4096, Options());
  served.Run();
  const std::vector<std::string> methods = AllMethods();
  EXPECT_GE(methods.size(), 16u);
  int open = 0;
  for (const std::string& method : methods) {
    if (method.find("/grpc.health.v1.Health/") == 0) {
      EXPECT_NE(Call(served, method, {}).error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
      ++open;
      continue;
    }
    for (const Metadata& metadata : {Metadata{}, Bearer("wrong-key-0123456789abcdef")}) {
      EXPECT_EQ(Call(served, method, metadata).error_code(), grpc::StatusCode::UNAUTHENTICATED)
          << method;
    }
  }
  EXPECT_EQ(open, 2);
  EXPECT_EQ(Call(served, "/grpc.health.v1.Health/Check", {}).error_code(), grpc::StatusCode::OK);
  EXPECT_EQ(Load(served, Bearer(kKey)), grpc::StatusCode::OK);
  EXPECT_EQ(Call(served, "/no.such.Service/Method", Bearer(kKey)).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ApiKeysTest, WhatCountsAsShowingAKey) {
  ServedEngine served(ServedModel(), 4096, Options());
  const std::string key = kKey;
  const Metadata good[] = {
      Bearer(key),
      {{"authorization", "bearer " + key}},
      {{"x-api-key", key}},
      {{"x-api-key", "wrong"}, {"authorization", "Bearer " + key}},
  };
  for (const Metadata& metadata : good) {
    EXPECT_EQ(Load(served, metadata), grpc::StatusCode::OK) << metadata.begin()->second;
  }
  const Metadata bad[] = {
      {},
      Bearer(""),
      Bearer(key + "x"),
      Bearer(key.substr(0, key.size() - 1)),
      Bearer("FIRST-KEY-0123456789ABCDEF"),
      Bearer("Bearer " + key),
      {{"authorization", key}},
      {{"authorization", "Basic " + key}},
      {{"x-api-key", "Bearer " + key}},
      {{"api-key", key}},
      {{"path", "/grpc.health.v1.Health/Check"}},
  };
  for (const Metadata& metadata : bad) {
    EXPECT_EQ(Load(served, metadata), grpc::StatusCode::UNAUTHENTICATED)
        << (metadata.empty() ? "" : metadata.begin()->second);
  }
  // Which of the reasons it was is not told.
  const std::string method = "/openengine.v1.Control/GetLoad";
  EXPECT_EQ(Call(served, method, {}).error_message(),
            Call(served, method, Bearer(key + "x")).error_message());
}

// Notes the names of the metadata that come with each call, and says OK.
class MetadataNames final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    struct Reactor final : grpc::ServerGenericBidiReactor {
      void OnDone() override { delete this; }
    };
    for (const auto& [name, value] : context->client_metadata()) {
      names.insert(std::string(name.data(), name.size()));
    }
    auto* reactor = new Reactor;
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  std::set<std::string> names;  // to be read when the call is over
};

TEST_F(ApiKeysTest, MethodsSeeAllMetadataButTheKey) {
  MetadataNames service;
  grpc::ServerBuilder builder;
  int port = 0;
  const auto credentials = CreateServerCredentials(Options().security);
  ASSERT_TRUE(credentials.ok()) << credentials.status();
  builder.AddListeningPort("127.0.0.1:0", *credentials, &port);
  builder.RegisterCallbackGenericService(&service);
  const auto server = builder.BuildAndStart();
  const auto channel = Connector().Connect("127.0.0.1:" + std::to_string(port));
  const Metadata metadata = {
      {"authorization", std::string("Bearer ") + kKey}, {"x-api-key", kKey}, {"traceparent", "00"}};
  // Without a message the client calls it a failure; the server's part is over all the same.
  Call(channel, "/any.Service/Method", metadata);
  EXPECT_EQ(service.names.count("traceparent"), 1u);
  EXPECT_EQ(service.names.count("authorization") + service.names.count("x-api-key"), 0u);
}

TEST_F(ApiKeysTest, AMessageWithoutAKeyIsNotReadWhateverItsSize) {
  RpcServerOptions options = Options();
  options.max_message_bytes = 4096;
  ServedEngine served(ServedModel(), 4096, options);
  served.Run();
  pb::GenerateRequest request = GreedyRequest(1);
  request.mutable_token_ids()->mutable_ids()->Resize(1 << 20, 100);
  EXPECT_EQ(Ask(served.inference(), request).status.error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(ApiKeysTest, KeysRotateWhileTheServerRuns) {
  ServedEngine served(ServedModel(), 4096, Options());
  ASSERT_EQ(Load(served, Bearer(kKey)), grpc::StatusCode::OK);
  ASSERT_EQ(Load(served, Bearer(kNextKey)), grpc::StatusCode::UNAUTHENTICATED);

  testing::internal::CaptureStderr();
  Write(std::string("# old\n") + kKey + "\r\n\n  # new\n  " + kNextKey);
  EXPECT_EQ(Load(served, Bearer(kKey)), grpc::StatusCode::OK);
  EXPECT_EQ(Load(served, Bearer(kNextKey)), grpc::StatusCode::OK);

  Write(std::string(kNextKey) + "\n");
  EXPECT_EQ(Load(served, Bearer(kKey)), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Load(served, Bearer(kNextKey)), grpc::StatusCode::OK);

  // What is no key file locks nobody out, and nobody in.
  for (const std::string& broken : {std::string(), std::string("short"), std::string("# none\n")}) {
    Write(broken);
    EXPECT_EQ(Load(served, Bearer(kNextKey)), grpc::StatusCode::OK) << broken;
    EXPECT_EQ(Load(served, Bearer("short")), grpc::StatusCode::UNAUTHENTICATED) << broken;
    EXPECT_EQ(Load(served, Bearer("")), grpc::StatusCode::UNAUTHENTICATED) << broken;
  }
  unlink(file_.c_str());
  EXPECT_EQ(Load(served, Bearer(kNextKey)), grpc::StatusCode::OK);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("2 keys"), std::string::npos) << log;
  EXPECT_NE(log.find("stay in force"), std::string::npos) << log;
  for (const char* secret : {kKey, kNextKey, "short"}) {
    EXPECT_EQ(log.find(secret), std::string::npos) << log;
  }
}

TEST_F(ApiKeysTest, TheClientShowsTheFirstKeyOfItsFile) {
  ServedEngine served(ServedModel(), 4096, Options());
  served.Run();
  const auto generate = [&served](const ConnectorOptions& options) {
    EngineClient client(served.address(), *Connector::Create(options));
    EXPECT_TRUE(client.WaitForServing(absl::Seconds(30)).ok());  // health wants no key
    return client.Generate(GreedyRequest(3), [](const pb::GenerateResponse&) {});
  };
  EXPECT_TRUE(Fails(generate({}), absl::StatusCode::kUnauthenticated, "API key"));
  ConnectorOptions options;
  options.api_key_file = dir_.File("client_keys");
  WriteFile(options.api_key_file, std::string("# mine\n") + kKey + "\n" + kNextKey + "\n");
  EXPECT_TRUE(generate(options).ok());
  WriteFile(options.api_key_file, std::string(kNextKey) + "\n" + kKey + "\n");
  EXPECT_TRUE(Fails(generate(options), absl::StatusCode::kUnauthenticated, "API key"));
  EXPECT_TRUE(served.BecomesIdle());
}

TEST_F(ApiKeysTest, FilesThatWillNotDoAreNamedButNotQuoted) {
  struct Case {
    std::string text;
    const char* message;
  };
  const Case cases[] = {
      {"", "holds no key"},
      {"# only this\n\n", "holds no key"},
      {"sixteen-letters\n", ":1: is no key"},  // 15
      {std::string(kKey) + "\nkey with spaces 0123456789\n", ":2: is no key"},
      {"\n\n" + std::string(513, 'k'), ":3: is no key"},
      {"umlaut-0123456789-\xc3\xa4\n", ":1: is no key"},
  };
  for (const Case& test : cases) {
    Write(test.text);
    const absl::Status status = ApiKeys::Create(file_).status();
    EXPECT_TRUE(Fails(status, absl::StatusCode::kInvalidArgument, file_ + test.message) ||
                Fails(status, absl::StatusCode::kInvalidArgument, file_ + ": " + test.message))
        << status;
    for (const char* secret : {"sixteen", "spaces 0", "kkkk", "umlaut", kKey}) {
      EXPECT_EQ(std::string(status.message()).find(secret), std::string::npos) << status;
    }
  }
  EXPECT_TRUE(Fails(ApiKeys::Create(dir_.File("none")).status(), absl::StatusCode::kNotFound,
                    dir_.File("none")));
  Write("sixteen-letters.\n" + std::string(512, 'k'));
  EXPECT_TRUE((*ApiKeys::Create(file_))->Accepts("sixteen-letters."));
}

TEST_F(ApiKeysTest, WarnsOfAFileThatEveryoneMayRead) {
  testing::internal::CaptureStderr();
  EXPECT_TRUE(ApiKeys::Create(file_).ok());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  chmod(file_.c_str(), 0644);
  testing::internal::CaptureStderr();
  EXPECT_TRUE(ApiKeys::Create(file_).ok());
  const std::string warning = testing::internal::GetCapturedStderr();
  EXPECT_NE(warning.find(file_ + " can be read by every user"), std::string::npos) << warning;
}

}  // namespace
}  // namespace polystrate
