#include "launcher/sampling_flags.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "openengine_generate.pb.h"

namespace polystrate {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

// The value as engine and wire have it, in 32 bits.
absl::StatusOr<int32_t> Within(const char* flag, int64_t value, int64_t least) {
  if (value >= least && value <= kMost) return static_cast<int32_t>(value);
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, "; it must be in [", least, ", ", kMost, "]"));
}

absl::StatusOr<std::vector<int32_t>> StopTokenIds(const SamplingFlags& flags) {
  std::vector<int32_t> ids;
  if (!flags.stop_token_ids.has_value()) return ids;
  ASSIGN_OR_RETURN(ids, ParseIntList("stop_token_ids", *flags.stop_token_ids));
  for (const int32_t id : ids) RETURN_IF_ERROR(Within("stop_token_ids", id, 0).status());
  return ids;
}

template <typename T>
void Copy(const std::optional<T>& from, T* to) {
  if (from.has_value()) *to = *from;
}

}  // namespace

void SamplingFlags::AddTo(FlagSet* flags) {
  flags->Add("max_tokens", &max_tokens, "tokens to generate at most");
  flags->Add("min_tokens", &min_tokens,
             "tokens before which nothing may end the text (default: 0)");
  flags->Add("n", &n, "texts to generate from one prompt (default: 1)");
  flags->Add("temperature", &temperature, "0 is greedy (default: 1)");
  flags->Add("top_k", &top_k, "sample from the k most likely tokens (default: all)");
  flags->Add("top_p", &top_p, "sample from the most likely tokens that reach p (default: 1)");
  flags->Add("min_p", &min_p, "sample from tokens p times as likely as the likeliest (default: 0)");
  flags->Add("frequency_penalty", &frequency_penalty,
             "taken from a token's logit each time it has come, -2 to 2 (default: 0)");
  flags->Add("presence_penalty", &presence_penalty,
             "taken from the logit of a token that has come, -2 to 2 (default: 0)");
  flags->Add("repetition_penalty", &repetition_penalty,
             "divides the logits of what prompt and text hold (default: 1)");
  flags->Add("seed", &seed, "makes sampling repeatable (default: a new one each time)");
  flags->Add("stop", &stop, "texts, any of which ends the output");
  flags->Add("stop_token_ids", &stop_token_ids, "tokens that end the output, as 1,2,3");
  flags->Add("include_stop_in_output", &include_stop_in_output,
             "the output ends with the stop, not before it");
  flags->Add("ignore_eos", &ignore_eos, "do not stop at the end-of-sequence token");
}

absl::Status SamplingFlags::Fill(GenerationRequest* request) const {
  SamplingParams& sampling = request->sampling;
  Copy(temperature, &sampling.temperature);
  Copy(top_p, &sampling.top_p);
  Copy(min_p, &sampling.min_p);
  Copy(frequency_penalty, &sampling.frequency_penalty);
  Copy(presence_penalty, &sampling.presence_penalty);
  Copy(repetition_penalty, &sampling.repetition_penalty);
  sampling.seed = seed;
  ASSIGN_OR_RETURN(sampling.top_k, Within("top_k", top_k.value_or(0), -1));
  ASSIGN_OR_RETURN(request->num_sequences, Within("n", n.value_or(1), 1));
  request->max_tokens = max_tokens;
  Copy(min_tokens, &request->min_tokens);
  request->stop_texts = stop;
  ASSIGN_OR_RETURN(request->stop_token_ids, StopTokenIds(*this));
  request->include_stop_in_output = include_stop_in_output;
  request->ignore_eos = ignore_eos;
  return absl::OkStatus();
}

absl::Status SamplingFlags::Fill(openengine::v1::GenerateRequest* request) const {
  openengine::v1::SamplingParams& sampling = *request->mutable_sampling();
  if (temperature.has_value()) sampling.set_temperature(*temperature);
  if (top_p.has_value()) sampling.set_top_p(*top_p);
  if (min_p.has_value()) sampling.set_min_p(*min_p);
  if (frequency_penalty.has_value()) sampling.set_frequency_penalty(*frequency_penalty);
  if (presence_penalty.has_value()) sampling.set_presence_penalty(*presence_penalty);
  if (repetition_penalty.has_value()) sampling.set_repetition_penalty(*repetition_penalty);
  if (seed.has_value()) sampling.set_seed(*seed);
  if (top_k.has_value()) {
    ASSIGN_OR_RETURN(const int32_t k, Within("top_k", *top_k, -1));
    sampling.set_top_k(k);
  }
  if (n.has_value()) {
    ASSIGN_OR_RETURN(const int32_t num_sequences, Within("n", *n, 1));
    sampling.set_num_sequences(num_sequences);
  }
  openengine::v1::StoppingOptions& stopping = *request->mutable_stopping();
  ASSIGN_OR_RETURN(const int32_t most, Within("max_tokens", max_tokens, 1));
  stopping.set_max_tokens(most);
  if (min_tokens.has_value()) {
    ASSIGN_OR_RETURN(const int32_t least, Within("min_tokens", *min_tokens, 0));
    stopping.set_min_tokens(least);
  }
  for (const std::string& text : stop) stopping.add_conditions()->set_stop_text(text);
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, StopTokenIds(*this));
  for (const int32_t id : ids) stopping.add_conditions()->set_stop_token_id(id);
  if (include_stop_in_output) stopping.set_include_stop_in_output(true);
  if (ignore_eos) stopping.set_ignore_eos(true);
  return absl::OkStatus();
}

}  // namespace polystrate
