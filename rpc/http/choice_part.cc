#include "rpc/http/choice_part.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

// Engines that do not say what a token reads leave its id.
std::string TextOf(uint32_t id, const std::string& text, bool known) {
  return known || !text.empty() ? text : absl::StrCat("token_id:", id);
}

ScoredToken Scored(const pb::TokenInfo& token, bool text_known) {
  ScoredToken scored{.text = TextOf(token.token_id(), token.token(), text_known)};
  if (!token.has_logprob()) return scored;
  scored.logprob = token.logprob();
  bool listed = false;
  for (const pb::LogProb& candidate : token.candidates()) {
    const bool same = candidate.token_id() == token.token_id();
    listed |= same;
    // The token itself reads as in the answer, where it may have waited for the rest of a
    // character.
    scored.likeliest.push_back(
        {same ? scored.text : TextOf(candidate.token_id(), candidate.token(), /*known=*/false),
         candidate.logprob()});
  }
  if (!listed) scored.likeliest.push_back({scored.text, token.logprob()});
  return scored;
}

std::string ReasonOf(pb::FinishReason reason) {
  switch (reason) {
    case pb::FINISH_REASON_LENGTH:
      return "length";
    case pb::FINISH_REASON_CANCELLED:
      return "abort";
    default:
      return "stop";
  }
}

}  // namespace

void ChoicePart::Append(ChoicePart&& next) {
  text += next.text;
  for (ScoredToken& token : next.tokens) tokens.push_back(std::move(token));
  if (!next.finish_reason.empty()) finish_reason = std::move(next.finish_reason);
}

PartReader::PartReader(const OpenAiRequest& request)
    : request_(request), echoed_(request.calls.size(), !request.echo) {}

// The prompt, once for each choice, with whatever comes first: scored, or as it was sent.
std::vector<ChoicePart> PartReader::Echo(int64_t call, const pb::GenerateResponse& event) {
  const pb::GenerateRequest& asked = request_.calls[call];
  ChoicePart prompt;
  prompt.text = asked.prompt();
  for (const pb::TokenInfo& token : event.prompt().tokens()) {
    if (asked.has_token_ids()) prompt.text += token.token();
    if (request_.logprobs) prompt.tokens.push_back(Scored(token, /*text_known=*/false));
  }
  echoed_[call] = true;
  std::vector<ChoicePart> parts;
  for (int64_t i = 0; i < request_.num_choices; ++i) {
    parts.push_back(prompt);
    parts.back().index = call * request_.num_choices + i;
  }
  return parts;
}

ChoicePart PartReader::ReadTokens(int64_t call, const pb::TokenOutput& output) const {
  ChoicePart part;
  part.index = call * request_.num_choices + output.output_index();
  part.text = output.text();
  if (!request_.logprobs) return part;
  for (const pb::TokenInfo& token : output.tokens()) {
    part.tokens.push_back(Scored(token, /*text_known=*/true));
  }
  return part;
}

std::vector<ChoicePart> PartReader::Read(int64_t call, const pb::GenerateResponse& event) {
  if (event.has_usage()) {
    counts_.prompt += event.usage().prompt_tokens();
    counts_.completion += event.usage().completion_tokens();
    counts_.cached_prompt += event.usage().cached_prompt_tokens();
  }
  std::vector<ChoicePart> parts;
  if (!echoed_[call] && !event.has_error()) parts = Echo(call, event);
  if (event.has_token()) parts.push_back(ReadTokens(call, event.token()));
  if (event.has_finished()) {
    ChoicePart& part = parts.emplace_back();
    part.index = call * request_.num_choices + event.finished().output_index();
    part.finish_reason = ReasonOf(event.finished().reason());
  }
  return parts;
}

}  // namespace polystrate
