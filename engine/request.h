// A generation request and what comes back for it, in the engine's own words (rpc/ translates).
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"

namespace polystrate {

struct SamplingParams {
  double temperature = 1.0;  // [0, 2]; below 1e-5 is greedy
  int32_t top_k = 0;         // 0 or -1: all; otherwise >= 1
  double top_p = 1.0;        // (0, 1]
  // Absent: the engine draws one, so that repeated requests differ.
  std::optional<uint64_t> seed;
};

struct GenerationRequest {
  std::string request_id;  // unique among live requests; empty: the engine makes one
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  // Absent: whatever is left of the context or fits the KV cache. 0 is allowed with prompt_logprobs
  // alone; the prompt may then have one token more than the context, as its last is not computed.
  std::optional<int64_t> max_tokens;
  std::vector<int32_t> stop_token_ids;  // besides the model's own end of sequence
  bool ignore_eos = false;
  // Asks for TokenSink::OnPrompt, about the prompt's tokens from prompt_logprob_start on. What
  // comes before them is computed only as far as they depend on it.
  bool prompt_logprobs = false;
  int64_t prompt_logprob_start = 0;  // [0, prompt.size())
  int64_t prompt_candidates = 0;     // likeliest tokens told at each, [0, kMaxCandidates]
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled };

// What the model expected where a token of the prompt stands.
struct PromptScore {
  float logprob = std::numeric_limits<float>::quiet_NaN();  // NaN: the first token of the prompt
  int32_t rank = 0;                      // 1: the model's own choice; 0: no logprob
  std::vector<TokenLogProb> candidates;  // likeliest first
};

struct TokenInfo {
  int32_t token_id = 0;
  float logprob = 0.0f;
  // The text that became certain with this token; empty while a UTF-8 character is incomplete.
  std::string text;
};

struct RequestUsage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

struct Finished {
  FinishReason reason = FinishReason::kStop;
  std::optional<int32_t> stop_token_id;  // with kStop: the token that stopped it
  bool stopped_by_eos = false;           // that token is the model's own end of sequence
  std::string text;                      // what the detokeniser still held back
  RequestUsage usage;
};

// Where a request's output goes. The engine's thread calls it and must not be blocked. After
// OnFinished or OnError, exactly one of which is called once for every accepted request, the engine
// never touches the sink again, so that its owner may delete it. (Abstract seam 2 of 2; the other
// is Communicator.)
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // scores[i] is of the prompt's token prompt_logprob_start + i, given those before it. Once,
  // before the first token, when the request asked for it.
  virtual void OnPrompt(const std::vector<PromptScore>& scores) = 0;
  virtual void OnToken(const TokenInfo& token) = 0;
  virtual void OnFinished(const Finished& finished) = 0;
  // INTERNAL: this request alone failed (NaN logits). UNAVAILABLE: the engine is going away.
  virtual void OnError(const absl::Status& status) = 0;
};

}  // namespace polystrate
