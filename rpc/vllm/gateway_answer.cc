#include "rpc/vllm/gateway_answer.h"

#include <string>
#include <utility>

#include "rpc/convert.h"

namespace polystrate {
namespace {

void AddCandidates(const pb::TokenInfo& token, gateway::TopLogProbs* top) {
  for (const pb::LogProb& candidate : token.candidates()) {
    top->add_values(static_cast<float>(candidate.logprob()));
    top->add_token_ids(candidate.token_id());
  }
}

const char* ReasonName(pb::FinishReason reason) {
  switch (reason) {
    case pb::FINISH_REASON_LENGTH:
      return "length";
    case pb::FINISH_REASON_CANCELLED:
      return "abort";
    default:
      return "stop";
  }
}

}  // namespace

GatewayAnswer::GatewayAnswer(const gateway::GenerateRequest& request)
    : stream_(request.stream()),
      output_candidates_(request.sampling_params().logprobs() > 0),
      prompt_candidates_(request.sampling_params().prompt_logprobs() > 0),
      prompt_tokens_(static_cast<uint32_t>(request.tokenized().input_ids_size())) {}

GatewayAnswer::Output& GatewayAnswer::At(uint32_t index) {
  if (index >= outputs_.size()) outputs_.resize(index + 1);
  return outputs_[index];
}

void GatewayAnswer::Take(const pb::GenerateResponse& event,
                         std::deque<gateway::GenerateResponse>* out) {
  if (event.has_prompt()) TakePrompt(event.prompt());
  if (event.has_token()) TakeTokens(event.token(), out);
  if (event.has_finished()) TakeEnd(event.finished());
  if (event.has_usage()) Complete(event.usage(), out);
}

void GatewayAnswer::TakePrompt(const pb::PromptOutput& prompt) {
  for (const pb::TokenInfo& token : prompt.tokens()) {
    prompt_scores_.add_token_ids(token.token_id());
    gateway::InputTokenLogProb& logprob = *prompt_scores_.add_token_logprobs();
    if (token.has_logprob()) logprob.set_value(static_cast<float>(token.logprob()));
    if (prompt_candidates_) AddCandidates(token, prompt_scores_.add_top_logprobs());
  }
}

void GatewayAnswer::TakeTokens(const pb::TokenOutput& tokens,
                               std::deque<gateway::GenerateResponse>* out) {
  if (tokens.tokens().empty()) return;  // a text's end, which is no token
  Output& output = At(tokens.output_index());
  gateway::GenerateStreamChunk chunk;
  gateway::OutputLogProbs scores;
  for (const pb::TokenInfo& token : tokens.tokens()) {
    output.whole.add_output_ids(token.token_id());
    chunk.add_token_ids(token.token_id());
    if (!token.has_logprob()) continue;
    scores.add_token_ids(token.token_id());
    scores.add_token_logprobs(static_cast<float>(token.logprob()));
    if (output_candidates_) AddCandidates(token, scores.add_top_logprobs());
  }
  if (!stream_) {
    if (!scores.token_ids().empty()) output.whole.mutable_output_logprobs()->MergeFrom(scores);
    return;
  }
  if (!scores.token_ids().empty()) *chunk.mutable_output_logprobs() = std::move(scores);
  if (!output.streamed && !prompt_scores_.token_ids().empty()) {
    *chunk.mutable_input_logprobs() = prompt_scores_;
  }
  output.streamed = true;
  chunk.set_index(tokens.output_index());
  chunk.set_prompt_tokens(prompt_tokens_);
  chunk.set_completion_tokens(static_cast<uint32_t>(output.whole.output_ids_size()));
  *out->emplace_back().mutable_chunk() = std::move(chunk);
}

void GatewayAnswer::TakeEnd(const pb::GenerationFinished& finished) {
  gateway::GenerateComplete& whole = At(finished.output_index()).whole;
  whole.set_finish_reason(ReasonName(finished.reason()));
  const pb::StopMatch& match = finished.stop_match();
  if (match.has_stop_token_id()) whole.set_matched_token_id(match.stop_token_id());
  if (match.has_stop_text()) whole.set_matched_stop_str(match.stop_text());
}

void GatewayAnswer::Complete(const pb::Usage& usage, std::deque<gateway::GenerateResponse>* out) {
  uint32_t index = 0;
  for (Output& output : outputs_) {
    gateway::GenerateComplete& whole = output.whole;
    whole.set_index(index++);
    whole.set_prompt_tokens(usage.prompt_tokens());
    whole.set_completion_tokens(static_cast<uint32_t>(whole.output_ids_size()));
    whole.set_cached_tokens(usage.cached_prompt_tokens());
    if (!output.streamed && !prompt_scores_.token_ids().empty()) {
      *whole.mutable_input_logprobs() = prompt_scores_;
    }
    *out->emplace_back().mutable_complete() = std::move(whole);
  }
  complete_ = true;
}

absl::Status GatewayStatus(const pb::EngineError& error) {
  const absl::Status status = FromWire(error);
  // A gateway would try what is INTERNAL on one engine after the other.
  if (absl::IsInternal(status) && !error.retryable()) {
    return absl::FailedPreconditionError(status.message());
  }
  return status;
}

}  // namespace polystrate
