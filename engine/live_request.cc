#include "engine/live_request.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <random>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "engine/timeline.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

uint64_t RandomSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

LiveRequest::LiveRequest(uint64_t id, GenerationRequest request, int64_t max_tokens,
                         TokenSink* sink, const Tokenizer* tokenizer,
                         absl::Span<const int32_t> eos_token_ids)
    : id_(id),
      request_(std::move(request)),
      max_tokens_(max_tokens),
      sink_(sink),
      eos_token_ids_(eos_token_ids),
      stop_texts_(request_.stop_texts),
      seed_(request_.sampling.seed.has_value() ? *request_.sampling.seed : RandomSeed()) {
  CHECK_LT(request_.num_sequences, 1 << kOutputBits);
  times_.arrival = Timeline::NowNs();
  times_.last_token_of.resize(request_.num_sequences);
  for (int32_t i = 0; i < request_.num_sequences; ++i) {
    Output& output = outputs_.emplace_back();
    if (tokenizer == nullptr) continue;
    output.detokenizer =
        std::make_unique<Detokenizer>(*tokenizer, /*skip_special_tokens=*/true, request_.prompt);
    output.stop_texts = StopTextMatcher(&stop_texts_, request_.include_stop_in_output);
  }
  queued_ = {request_.num_sequences, num_prompt_tokens()};
  if (request_.prompt_logprobs) {
    const int64_t first = std::max<int64_t>(request_.prompt_logprob_start, 1);
    prompt_scores_.resize(num_prompt_tokens() - request_.prompt_logprob_start);
    num_unscored_ = num_prompt_tokens() - first;
  }
}

absl::Status LiveRequest::Resume() {
  if (request_.resumed.empty()) return absl::OkStatus();
  first_ = -1;
  queued_ = {};
  std::optional<Finished> end;
  for (int32_t i = 0; i < request_.num_sequences; ++i) {
    ASSIGN_OR_RETURN(end, TakeIn(i, request_.resumed[i].tokens));
    if (request_.resumed[i].ended) {
      outputs_[i].ended = true;
      ++num_ended_;
    } else if (end.has_value()) {
      known_ends_.push_back(*end);
    } else {
      if (first_ < 0) first_ = i;
      ++queued_.requests;
      queued_.tokens += outputs_[i].num_tokens;
    }
  }
  if (first_ >= 0) queued_.tokens += num_prompt_tokens();
  if (done()) EndLastAgain(std::move(end));
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Finished>> LiveRequest::TakeIn(int32_t index,
                                                            absl::Span<const int32_t> tokens) {
  Output& output = outputs_[index];
  std::optional<Finished> end;
  for (const int32_t token_id : tokens) {
    if (end.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "polystrate.resume: output ", index, " has ", tokens.size(),
          " tokens and ends with number ", output.num_tokens, "; nothing can come after its end"));
    }
    std::string told;
    end = Advance(output, token_id, &told);
  }
  if (end.has_value()) end->output_index = index;
  return end;
}

void LiveRequest::EndLastAgain(std::optional<Finished> end) {
  Output& last = outputs_.back();
  last.ended = false;
  last.detokenizer = nullptr;  // the text at its end has been told
  --num_ended_;
  if (!end.has_value()) {
    const bool full = last.num_tokens >= max_tokens_;
    end = Finished{.output_index = request_.num_sequences - 1,
                   .reason = full ? FinishReason::kLength : FinishReason::kCancelled};
  }
  known_ends_ = {*std::move(end)};
}

RequestUsage LiveRequest::usage() const {
  RequestUsage usage;
  usage.prompt_tokens = num_prompt_tokens();
  for (const Output& output : outputs_) usage.completion_tokens += output.num_tokens;
  usage.cached_prompt_tokens = num_cached_tokens_;
  return usage;
}

QueueLoad LiveRequest::LeaveQueue(int32_t output) {
  // The others find the prompt in the cache. All that an output has had it computes itself.
  const int64_t prompt = output == first_ ? num_prompt_tokens() : 0;
  const QueueLoad left{1, prompt + outputs_[output].num_tokens};
  queued_.requests -= left.requests;
  queued_.tokens -= left.tokens;
  return left;
}

SampleRow LiveRequest::MakeSampleRow(int32_t output) const {
  using Float = std::numeric_limits<float>;
  const SamplingParams& sampling = request_.sampling;
  SampleRow row;
  row.temperature = static_cast<float>(sampling.temperature);
  row.top_k = std::max(sampling.top_k, 0);
  row.top_p = static_cast<float>(sampling.top_p);
  row.seed = seed_ + static_cast<uint64_t>(output);
  row.min_p = static_cast<float>(sampling.min_p);
  row.repetition_penalty = static_cast<float>(
      std::clamp<double>(sampling.repetition_penalty, Float::min(), Float::max()));
  row.frequency_penalty = static_cast<float>(sampling.frequency_penalty);
  row.presence_penalty = static_cast<float>(sampling.presence_penalty);
  if (request_.output_logprobs) {
    row.num_candidates = static_cast<int32_t>(request_.output_candidates);
  }
  return row;
}

