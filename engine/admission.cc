#include "engine/admission.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Field, value and range; a NaN is in no range.
absl::Status CheckRange(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be in [", low, ", ", high, "]"));
}

absl::Status CheckSampling(const SamplingParams& p) {
  RETURN_IF_ERROR(CheckRange("temperature", p.temperature, 0.0, 2.0));
  if (!(p.top_p > 0.0 && p.top_p <= 1.0)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", p.top_p, "; it must be in (0, 1]"));
  }
  if (p.top_k < -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", p.top_k, "; it must be -1 or 0 (all tokens) or at least 1"));
  }
  RETURN_IF_ERROR(CheckRange("min_p", p.min_p, 0.0, 1.0));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", p.frequency_penalty, -2.0, 2.0));
  RETURN_IF_ERROR(CheckRange("presence_penalty", p.presence_penalty, -2.0, 2.0));
  if (!(p.repetition_penalty > 0.0 && std::isfinite(p.repetition_penalty))) {
    return absl::InvalidArgumentError(absl::StrCat("repetition_penalty is ", p.repetition_penalty,
                                                   "; it must be above 0 and finite"));
  }
  return absl::OkStatus();
}

absl::Status CheckCandidates(const char* field, int64_t top_n) {
  if (top_n >= 0 && top_n <= kMaxCandidates) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": top_n is ", top_n, "; it must be in [0, ", kMaxCandidates, "]"));
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
  return CheckCandidates("prompt_candidates", request.prompt_candidates);
}

absl::Status CheckToken(const char* field, int32_t token, int32_t vocab_size) {
  if (token >= 0 && token < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " ", token, " is not in the vocabulary, [0, ", vocab_size, ")"));
}

absl::Status CheckPrompt(const GenerationRequest& request, const EngineOptions& options) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0)
    return absl::InvalidArgumentError("the prompt is empty; it needs a token at least");
  for (int32_t token : request.prompt) {
    RETURN_IF_ERROR(CheckToken("prompt token id", token, options.vocab_size));
  }
  return CheckPromptScores(request);
}

absl::Status CheckStops(const GenerationRequest& request, const EngineOptions& options,
                        bool has_tokenizer) {
  if (request.stop_token_ids.size() > kMaxStopTokenIds) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", request.stop_token_ids.size(),
                                                   " stop_token_id; there may be ",
                                                   kMaxStopTokenIds));
  }
  for (const int32_t token : request.stop_token_ids) {
    RETURN_IF_ERROR(CheckToken("stop_token_id", token, options.vocab_size));
  }
  if (request.stop_texts.empty()) return absl::OkStatus();
  if (!has_tokenizer) {
    return absl::InvalidArgumentError(
        "stop_text is set and this model has no tokenizer; use stop_token_id instead");
  }
  if (request.stop_texts.size() > kMaxStopTexts) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", request.stop_texts.size(),
                                                   " stop_text; there may be ", kMaxStopTexts));
  }
  for (const std::string& text : request.stop_texts) {
    if (!text.empty() && text.size() <= kMaxStopTextBytes &&
        FirstInvalidUtf8(text) == text.size()) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat("stop_text of ", text.size(),
                                                   " bytes; it must be UTF-8 of 1 to ",
                                                   kMaxStopTextBytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckTokenCounts(const GenerationRequest& request) {
  const int64_t smallest = request.prompt_logprobs ? 0 : 1;
  if (request.max_tokens.has_value() && *request.max_tokens < smallest) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", *request.max_tokens, "; it must be at least ", smallest));
  }
  const int64_t most = request.max_tokens.value_or(std::numeric_limits<int64_t>::max());
  if (request.min_tokens >= 0 && request.min_tokens <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "min_tokens is ", request.min_tokens, "; it must be in [0, max_tokens], and max_tokens ",
      request.max_tokens.has_value() ? absl::StrCat("is ", *request.max_tokens) : "is not set"));
}

