#include "rpc/convert.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer.h"
#include "kernels/core/status.h"
#include "rpc/request_extra.h"

namespace polystrate {
namespace {

constexpr size_t kMaxRequestIdBytes = 256;

absl::Status Unsupported(absl::string_view field) {
  return absl::UnimplementedError(absl::StrCat(field, " is not supported"));
}

// Seen from the side of a client that fills in every field with its default.
struct FieldCheck {
  bool asked;
  const char* field;
};

template <size_t n>
absl::Status FirstUnsupported(const FieldCheck (&checks)[n]) {
  for (const FieldCheck& check : checks) {
    if (check.asked) return Unsupported(check.field);
  }
  return absl::OkStatus();
}

// How many of the likeliest tokens are asked for at each token.
absl::StatusOr<int64_t> TopN(const char* field, const pb::CandidateTokenSelection& selection) {
  switch (selection.selection_case()) {
    case pb::CandidateTokenSelection::kTopN:
      return selection.top_n();
    case pb::CandidateTokenSelection::kTokenIds:
      return Unsupported(absl::StrCat(field, ".token_ids"));
    case pb::CandidateTokenSelection::kAll:
      return Unsupported(absl::StrCat(field, ".all"));
    case pb::CandidateTokenSelection::SELECTION_NOT_SET:
      break;
  }
  return 0;
}

absl::Status CheckRest(const pb::GenerateRequest& wire) {
  const bool guided = wire.guided().guide_case() != pb::GuidedDecoding::GUIDE_NOT_SET ||
                      !wire.guided().backend().empty();
  return FirstUnsupported({
      {wire.kv().has_session(), "kv.session"},
      {guided, "guided"},
      {wire.media_size() > 0, "media"},
      {!wire.lora_name().empty(), "lora_name"},
  });
}

absl::StatusOr<int32_t> TokenId(uint32_t id, const char* field) {
  if (id <= std::numeric_limits<int32_t>::max()) return static_cast<int32_t>(id);
  return absl::InvalidArgumentError(absl::StrCat(field, " ", id, " is in no vocabulary"));
}

absl::StatusOr<std::vector<int32_t>> Prompt(const pb::GenerateRequest& wire,
                                            const Tokenizer* tokenizer,
                                            AddSpecialTokens add_special_tokens) {
  std::vector<int32_t> ids;
  switch (wire.input_case()) {
    case pb::GenerateRequest::kTokenIds:
      ids.reserve(wire.token_ids().ids_size());
      for (const uint32_t id : wire.token_ids().ids()) {
        ASSIGN_OR_RETURN(ids.emplace_back(), TokenId(id, "token_ids:"));
      }
      return ids;
    case pb::GenerateRequest::kPrompt:
      if (tokenizer == nullptr) {
        return absl::InvalidArgumentError(
            "prompt: this model has no tokenizer; send token_ids instead");
      }
      return tokenizer->Encode(wire.prompt(), add_special_tokens);
    case pb::GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("one of prompt and token_ids must be set");
}

SamplingParams Sampling(const pb::SamplingParams& wire) {
  SamplingParams sampling;
  if (wire.has_temperature()) sampling.temperature = wire.temperature();
  if (wire.has_top_p()) sampling.top_p = wire.top_p();
  if (wire.has_top_k()) sampling.top_k = wire.top_k();
  if (wire.has_min_p()) sampling.min_p = wire.min_p();
  if (wire.has_frequency_penalty()) sampling.frequency_penalty = wire.frequency_penalty();
  if (wire.has_presence_penalty()) sampling.presence_penalty = wire.presence_penalty();
  if (wire.has_repetition_penalty()) sampling.repetition_penalty = wire.repetition_penalty();
  if (wire.has_seed()) sampling.seed = wire.seed();
  return sampling;
}

absl::Status ReadStopping(const pb::StoppingOptions& wire, GenerationRequest* request) {
  if (wire.has_max_tokens()) request->max_tokens = wire.max_tokens();
  request->min_tokens = wire.min_tokens();
  for (const pb::StopCondition& condition : wire.conditions()) {
    switch (condition.condition_case()) {
      case pb::StopCondition::kStopText:
        request->stop_texts.push_back(condition.stop_text());
        break;
      case pb::StopCondition::kStopTokenId: {
        ASSIGN_OR_RETURN(request->stop_token_ids.emplace_back(),
                         TokenId(condition.stop_token_id(), "stopping.conditions.stop_token_id:"));
        break;
      }
      case pb::StopCondition::CONDITION_NOT_SET:
        return absl::InvalidArgumentError(
            "stopping.conditions has an element without stop_text or stop_token_id");
    }
  }
  request->include_stop_in_output = wire.include_stop_in_output();
  request->ignore_eos = wire.ignore_eos();
  return absl::OkStatus();
}

absl::Status ReadResponse(const pb::ResponseOptions& wire, GenerationRequest* request) {
  request->prompt_logprobs = wire.return_prompt_logprobs();
  request->prompt_logprob_start = wire.prompt_logprob_start();
  ASSIGN_OR_RETURN(request->prompt_candidates,
                   TopN("response.prompt_candidates", wire.prompt_candidates()));
  request->output_logprobs = wire.return_output_logprobs();
  ASSIGN_OR_RETURN(request->output_candidates,
                   TopN("response.output_candidates", wire.output_candidates()));
  return absl::OkStatus();
}

// What is told of a token of prompt or output; rank 0: nothing.
void TellScore(float logprob, int32_t rank, absl::Span<const TokenLogProb> candidates,
               const Tokenizer* tokenizer, pb::TokenInfo* wire) {
  if (rank == 0) return;
  wire->set_logprob(logprob);
  wire->set_rank(static_cast<uint32_t>(rank));
  uint32_t candidate_rank = 0;
  for (const TokenLogProb& candidate : candidates) {
    pb::LogProb& likely = *wire->add_candidates();
    likely.set_token_id(static_cast<uint32_t>(candidate.token_id));
    if (tokenizer != nullptr) likely.set_token(tokenizer->TokenText(candidate.token_id));
    likely.set_logprob(candidate.logprob);
    likely.set_rank(++candidate_rank);
  }
}

pb::ErrorCode WireErrorCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return pb::ERROR_CODE_INVALID_ARGUMENT;
    case absl::StatusCode::kUnimplemented:
      return pb::ERROR_CODE_UNSUPPORTED_FEATURE;
    case absl::StatusCode::kNotFound:
      return pb::ERROR_CODE_MODEL_NOT_FOUND;
    case absl::StatusCode::kResourceExhausted:
      return pb::ERROR_CODE_OVERLOADED;
    case absl::StatusCode::kAlreadyExists:
      return pb::ERROR_CODE_DUPLICATE_REQUEST;
    default:
      return pb::ERROR_CODE_INTERNAL;
  }
}

absl::StatusCode StatusCodeOf(pb::ErrorCode code) {
  switch (code) {
    case pb::ERROR_CODE_INVALID_ARGUMENT:
      return absl::StatusCode::kInvalidArgument;
    case pb::ERROR_CODE_UNSUPPORTED_FEATURE:
    case pb::ERROR_CODE_ROLE_MISMATCH:
      return absl::StatusCode::kUnimplemented;
    case pb::ERROR_CODE_MODEL_NOT_FOUND:
    case pb::ERROR_CODE_REQUEST_NOT_FOUND:
    case pb::ERROR_CODE_KV_SESSION_NOT_FOUND:
      return absl::StatusCode::kNotFound;
    case pb::ERROR_CODE_OVERLOADED:
      return absl::StatusCode::kResourceExhausted;
    case pb::ERROR_CODE_DUPLICATE_REQUEST:
      return absl::StatusCode::kAlreadyExists;
    case pb::ERROR_CODE_CANCELLED:
      return absl::StatusCode::kCancelled;
    case pb::ERROR_CODE_DRAINING:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::StatusOr<GenerationRequest> FromWire(const pb::GenerateRequest& wire,
                                           const std::string& model_id,
                                           const Tokenizer* tokenizer) {
  RETURN_IF_ERROR(CheckRequestId(wire.request_id()));
  RETURN_IF_ERROR(CheckModel(wire.model(), model_id));
  RETURN_IF_ERROR(CheckRest(wire));

  GenerationRequest request;
  request.request_id = wire.request_id();
  request.sampling = Sampling(wire.sampling());
  if (wire.sampling().has_num_sequences()) {
    // What 32 bits do not hold is as far out of range as their largest number.
    request.num_sequences = static_cast<int32_t>(
        std::min<uint32_t>(wire.sampling().num_sequences(), std::numeric_limits<int32_t>::max()));
  }
  RETURN_IF_ERROR(ReadStopping(wire.stopping(), &request));
  RETURN_IF_ERROR(ReadResponse(wire.response(), &request));
  request.bypass_prefix_cache = wire.kv().bypass_prefix_cache();
  request.cache_salt = wire.kv().cache_salt();
  ASSIGN_OR_RETURN(RequestExtra extra, ReadExtra(wire.extra()));
  request.resumed = std::move(extra.resumed);
  // Last, as no other step takes as long.
  ASSIGN_OR_RETURN(request.prompt,
                   Prompt(wire, tokenizer, AddSpecialTokens{extra.add_special_tokens}));
  return request;
}

absl::Status CheckRequestId(const std::string& id) {
  const bool visible =
      std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (visible && id.size() <= kMaxRequestIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("request_id must be at most ", kMaxRequestIdBytes, " visible ASCII characters"));
}

absl::Status CheckModel(const std::string& model, const std::string& model_id) {
  if (model.empty() || model == model_id) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model \"", model.substr(0, kMaxRequestIdBytes),
                                          "\" is not served here; \"", model_id, "\" is"));
}

void ToWire(const TokenInfo& token, const Tokenizer* tokenizer, pb::TokenInfo* wire) {
  wire->set_token_id(static_cast<uint32_t>(token.token_id));
  wire->set_token(token.text);
  TellScore(token.logprob, token.rank, token.candidates, tokenizer, wire);
}

void ToWire(int32_t token_id, const PromptScore& score, const Tokenizer* tokenizer,
            pb::TokenInfo* wire) {
  wire->set_token_id(static_cast<uint32_t>(token_id));
  if (tokenizer != nullptr) wire->set_token(tokenizer->TokenText(token_id));
  TellScore(score.logprob, score.rank, score.candidates, tokenizer, wire);
}

void ToWire(const Finished& finished, pb::GenerationFinished* wire) {
  wire->set_output_index(static_cast<uint32_t>(finished.output_index));
  switch (finished.reason) {
    case FinishReason::kStop:
      wire->set_reason(pb::FINISH_REASON_STOP);
      break;
    case FinishReason::kLength:
      wire->set_reason(pb::FINISH_REASON_LENGTH);
      break;
    case FinishReason::kCancelled:
      wire->set_reason(pb::FINISH_REASON_CANCELLED);
      wire->set_message("aborted");
      break;
  }
  if (finished.stop_text.has_value())
    wire->mutable_stop_match()->set_stop_text(*finished.stop_text);
  if (!finished.stop_token_id.has_value()) return;
  const auto token = static_cast<uint32_t>(*finished.stop_token_id);
  if (finished.stopped_by_eos) {
    wire->mutable_stop_match()->set_eos_token_id(token);
  } else {
    wire->mutable_stop_match()->set_stop_token_id(token);
  }
}

void ToWire(const RequestUsage& usage, pb::Usage* wire) {
  wire->set_prompt_tokens(static_cast<uint32_t>(usage.prompt_tokens));
  wire->set_completion_tokens(static_cast<uint32_t>(usage.completion_tokens));
  wire->set_total_tokens(static_cast<uint32_t>(usage.prompt_tokens + usage.completion_tokens));
  wire->set_cached_prompt_tokens(static_cast<uint32_t>(usage.cached_prompt_tokens));
}

void ToWire(const absl::Status& status, pb::EngineError* wire) {
  wire->set_code(WireErrorCode(status.code()));
  wire->set_message(std::string(status.message()));
  wire->set_retryable(status.code() == absl::StatusCode::kResourceExhausted);
}

absl::Status FromWire(const pb::EngineError& wire) {
  return absl::Status(StatusCodeOf(wire.code()), wire.message());
}

pb::HealthState ToWire(EngineState state) {
  switch (state) {
    case EngineState::kStarting:
      return pb::HEALTH_STATE_STARTING;
    case EngineState::kReady:
      return pb::HEALTH_STATE_READY;
    case EngineState::kDegraded:
      return pb::HEALTH_STATE_DEGRADED;
    case EngineState::kDraining:
      return pb::HEALTH_STATE_DRAINING;
    case EngineState::kStopped:
      return pb::HEALTH_STATE_NOT_READY;
  }
  return pb::HEALTH_STATE_UNSPECIFIED;
}

}  // namespace polystrate