std::unique_ptr<Sequence> LiveRequest::MakeSequence(int32_t output) const {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = SequenceId(id_, output);
  sequence->tokens = request_.prompt;
  if (!request_.resumed.empty()) {
    absl::c_copy(request_.resumed[output].tokens, std::back_inserter(sequence->tokens));
  }
  sequence->prompt_len = num_prompt_tokens();
  if (request_.bypass_prefix_cache) {
    sequence->cache_root.private_id = id_;
  } else {
    sequence->cache_root.salt = request_.cache_salt;
  }
  sequence->sampling = MakeSampleRow(output);
  if (request_.min_tokens > 0) {
    sequence->biases_end = num_prompt_tokens() + request_.min_tokens;
    const auto ban = [&](int32_t id) {
      sequence->biases.push_back({id, -std::numeric_limits<float>::infinity()});
    };
    if (!request_.ignore_eos) absl::c_for_each(eos_token_ids_, ban);
    absl::c_for_each(request_.stop_token_ids, ban);
  }
  sequence->sample = max_tokens_ > 0;
  sequence->max_len = num_prompt_tokens() + max_tokens_;
  sequence->priority = request_.priority;
  if (output == first_) {
    sequence->score_begin = num_prompt_tokens() - num_unscored_;
    sequence->num_candidates = static_cast<int32_t>(request_.prompt_candidates);
  }
  return sequence;
}

std::vector<int32_t> LiveRequest::TakeDue(int32_t output) {
  std::vector<int32_t> due;
  if (output != first_ || !std::exchange(others_wait_, false)) return due;
  for (int32_t other = 0; other < request_.num_sequences; ++other) {
    if (other != first_ && !has_ended(other)) due.push_back(other);
  }
  return due;
}

std::vector<Finished> LiveRequest::TakeKnownEnds() {
  if (nothing_to_do() && known_ends_.empty()) return {{.reason = FinishReason::kLength}};
  return std::exchange(known_ends_, {});
}

absl::Status LiveRequest::AddScore(const ScoredToken& score,
                                   absl::Span<const TokenLogProb> candidates) {
  PromptScore& known = prompt_scores_[score.position - request_.prompt_logprob_start];
  if (!std::isnan(known.logprob)) return absl::OkStatus();  // scored before a preemption
  if (std::isnan(score.logprob)) {
    return absl::InternalError("the model gave logits that are not finite");
  }
  known = {score.logprob, score.rank, {candidates.begin(), candidates.end()}};
  if (--num_unscored_ == 0) sink_->OnPrompt(prompt_scores_);
  return absl::OkStatus();
}

void LiveRequest::TellKnownScores() {
  if (request_.prompt_logprobs && num_unscored_ == 0) sink_->OnPrompt(prompt_scores_);
}

std::optional<Finished> LiveRequest::AddToken(int32_t index, const SampledToken& sample,
                                              absl::Span<const TokenLogProb> candidates) {
  TokenInfo token{.output_index = index,
                  .token_id = sample.token_id,
                  .logprob = sample.logprob,
                  .rank = sample.rank,
                  .candidates = candidates};
  std::optional<Finished> end = Advance(outputs_[index], sample.token_id, &token.text);
  sink_->OnToken(token);
  return end;
}

std::optional<Finished> LiveRequest::Advance(Output& output, int32_t id, std::string* text) const {
  ++output.num_tokens;
  const bool eos = !request_.ignore_eos && absl::c_linear_search(eos_token_ids_, id);
  const bool stop = output.num_tokens > request_.min_tokens &&
                    (eos || absl::c_linear_search(request_.stop_token_ids, id));
  std::optional<std::string> stop_text;
  if (output.detokenizer != nullptr && (!stop || request_.include_stop_in_output)) {
    *text = output.detokenizer->Append(id);
    if (output.num_tokens >= request_.min_tokens) stop_text = output.stop_texts.Filter(*text);
  }
  if (stop) return Finished{.stop_token_id = id, .stopped_by_eos = eos};
  if (stop_text.has_value()) return Finished{.stop_text = std::move(stop_text)};
  if (output.num_tokens >= max_tokens_) return Finished{.reason = FinishReason::kLength};
  return std::nullopt;
}

Finished LiveRequest::End(int32_t index, Finished end) {
  Output& output = outputs_[index];
  CHECK(!output.ended);
  output.ended = true;
  ++num_ended_;
  end.output_index = index;
  if (output.detokenizer != nullptr && !end.stop_text.has_value()) {
    end.text = output.detokenizer->Flush();
    const auto stop_text = output.stop_texts.Filter(end.text);
    end.text += output.stop_texts.Flush();
    if (stop_text.has_value() && end.reason == FinishReason::kLength) {
      end.reason = FinishReason::kStop;
      end.stop_text = stop_text;
    }
  }
  if (done()) end.usage = usage();
  return end;
}

}  // namespace polystrate
