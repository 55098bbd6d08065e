// An engine of one rank with a tiny model, behind a real server on a free port of 127.0.0.1, and a
// client's stubs for it.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/model_cost.h"
#include "engine/pipeline_stage.h"
#include "engine/tokenizer.h"
#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"
#include "parallel/control_channel.h"
#include "parallel/process_group.h"
#include "parallel/stage_plan.h"
#include "rpc/server.h"
#include "tests/rpc/answer.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {

// One KV head of one layer, so that thousands of tokens fit little memory and streams last as long
// as a test wants.
inline TinyModelSpec ServedModel() {
  TinyModelSpec spec;
  spec.vocab_size = 1024;  // of the demo model's tokenizer
  spec.num_layers = 2;
  spec.num_kv_heads = 1;
  spec.num_kv_layers = 1;
  spec.max_position_embeddings = 32768;
  spec.reuse_keys = "post_rope";
  return spec;
}

// Step results, which may be held up as by a rank that hangs.
class HeldCommunicator final : public Communicator {
 public:
  explicit HeldCommunicator(const std::atomic<bool>& held) : held_(held) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void AllReduceSum(const Stream& stream, const Tensor& x) override {
    self_->AllReduceSum(stream, x);
  }
  void Broadcast(const Stream& stream, const Tensor& x, int root) override {
    self_->Broadcast(stream, x, root);
  }
  void Gather(const Stream& stream, const Tensor& in, const Tensor& out, int root) override {
    self_->Gather(stream, in, out, root);
  }
  void Send(const Stream& stream, const Tensor& x, int destination) override {
    self_->Send(stream, x, destination);
  }
  void Recv(const Stream& stream, const Tensor& x, int source) override {
    self_->Recv(stream, x, source);
  }
  std::optional<int64_t> Probe(int source) override {
    return held_ ? std::nullopt : self_->Probe(source);
  }

 private:
  const std::atomic<bool>& held_;
  const std::unique_ptr<Communicator> self_ = MakeSelfCommunicator();
};

class ServedEngine {
 public:
  // Of `options` what the model does not say.
  explicit ServedEngine(const TinyModelSpec& spec = ServedModel(), int64_t num_blocks = 4096,
                        const RpcServerOptions& rpc = {}, EngineOptions options = {},
                        const std::string& listen = "127.0.0.1:0") {
    WriteTinyModel(dir_.path(), spec);
    tokenizer_ = *Tokenizer::ReadFile(SourceFile("models/demo/tokenizer.json"));
    const ModelConfig config = *ReadModelConfig(dir_.path());
    options.model_id = "tiny";
    options.vocab_size = static_cast<int32_t>(config.vocab_size);
    options.eos_token_ids = config.eos_token_ids;
    options.max_model_len = config.max_position_embeddings;
    options.num_blocks = num_blocks;
    const StagePlan plan = *PlanStages(config.sharing, StageCostsOf(config), /*pp_size=*/1);
    options.stages = LayOutStages(config.sharing, plan, *PlanMemory(config, plan, {}));
    engine_ = std::make_unique<Engine>(options, tokenizer_.get());

    const StageOptions stage{DType::kFloat32,       options.num_blocks,
                             options.block_size,    options.max_num_batched_tokens,
                             options.max_model_len, options.max_num_seqs};
    const Stage& whole = plan.stages[0];
    StageWeights weights =
        *LoadStageWeights(dir_.path(), config, topology_, whole, DType::kFloat32, stream_.device());
    stage_ = *PipelineStage::Create({topology_, stream_, groups_}, config, whole,
                                    std::move(weights), stage);
    log_ = *RequestLog::Open(log_path());
    server_ = std::make_unique<RpcServer>(*engine_, log_.get());
    EXPECT_TRUE(server_->Start(listen, rpc).ok());
    channel_ = Connect();
    inference_ = pb::Inference::NewStub(channel_);
    control_ = pb::Control::NewStub(channel_);
  }

  ~ServedEngine() {
    Stop(absl::ZeroDuration());
    server_->Shutdown(absl::Now() + absl::Seconds(5));
  }

  // As the launcher does when all ranks have their weights.
  ServedEngine& Run() {
    server_->SetServing(true);
    thread_ = std::thread([this] { engine_->Run(channel_to_ranks_, *stage_); });
    return *this;
  }

  // Drains, with what is still live after `timeout` failed.
  void Stop(absl::Duration timeout) {
    if (!thread_.joinable()) return;
    engine_->BeginDrain(timeout);
    thread_.join();
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(server_->port()); }
  std::shared_ptr<grpc::Channel> Connect(int window = 65536) const {
    return ConnectTo(address(), window);
  }

  // From the next step on the engine's thread waits for a result that does not come.
  void HoldResults(bool held) { held_ = held; }

  Engine& engine() { return *engine_; }
  RpcServer& server() { return *server_; }
  RequestLog& log() { return *log_; }
  std::string log_path() const { return dir_.File("requests.jsonl"); }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  pb::Inference::Stub& inference() { return *inference_; }
  pb::Control::Stub& control() { return *control_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // True when nothing is live and every block is free, within a minute.
  bool BecomesIdle() const {
    for (int i = 0; i < 6000; ++i) {
      const EngineLoad load = engine_->load();
      if (load.running_requests + load.queued_requests + load.used_blocks == 0) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }

 private:
  static ProcessGroups MakeGroups(const std::atomic<bool>& held) {
    ProcessGroups groups = MakeSelfGroups();
    groups.tokens = std::make_unique<HeldCommunicator>(held);
    return groups;
  }

  TempDir dir_;
  Topology topology_{ParallelConfig{}, 0};
  Stream stream_ = Stream::Cpu(1);
  std::atomic<bool> held_{false};
  ProcessGroups groups_ = MakeGroups(held_);
  ControlChannel channel_to_ranks_{topology_, groups_};
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<PipelineStage> stage_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<RequestLog> log_;
  std::unique_ptr<RpcServer> server_;
  std::thread thread_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::Inference::Stub> inference_;
  std::unique_ptr<pb::Control::Stub> control_;
};

}  // namespace polystrate
