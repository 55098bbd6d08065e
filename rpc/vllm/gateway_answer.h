// GatewayAnswer: openengine.v1's events as vllm.grpc.engine's answer to one request.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "openengine_generate.pb.h"
#include "vllm_engine.pb.h"

namespace polystrate {

namespace pb = openengine::v1;
namespace gateway = vllm::grpc::engine;

class GatewayAnswer {
 public:
  explicit GatewayAnswer(const gateway::GenerateRequest& request);

  // Appends to `out` what the gateway is to be told after this event, which is no error. What an
  // output was is told with the last event of all, for only that has the usage.
  void Take(const pb::GenerateResponse& event, std::deque<gateway::GenerateResponse>* out);
  // There was that last event.
  bool complete() const { return complete_; }

 private:
  struct Output {
    gateway::GenerateComplete whole;  // so far
    bool streamed = false;            // a chunk has told the prompt's scores
  };

  Output& At(uint32_t index);
  void TakePrompt(const pb::PromptOutput& prompt);
  void TakeTokens(const pb::TokenOutput& tokens, std::deque<gateway::GenerateResponse>* out);
  void TakeEnd(const pb::GenerationFinished& finished);
  void Complete(const pb::Usage& usage, std::deque<gateway::GenerateResponse>* out);

  const bool stream_;
  const bool output_candidates_;
  const bool prompt_candidates_;
  const uint32_t prompt_tokens_;  // 0 of a text
  gateway::InputLogProbs prompt_scores_;
  std::vector<Output> outputs_;  // those that have had an event, and all before them
  bool complete_ = false;
};

// How a call ends whose request the engine gave up with `error`.
absl::Status GatewayStatus(const pb::EngineError& error);

}  // namespace polystrate
