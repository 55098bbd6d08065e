#include "rpc/convert.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer.h"
#include "kernels/core/status.h"

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

absl::Status CheckSampling(const pb::SamplingParams& sampling) {
  if (sampling.has_num_sequences() && sampling.num_sequences() == 0) {
    return absl::InvalidArgumentError("sampling.num_sequences is 0; it must be at least 1");
  }
  return FirstUnsupported({
      {sampling.has_min_p() && sampling.min_p() != 0.0, "sampling.min_p"},
      {sampling.has_frequency_penalty() && sampling.frequency_penalty() != 0.0,
       "sampling.frequency_penalty"},
      {sampling.has_presence_penalty() && sampling.presence_penalty() != 0.0,
       "sampling.presence_penalty"},
      {sampling.has_repetition_penalty() && sampling.repetition_penalty() != 1.0,
       "sampling.repetition_penalty other than 1"},
      {sampling.has_num_sequences() && sampling.num_sequences() != 1,
       "sampling.num_sequences above 1"},
  });
}

absl::Status CheckStopping(const pb::StoppingOptions& stopping) {
  for (const pb::StopCondition& condition : stopping.conditions()) {
    if (condition.condition_case() == pb::StopCondition::kStopText) {
      return Unsupported("stopping.conditions.stop_text");
    }
    if (condition.condition_case() == pb::StopCondition::CONDITION_NOT_SET) {
      return absl::InvalidArgumentError(
          "stopping.conditions has an element without stop_text or stop_token_id");
    }
  }
  return FirstUnsupported({
      {stopping.min_tokens() != 0, "stopping.min_tokens"},
      {stopping.include_stop_in_output(), "stopping.include_stop_in_output"},
  });
}

// How many of the likeliest tokens are asked for at each token of the prompt.
absl::StatusOr<int64_t> TopN(const pb::CandidateTokenSelection& selection) {
  switch (selection.selection_case()) {
    case pb::CandidateTokenSelection::kTopN:
      return selection.top_n();
    case pb::CandidateTokenSelection::kTokenIds:
      return Unsupported("response.prompt_candidates.token_ids");
    case pb::CandidateTokenSelection::kAll:
      return Unsupported("response.prompt_candidates.all");
    case pb::CandidateTokenSelection::SELECTION_NOT_SET:
      break;
  }
  return 0;
}

bool AsksForCandidates(const pb::CandidateTokenSelection& selection) {
  switch (selection.selection_case()) {
    case pb::CandidateTokenSelection::kTopN:
      return selection.top_n() > 0;
    case pb::CandidateTokenSelection::kTokenIds:
      return selection.token_ids().ids_size() > 0;
    case pb::CandidateTokenSelection::kAll:
      return true;
    case pb::CandidateTokenSelection::SELECTION_NOT_SET:
      return false;
  }
  return true;
}

absl::Status CheckRest(const pb::GenerateRequest& wire) {
  const pb::ResponseOptions& response = wire.response();
  const bool guided = wire.guided().guide_case() != pb::GuidedDecoding::GUIDE_NOT_SET ||
                      !wire.guided().backend().empty();
  return FirstUnsupported({
      {AsksForCandidates(response.output_candidates()), "response.output_candidates"},
      {wire.kv().has_session(), "kv.session"},
      {wire.kv().bypass_prefix_cache(), "kv.bypass_prefix_cache"},
      {!wire.kv().cache_salt().empty(), "kv.cache_salt"},
      {guided, "guided"},
      {wire.media_size() > 0, "media"},
      {!wire.lora_name().empty(), "lora_name"},
      {wire.extra().fields_size() > 0, "extra"},
  });
}

// It is echoed as metadata, which takes no other characters.
absl::Status CheckRequestId(const std::string& id) {
  const bool visible =
      std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (visible && id.size() <= kMaxRequestIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("request_id must be at most ", kMaxRequestIdBytes, " visible ASCII characters"));
}

absl::StatusOr<int32_t> TokenId(uint32_t id, const char* field) {
  if (id <= std::numeric_limits<int32_t>::max()) return static_cast<int32_t>(id);
  return absl::InvalidArgumentError(absl::StrCat(field, " ", id, " is in no vocabulary"));
}

absl::StatusOr<std::vector<int32_t>> Prompt(const pb::GenerateRequest& wire,
                                            const Tokenizer* tokenizer) {
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
      return tokenizer->Encode(wire.prompt());
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
  if (wire.has_seed()) sampling.seed = wire.seed();
  return sampling;
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

absl::StatusOr<GenerateCall> FromWire(const pb::GenerateRequest& wire, const std::string& model_id,
                                      const Tokenizer* tokenizer) {
  RETURN_IF_ERROR(CheckRequestId(wire.request_id()));
  RETURN_IF_ERROR(CheckModel(wire.model(), model_id));
  RETURN_IF_ERROR(CheckSampling(wire.sampling()));
  RETURN_IF_ERROR(CheckStopping(wire.stopping()));
  RETURN_IF_ERROR(CheckRest(wire));

  GenerateCall call;
  GenerationRequest& request = call.request;
  request.request_id = wire.request_id();
  request.sampling = Sampling(wire.sampling());
  if (wire.stopping().has_max_tokens()) request.max_tokens = wire.stopping().max_tokens();
  for (const pb::StopCondition& condition : wire.stopping().conditions()) {
    ASSIGN_OR_RETURN(request.stop_token_ids.emplace_back(),
                     TokenId(condition.stop_token_id(), "stopping.conditions.stop_token_id:"));
  }
  request.ignore_eos = wire.stopping().ignore_eos();
  request.prompt_logprobs = wire.response().return_prompt_logprobs();
  request.prompt_logprob_start = wire.response().prompt_logprob_start();
  ASSIGN_OR_RETURN(request.prompt_candidates, TopN(wire.response().prompt_candidates()));
  call.output_logprobs = wire.response().return_output_logprobs();
  // Last, as it is the only step that takes time.
  ASSIGN_OR_RETURN(request.prompt, Prompt(wire, tokenizer));
  return call;
}

absl::Status CheckModel(const std::string& model, const std::string& model_id) {
  if (model.empty() || model == model_id) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model \"", model.substr(0, kMaxRequestIdBytes),
                                          "\" is not served here; \"", model_id, "\" is"));
}

void ToWire(const TokenInfo& token, bool with_logprob, pb::TokenInfo* wire) {
  wire->set_token_id(static_cast<uint32_t>(token.token_id));
  wire->set_token(token.text);
  if (with_logprob) wire->set_logprob(token.logprob);
}

void ToWire(int32_t token_id, const PromptScore& score, pb::TokenInfo* wire) {
  wire->set_token_id(static_cast<uint32_t>(token_id));
  if (score.rank == 0) return;  // the prompt's first token
  wire->set_logprob(score.logprob);
  wire->set_rank(static_cast<uint32_t>(score.rank));
  uint32_t rank = 0;
  for (const TokenLogProb& candidate : score.candidates) {
    pb::LogProb& likely = *wire->add_candidates();
    likely.set_token_id(static_cast<uint32_t>(candidate.token_id));
    likely.set_logprob(candidate.logprob);
    likely.set_rank(++rank);
  }
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
    case EngineState::kDraining:
      return pb::HEALTH_STATE_DRAINING;
    case EngineState::kStopped:
      return pb::HEALTH_STATE_NOT_READY;
  }
  return pb::HEALTH_STATE_UNSPECIFIED;
}

}  // namespace polystrate
