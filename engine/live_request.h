// LiveRequest: an accepted request from its first step to its last: what of its outputs has come,
// when each of them ends, and what its sink is told. Knows nothing of steps or queues.
// Rank 0; made on any thread, then the engine's thread alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/detokenizer.h"
#include "engine/queue_bound.h"
#include "engine/request.h"
#include "engine/request_times.h"
#include "engine/scheduler.h"
#include "engine/step_plan.h"
#include "engine/stop_text.h"

namespace polystrate {

// Outputs are sequences of their own to the scheduler. A sequence's id says whose it is.
inline constexpr int kOutputBits = 16;
constexpr uint64_t SequenceId(uint64_t request, int32_t output) {
  return request << kOutputBits | static_cast<uint64_t>(output);
}
constexpr uint64_t RequestOf(uint64_t sequence) { return sequence >> kOutputBits; }
constexpr int32_t OutputOf(uint64_t sequence) {
  return static_cast<int32_t>(sequence & ((uint64_t{1} << kOutputBits) - 1));
}

class LiveRequest {
 public:
  // `max_tokens` of each output, from Admit(). `tokenizer` may be null and must outlive the
  // request; `eos_token_ids` must outlive it too.
  LiveRequest(uint64_t id, GenerationRequest request, int64_t max_tokens, TokenSink* sink,
              const Tokenizer* tokenizer, absl::Span<const int32_t> eos_token_ids);

  // To be called before anything else: takes in what the outputs of a resumed request have had.
  // INVALID_ARGUMENT when that goes on after an output's end.
  absl::Status Resume();

  uint64_t id() const { return id_; }
  const GenerationRequest& request() const { return request_; }
  TokenSink& sink() const { return *sink_; }
  int64_t num_prompt_tokens() const { return static_cast<int64_t>(request_.prompt.size()); }
  RequestUsage usage() const;
  // What of it was never scheduled.
  const QueueLoad& queued() const { return queued_; }
  // An output is scheduled for the first time. What it takes from queued().
  QueueLoad LeaveQueue(int32_t output);
  RequestTimes& times() { return times_; }

  // Every output has ended, and so has the request.
  bool done() const { return num_ended_ == request_.num_sequences; }
  bool has_ended(int32_t output) const { return outputs_[output].ended; }
  // The output that computes the prompt, and scores it: the first that has not come to its end
  // before; -1 when all have.
  int32_t first() const { return first_; }
  // Of the prompt, found for first(); the others find what that has computed.
  void set_num_cached_tokens(int64_t n) { num_cached_tokens_ = n; }
  // Only scores are wanted, and all are known.
  bool nothing_to_do() const { return max_tokens_ == 0 && num_unscored_ == 0; }

  // What ends before any step, for the caller to End().
  std::vector<Finished> TakeKnownEnds();

  // For the scheduler: as if the output had been preempted after what it has had.
  std::unique_ptr<Sequence> MakeSequence(int32_t output) const;
  // The other outputs are due when first() has a token, which is `output`'s next: the prompt is in
  // the cache then, where they find it. Told once.
  std::vector<int32_t> TakeDue(int32_t output);

  // What the model says about the prompt; told to the sink when it is complete. INTERNAL when the
  // logits were not finite.
  absl::Status AddScore(const ScoredToken& score, absl::Span<const TokenLogProb> candidates);
  // Tells the sink the scores if they are complete before any step: of a prompt of one token.
  void TellKnownScores();
  // The output's next token, which the sink is told. What ends the output, if anything does: then
  // the caller goes on with End().
  std::optional<Finished> AddToken(int32_t output, const SampledToken& sample,
                                   absl::Span<const TokenLogProb> candidates);
  // Ends an output. What is to be told to the sink: `end` with the text that was held back and, if
  // it was the last output, usage.
  Finished End(int32_t output, Finished end);

 private:
  struct Output {
    int64_t num_tokens = 0;
    bool ended = false;
    std::unique_ptr<Detokenizer> detokenizer;  // null without a tokenizer
    StopTextMatcher stop_texts;
  };

  SampleRow MakeSampleRow(int32_t output) const;
  // Takes in an output's next token. What became certain with it goes to `text`.
  std::optional<Finished> Advance(Output& output, int32_t token_id, std::string* text) const;
  // What an output has had, and its end if it comes with the last of that.
  absl::StatusOr<std::optional<Finished>> TakeIn(int32_t output, absl::Span<const int32_t> tokens);
  // All outputs have ended, and nobody is left to tell the usage: the last one does.
  void EndLastAgain(std::optional<Finished> end);

  const uint64_t id_;
  const GenerationRequest request_;
  const int64_t max_tokens_;
  TokenSink* const sink_;
  const absl::Span<const int32_t> eos_token_ids_;
  const StopTexts stop_texts_;
  const uint64_t seed_;
  RequestTimes times_;
  std::vector<Output> outputs_;
  int32_t num_ended_ = 0;
  int32_t first_ = 0;
  bool others_wait_ = true;
  std::vector<Finished> known_ends_;
  QueueLoad queued_;
  int64_t num_cached_tokens_ = 0;
  std::vector<PromptScore> prompt_scores_;  // logprob is NaN until scored
  int64_t num_unscored_ = 0;
};

}  // namespace polystrate
