#include "rpc/http/answer_format.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

// Characters, as Python counts them.
int64_t NumCharacters(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

void WriteUsage(const TokenCounts& counts, JsonWriter* json) {
  json->BeginObject();
  json->Key("prompt_tokens").Int(counts.prompt);
  json->Key("completion_tokens").Int(counts.completion);
  json->Key("total_tokens").Int(counts.prompt + counts.completion);
  json->Key("prompt_tokens_details").BeginObject();
  json->Key("cached_tokens").Int(counts.cached_prompt).EndObject();
  json->EndObject();
}

void WriteNumberOrNull(std::optional<double> number, JsonWriter* json) {
  if (number.has_value()) {
    json->Double(*number);
  } else {
    json->Null();
  }
}

// {text: logprob}; of tokens that read the same, the likeliest.
void WriteLikeliest(const ScoredToken& token, JsonWriter* json) {
  if (!token.logprob.has_value()) {
    json->Null();
    return;
  }
  std::set<std::string_view> seen;
  json->BeginObject();
  for (const ScoredToken::Candidate& candidate : token.likeliest) {
    if (seen.insert(candidate.text).second) json->Key(candidate.text).Double(candidate.logprob);
  }
  json->EndObject();
}

// Four lists, an element for each token. `offset` goes on from token to token.
void WriteCompletionLogprobs(const std::vector<ScoredToken>& tokens, int64_t* offset,
                             JsonWriter* json) {
  json->BeginObject().Key("tokens").BeginArray();
  for (const ScoredToken& token : tokens) json->String(token.text);
  json->EndArray().Key("token_logprobs").BeginArray();
  for (const ScoredToken& token : tokens) WriteNumberOrNull(token.logprob, json);
  json->EndArray().Key("top_logprobs").BeginArray();
  for (const ScoredToken& token : tokens) WriteLikeliest(token, json);
  json->EndArray().Key("text_offset").BeginArray();
  for (const ScoredToken& token : tokens) {
    json->Int(*offset);
    *offset += NumCharacters(token.text);
  }
  json->EndArray().EndObject();
}

void WriteChatToken(const std::string& text, std::optional<double> logprob, JsonWriter* json) {
  json->Key("token").String(text).Key("logprob");
  WriteNumberOrNull(logprob, json);
  json->Key("bytes").BeginArray();
  for (const char c : text) json->Int(static_cast<unsigned char>(c));
  json->EndArray();
}

// No more of the likeliest than were asked for, be the token among them or not.
void WriteChatLogprobs(const std::vector<ScoredToken>& tokens, size_t top_logprobs,
                       JsonWriter* json) {
  json->BeginObject().Key("content").BeginArray();
  for (const ScoredToken& token : tokens) {
    json->BeginObject();
    WriteChatToken(token.text, token.logprob, json);
    json->Key("top_logprobs").BeginArray();
    for (size_t i = 0; i < std::min(top_logprobs, token.likeliest.size()); ++i) {
      json->BeginObject();
      WriteChatToken(token.likeliest[i].text, token.likeliest[i].logprob, json);
      json->EndObject();
    }
    json->EndArray().EndObject();
  }
  json->EndArray().EndObject();
}

}  // namespace

std::string ServerSentEvent(const std::string& json) {
  return absl::StrCat("data: ", json, "\n\n");
}

AnswerFormat::AnswerFormat(AnswerHead head, const OpenAiRequest& request)
    : head_(std::move(head)),
      logprobs_(request.logprobs),
      top_logprobs_(static_cast<size_t>(request.top_logprobs)),
      include_usage_(request.include_usage),
      text_offsets_(request.calls.size() * request.num_choices),
      begun_(text_offsets_.size()) {}

void AnswerFormat::BeginDocument(bool chunk, JsonWriter* json) const {
  const char* object = chunk ? "chat.completion.chunk" : "chat.completion";
  json->BeginObject().Key("id").String(head_.id);
  json->Key("object").String(head_.kind == AnswerKind::kChat ? object : "text_completion");
  json->Key("created").Int(head_.created).Key("model").String(head_.model);
  json->Key("choices").BeginArray();
}

void AnswerFormat::WriteLogprobs(const ChoicePart& part, JsonWriter* json) {
  json->Key("logprobs");
  if (!logprobs_ || part.tokens.empty()) {
    json->Null();
  } else if (head_.kind == AnswerKind::kChat) {
    WriteChatLogprobs(part.tokens, top_logprobs_, json);
  } else {
    WriteCompletionLogprobs(part.tokens, &text_offsets_[part.index], json);
  }
}

void AnswerFormat::WriteChoice(const ChoicePart& part, bool chunk, JsonWriter* json) {
  json->BeginObject().Key("index").Int(part.index);
  if (head_.kind == AnswerKind::kCompletion) {
    json->Key("text").String(part.text);
  } else if (!chunk) {
    json->Key("message").BeginObject().Key("role").String("assistant");
    json->Key("content").String(part.text).EndObject();
  } else {
    json->Key("delta").BeginObject();
    if (!begun_[part.index]) json->Key("role").String("assistant");
    if (part.finish_reason.empty()) json->Key("content").String(part.text);
    json->EndObject();
  }
  WriteLogprobs(part, json);
  json->Key("finish_reason");
  if (part.finish_reason.empty()) {
    json->Null();
  } else {
    json->String(part.finish_reason);
  }
  json->EndObject();
}

std::string AnswerFormat::Whole(absl::Span<const ChoicePart> choices, const TokenCounts& counts) {
  JsonWriter json;
  BeginDocument(/*chunk=*/false, &json);
  for (const ChoicePart& choice : choices) WriteChoice(choice, /*chunk=*/false, &json);
  json.EndArray().Key("usage");
  WriteUsage(counts, &json);
  json.EndObject();
  return json.text();
}

std::string AnswerFormat::Chunks(const ChoicePart& part) {
  std::string events;
  if (head_.kind == AnswerKind::kChat && !begun_[part.index]) {
    ChoicePart turn;
    turn.index = part.index;
    events = Chunk(turn);
    begun_[part.index] = true;
  }
  return events + Chunk(part);
}

std::string AnswerFormat::Chunk(const ChoicePart& part) {
  JsonWriter json;
  BeginDocument(/*chunk=*/true, &json);
  WriteChoice(part, /*chunk=*/true, &json);
  json.EndArray();
  if (include_usage_) json.Key("usage").Null();
  json.EndObject();
  return ServerSentEvent(json.text());
}

std::string AnswerFormat::LastChunks(const TokenCounts& counts) const {
  std::string events;
  if (include_usage_) {
    JsonWriter json;
    BeginDocument(/*chunk=*/true, &json);
    json.EndArray().Key("usage");
    WriteUsage(counts, &json);
    json.EndObject();
    events = ServerSentEvent(json.text());
  }
  return events + ServerSentEvent("[DONE]");
}

}  // namespace polystrate
