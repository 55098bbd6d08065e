// A generation request and what comes back for it, in the engine's own words (rpc/ translates).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/ops.h"

namespace polystrate {

// What bounds the work that a token's stops can be.
inline constexpr size_t kMaxStopTokenIds = 1024;
inline constexpr size_t kMaxStopTexts = 64;
inline constexpr size_t kMaxStopTextBytes = 1024;
inline constexpr size_t kMaxCacheSaltBytes = 256;

struct SamplingParams {
  double temperature = 1.0;  // [0, 2]; below 1e-5 is greedy
  int32_t top_k = 0;         // 0 or -1: all; otherwise >= 1
  double top_p = 1.0;        // (0, 1]
  double min_p = 0.0;        // [0, 1]; of the likeliest token's probability
  // Over the output's tokens: by how often each has come, and once for each that has.
  double frequency_penalty = 0.0;  // [-2, 2]
  double presence_penalty = 0.0;   // [-2, 2]
  // Over the prompt's and the output's tokens: positive logits are divided by it, others
  // multiplied (Keskar et al., arXiv:1909.05858).
  double repetition_penalty = 1.0;  // > 0
  // Absent: the engine draws one, so that repeated requests differ. Output i draws from seed + i.
  std::optional<uint64_t> seed;
};

// What an output has had before its engine was lost: another goes on from there.
struct ResumedOutput {
  std::vector<int32_t> tokens;  // generated ones, in order; not part of the prompt
  bool ended = false;           // its end has been told too; nothing more is wanted of it
};

struct GenerationRequest {
  std::string request_id;  // unique among live requests; empty: the engine makes one
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  // Outputs, which share the prompt's blocks. [1, EngineOptions::max_num_seqs], so that they run
  // side by side.
  int32_t num_sequences = 1;
  // Of each output. Absent: whatever is left of the context or fits the KV cache. 0 is allowed with
  // prompt_logprobs alone; the prompt may then have one token more than the context, as its last is
  // not computed.
  std::optional<int64_t> max_tokens;
  // Before an output has so many neither its end of sequence nor a stop of the client's is drawn or
  // looked for. [0, max_tokens]
  int64_t min_tokens = 0;
  // Besides the model's own end of sequence; in the vocabulary, kMaxStopTokenIds at most.
  std::vector<int32_t> stop_token_ids;
  // UTF-8, not empty, kMaxStopTexts of kMaxStopTextBytes at most; need a tokenizer.
  std::vector<std::string> stop_texts;
  bool include_stop_in_output = false;  // the text ends with the stop, otherwise before it
  bool ignore_eos = false;
  // Asks for TokenSink::OnPrompt, about the prompt's tokens from prompt_logprob_start on. What
  // comes before them is computed only as far as they depend on it.
  bool prompt_logprobs = false;
  int64_t prompt_logprob_start = 0;  // [0, prompt.size())
  int64_t prompt_candidates = 0;     // likeliest tokens told at each, [0, kMaxCandidates]
  // Asks for the rank of each token of the output; its log-probability is always told.
  bool output_logprobs = false;
  int64_t output_candidates = 0;  // likeliest tokens told at each, [0, kMaxCandidates]
  // Neither finds what others computed nor leaves anything for them; its outputs still share the
  // prompt.
  bool bypass_prefix_cache = false;
  // Blocks are shared among requests of one salt only. kMaxCacheSaltBytes at most.
  std::string cache_salt;
  // Empty, or one for each output: the request goes on where it was. Tokens count as generated, in
  // max_tokens, min_tokens, penalties, stops, positions of the random draws and the usage, and none
  // of them, nor text that came with them, is told again. An output whose tokens reach its end is
  // ended at once: the end was lost, not the tokens. Needs a seed unless greedy. Where
  // prompt_logprobs was asked for, scores are told once more if anything is left to do.
  std::vector<ResumedOutput> resumed;
  int32_t priority = 0;  // higher is more urgent
  absl::Time deadline = absl::InfiniteFuture();
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled };

// What the model expected where a token of the prompt stands.
struct PromptScore {
  float logprob = std::numeric_limits<float>::quiet_NaN();  // NaN: the first token of the prompt
  int32_t rank = 0;                      // 1: the model's own choice; 0: no logprob
  std::vector<TokenLogProb> candidates;  // likeliest first
};

struct TokenInfo {
  int32_t output_index = 0;  // [0, num_sequences)
  int32_t token_id = 0;
  float logprob = 0.0f;                         // of the raw logits, like the next two
  int32_t rank = 0;                             // 1: the model's own choice; 0: not asked for
  absl::Span<const TokenLogProb> candidates{};  // likeliest first; valid during OnToken
  // The text that became certain with this token. Empty while a UTF-8 character is incomplete or a
  // stop text may have begun, so it can hold what earlier tokens said.
  std::string text;
};

struct RequestUsage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;     // of all outputs
  int64_t cached_prompt_tokens = 0;  // found in the prefix cache, not computed
};

// How one output ended.
struct Finished {
  int32_t output_index = 0;
  FinishReason reason = FinishReason::kStop;
  // With kStop, one of the two: what stopped it.
  std::optional<int32_t> stop_token_id;
  std::optional<std::string> stop_text;
  bool stopped_by_eos = false;  // stop_token_id is the model's own end of sequence
  std::string text;             // what was still held back
  // With the last output to end, and only there.
  std::optional<RequestUsage> usage;
  absl::Duration queue_time;  // with usage: from arrival to the first step
};

// Where a request's output goes. The engine's thread calls it and must not be blocked. Every
// accepted request gets either one OnFinished for each of its outputs, the last with usage, or one
// OnError; a resumed one, for each output that had not ended, or for its last when all had. After
// that the engine never touches the sink again, so that its owner may delete it. (Abstract seam 2
// of 2; the other is Communicator.)
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // scores[i] is of the prompt's token prompt_logprob_start + i, given those before it. Once,
  // before the first token, when the request asked for it.
  virtual void OnPrompt(const std::vector<PromptScore>& scores) = 0;
  virtual void OnToken(const TokenInfo& token) = 0;
  virtual void OnFinished(const Finished& finished) = 0;
  // The end of the whole request. INTERNAL: it alone failed (NaN logits). DEADLINE_EXCEEDED.
  // UNAVAILABLE: the engine is going away.
  virtual void OnError(const absl::Status& status) = 0;
};

}  // namespace polystrate
