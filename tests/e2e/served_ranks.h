// An engine as people run it, `polystrate serve` under mpirun on this machine, and a client's stubs
// for it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "health.grpc.pb.h"
#include "openengine.grpc.pb.h"
#include "tests/rpc/answer.h"
#include "tests/testing/places.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {

// Of the model below on each of two stages, without TP: a layer that owns K and V, 2 KV heads of 8
// float32 each, 16 tokens.
inline constexpr int64_t kBlockBytes = 2 * 2 * 8 * sizeof(float) * 16;

struct ServedRanksOptions {
  int tp_size = 1;
  int pp_size = 2;
  CommandLine flags;  // of serve, besides model, cut and address
  TinyModelSpec model;
  std::string model_dir;  // a model that is there, instead

  ServedRanksOptions() {
    model.vocab_size = 1024;  // of the demo model's tokenizer
    model.num_kv_heads = 2;
    model.num_kv_layers = 2;
    model.max_position_embeddings = 32768;
    model.reuse_keys = "post_rope";
  }
};

class ServedRanks {
 public:
  // Returns when the engine says SERVING; a failure of the test otherwise.
  explicit ServedRanks(const ServedRanksOptions& options = {})
      : address_(absl::StrCat("127.0.0.1:", FreePort())) {
    if (options.model_dir.empty()) {
      WriteTinyModel(dir_.path(), options.model);
      WriteFile(dir_.File("tokenizer.json"), ReadFile(SourceFile("models/demo/tokenizer.json")));
    }
    const std::string model = options.model_dir.empty() ? dir_.path() : options.model_dir;
    CommandLine command = Polystrate(
        {"serve", "--model", model, "--tp", std::to_string(options.tp_size), "--pp",
         std::to_string(options.pp_size), "--listen", address_, "--kv_memory", "16777216"});
    command.insert(command.end(), options.flags.begin(), options.flags.end());
    mpirun_ = std::make_unique<Process>(Mpirun(options.tp_size * options.pp_size, command));
    EXPECT_TRUE(mpirun_->WaitForOutput("SERVING", absl::Seconds(60))) << mpirun_->Err();
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    inference_ = pb::Inference::NewStub(channel_);
    control_ = pb::Control::NewStub(channel_);
  }

  const std::string& address() const { return address_; }
  Process& mpirun() { return *mpirun_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  pb::Inference::Stub& inference() { return *inference_; }
  pb::Control::Stub& control() { return *control_; }

  pb::LoadInfo Load() {
    grpc::ClientContext context;
    pb::LoadInfo load;
    const grpc::Status status = control_->GetLoad(&context, pb::GetLoadRequest(), &load);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return load;
  }

  // As a load balancer asks: grpc.health.v1.
  bool Serving() const {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status = grpc::health::v1::Health::NewStub(channel_)->Check(
        &context, grpc::health::v1::HealthCheckRequest(), &response);
    return status.ok() && response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  }

  // Nothing is live and every block is free, within `timeout`.
  bool BecomesIdle(absl::Duration timeout = absl::Seconds(20)) {
    const absl::Time deadline = absl::Now() + timeout;
    do {
      const pb::LoadInfo load = Load();
      if (load.running_requests() + load.queued_requests() + load.used_kv_blocks() == 0)
        return true;
      absl::SleepFor(absl::Milliseconds(5));
    } while (absl::Now() < deadline);
    return false;
  }

 private:
  TempDir dir_;
  const std::string address_;
  std::unique_ptr<Process> mpirun_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::Inference::Stub> inference_;
  std::unique_ptr<pb::Control::Stub> control_;
};

// A call under way. Destroyed, it is cancelled.
class OpenStream {
 public:
  OpenStream(ServedRanks& engine, const pb::GenerateRequest& request,
             absl::Duration deadline = absl::Seconds(60))
      : OpenStream(engine.inference(), request, deadline) {}
  OpenStream(pb::Inference::Stub& stub, const pb::GenerateRequest& request,
             absl::Duration deadline = absl::Seconds(60)) {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
    reader_ = stub.Generate(&context_, request);
  }
  ~OpenStream() { context_.TryCancel(); }

  // Until the first tokens have come; they will be in Rest() too.
  void WaitForTokens() {
    pb::GenerateResponse first;
    EXPECT_TRUE(reader_->Read(&first));
    EXPECT_TRUE(first.has_token()) << first.DebugString();
    for (const pb::TokenInfo& token : first.token().tokens()) ids_.push_back(token.token_id());
  }
  void Cancel() { context_.TryCancel(); }
  // The whole answer.
  Answer Rest() {
    Answer answer;
    answer.ids = ids_;
    ReadToEnd(&context_, reader_.get(), &answer);
    return answer;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<pb::GenerateResponse>> reader_;
  std::vector<uint32_t> ids_;
};

}  // namespace polystrate