absl::Status CheckOutputs(const GenerationRequest& request, const EngineOptions& options) {
  const int64_t most = MaxNumSequences(options);
  if (request.num_sequences < 1 || request.num_sequences > most) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_sequences is ", request.num_sequences, "; it must be in [1, ", most,
        "], as outputs run side by side and the engine runs so many sequences at once"));
  }
  if (request.max_tokens == 0 && request.num_sequences > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_sequences is ", request.num_sequences,
                     "; with max_tokens 0 there is one output, the prompt's scores"));
  }
  if (!request.output_logprobs && request.output_candidates != 0) {
    return absl::InvalidArgumentError(
        "output_candidates is set without the output's log-probabilities being asked for");
  }
  return CheckCandidates("output_candidates", request.output_candidates);
}

absl::Status CheckResumed(const GenerationRequest& request, const EngineOptions& options) {
  if (request.resumed.empty()) return absl::OkStatus();
  if (request.resumed.size() != static_cast<size_t>(request.num_sequences)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "polystrate.resume has ", request.resumed.size(),
        " outputs; it must have one for each of num_sequences, ", request.num_sequences));
  }
  for (const ResumedOutput& output : request.resumed) {
    for (const int32_t token : output.tokens) {
      RETURN_IF_ERROR(CheckToken("polystrate.resume: token id", token, options.vocab_size));
    }
  }
  const SamplingParams& sampling = request.sampling;
  const SampleRow row{.temperature = static_cast<float>(sampling.temperature)};
  if (sampling.seed.has_value() || row.IsGreedy()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "polystrate.resume needs the seed of what it resumes, as temperature is ",
      sampling.temperature, "; without it the tokens to come would be another output's"));
}

// Of the output that has had most.
int64_t MostResumed(const GenerationRequest& request) {
  size_t most = 0;
  for (const ResumedOutput& output : request.resumed) most = std::max(most, output.tokens.size());
  return static_cast<int64_t>(most);
}

}  // namespace

int64_t MaxNumSequences(const EngineOptions& options) {
  // A sequence's id has room for more; so many is what others allow.
  constexpr int64_t kMost = 16384;
  return std::min(options.max_num_seqs, kMost);
}

absl::StatusOr<int64_t> Admit(const GenerationRequest& request, const EngineOptions& options,
                              bool has_tokenizer) {
  RETURN_IF_ERROR(CheckSampling(request.sampling));
  RETURN_IF_ERROR(CheckPrompt(request, options));
  RETURN_IF_ERROR(CheckTokenCounts(request));
  RETURN_IF_ERROR(CheckOutputs(request, options));
  RETURN_IF_ERROR(CheckStops(request, options, has_tokenizer));
  RETURN_IF_ERROR(CheckResumed(request, options));
  if (request.cache_salt.size() > kMaxCacheSaltBytes) {
    return absl::InvalidArgumentError(absl::StrCat("cache_salt has ", request.cache_salt.size(),
                                                   " bytes; it may have ", kMaxCacheSaltBytes));
  }
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
  if (request.min_tokens > context_left) {
    return absl::InvalidArgumentError(absl::StrCat(
        "min_tokens is ", request.min_tokens, "; after the prompt's ", prompt,
        " tokens the context, ", options.max_model_len, ", has room for ", context_left));
  }
  const int64_t resumed = MostResumed(request);
  const int64_t most_resumed = std::min(request.max_tokens.value_or(context_left), context_left);
  if (resumed > most_resumed) {
    return absl::InvalidArgumentError(absl::StrCat("polystrate.resume has an output of ", resumed,
                                                   " tokens; max_tokens and the context allow ",
                                                   most_resumed));
  }
  // The last token of a sequence is never computed, so it needs no place in the cache.
  const int64_t cache = options.num_blocks * options.block_size;
  const int64_t cache_left = cache - prompt + 1;
  const int64_t least = std::max<int64_t>({request.min_tokens, resumed, 1});
  const int64_t wanted = std::min(request.max_tokens.value_or(least), context_left);
  if (wanted > cache_left) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the request needs ", prompt + wanted - 1,
        " tokens of KV cache at its end and the whole cache has ", cache,
        "; it can never run here. Ask for fewer tokens or start the engine with more --kv_memory"));
  }
  return std::min({request.max_tokens.value_or(context_left), context_left, cache_left});
}

}  // namespace polystrate
