#include "engine/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

absl::Status CheckSampling(const SamplingParams& p) {
  if (!(p.temperature >= 0.0 && p.temperature <= 2.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", p.temperature, "; it must be in [0, 2]"));
  }
  if (!(p.top_p > 0.0 && p.top_p <= 1.0)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", p.top_p, "; it must be in (0, 1]"));
  }
  if (p.top_k < -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", p.top_k, "; it must be -1 or 0 (all tokens) or at least 1"));
  }
  return absl::OkStatus();
}

absl::Status CheckPromptScores(const GenerationRequest& request) {
  const int64_t start = request.prompt_logprob_start;
  if (!request.prompt_logprobs && (start != 0 || request.prompt_candidates != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(start != 0 ? "prompt_logprob_start" : "prompt_candidates",
                     " is set without the prompt's log-probabilities being asked for"));
  }
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (start < 0 || start >= prompt) {
    return absl::InvalidArgumentError(absl::StrCat("prompt_logprob_start is ", start,
                                                   "; the prompt has ", prompt,
                                                   " tokens, so it must be in [0, ", prompt, ")"));
  }
  if (request.prompt_candidates < 0 || request.prompt_candidates > kMaxCandidates) {
    return absl::InvalidArgumentError(absl::StrCat("prompt_candidates: top_n is ",
                                                   request.prompt_candidates,
                                                   "; it must be in [0, ", kMaxCandidates, "]"));
  }
  return absl::OkStatus();
}

absl::Status CheckPrompt(const GenerationRequest& request, const EngineOptions& options) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0)
    return absl::InvalidArgumentError("the prompt is empty; it needs a token at least");
  for (int32_t token : request.prompt) {
    if (token >= 0 && token < options.vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt token id ", token, " is not in the vocabulary, [0, ", options.vocab_size, ")"));
  }
  return CheckPromptScores(request);
}

absl::Status CheckOutputs(const GenerationRequest& request) {
  const int64_t smallest = request.prompt_logprobs ? 0 : 1;
  if (request.max_tokens.has_value() && *request.max_tokens < smallest) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", *request.max_tokens, "; it must be at least ", smallest));
  }
  if (request.num_sequences < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_sequences is ", request.num_sequences, "; it must be at least 1"));
  }
  if (request.max_tokens == 0 && request.num_sequences > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_sequences is ", request.num_sequences,
                     "; with max_tokens 0 there is one output, the prompt's scores"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> Admit(const GenerationRequest& request, const EngineOptions& options) {
  RETURN_IF_ERROR(CheckSampling(request.sampling));
  RETURN_IF_ERROR(CheckPrompt(request, options));
  RETURN_IF_ERROR(CheckOutputs(request));
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const bool generates = request.max_tokens.value_or(1) > 0;
  const int64_t longest = options.max_model_len + (generates ? -1 : 1);
  if (prompt > longest) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", prompt, " tokens; the context is ", options.max_model_len,
                     generates ? ", of which a generated token needs one"
                               : "; one more may be scored, as the last is not computed"));
  }
  const int64_t context_left = std::max<int64_t>(options.max_model_len - prompt, 0);
  // The last token of a sequence is never computed, so it needs no place in the cache.
  const int64_t cache = options.num_blocks * options.block_size;
  const int64_t cache_left = cache - prompt + 1;
  const int64_t wanted = std::min(request.max_tokens.value_or(1), context_left);
  if (wanted > cache_left) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the request needs ", prompt + wanted - 1,
        " tokens of KV cache at its end and the whole cache has ", cache,
        "; it can never run here. Ask for fewer tokens or start the engine with more --kv_memory"));
  }
  return std::min({request.max_tokens.value_or(context_left), context_left, cache_left});
}

}  // namespace polystrate
