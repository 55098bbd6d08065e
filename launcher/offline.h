// Offline: runs a fixed list of requests through an engine and gives all answers back. What
// generate and score are made of.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/request.h"
#include "engine/tokenizer.h"
#include "launcher/engine_setup.h"

namespace polystrate {

struct OfflineOutput {
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;  // of token_ids
  std::vector<int32_t> ranks;   // the same, when asked for, like these:
  std::vector<std::vector<TokenLogProb>> candidates;
  std::vector<PromptScore> prompt_scores;
  std::string text;
  FinishReason reason = FinishReason::kLength;
  absl::Status status;                // not OK: this request failed
  std::vector<OfflineOutput> others;  // of num_sequences, from the second on
};

struct OfflineStats {
  absl::Duration wall;
  absl::Duration first_token;  // from the start to the first token of any request
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
};

struct OfflineJob {
  // Rank 0 only: the requests, made before any weights are read. The engine has no tokenizer when
  // the model directory has none.
  std::function<absl::StatusOr<std::vector<GenerationRequest>>(const Engine& engine)> requests;
  // Rank 0 only, may be empty: text as it streams, with the request's index; of several outputs
  // the first alone.
  std::function<void(size_t index, const TokenInfo& token)> on_token;
  // Rank 0 only: everything, in the order of the requests.
  std::function<absl::Status(const std::vector<GenerationRequest>&,
                             const std::vector<OfflineOutput>&, const OfflineStats&)>
      finish;
};

// Every rank calls it with the same flags; every rank returns the same status.
absl::Status RunOffline(const EngineFlags& flags, const OfflineJob& job);

// DIR/tokenizer.json; null when there is none, an error when it cannot be used.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);

}  // namespace polystrate
