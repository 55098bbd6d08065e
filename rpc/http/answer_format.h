// AnswerFormat: an answer's choices as the JSON of OpenAI's API, whole or in chunks of a stream.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/json_writer.h"
#include "rpc/http/choice_part.h"

namespace polystrate {

enum class AnswerKind { kCompletion, kChat };

struct AnswerHead {
  AnswerKind kind = AnswerKind::kCompletion;
  std::string id;
  int64_t created = 0;  // Unix seconds
  std::string model;
};

class AnswerFormat {
 public:
  AnswerFormat(AnswerHead head, const OpenAiRequest& request);

  // The answer as one document. `choices` are whole, in order.
  std::string Whole(absl::Span<const ChoicePart> choices, const TokenCounts& counts);

  // What a stream says of a part, as server-sent events. Before a choice of a chat an event says
  // whose turn it is.
  std::string Chunks(const ChoicePart& part);
  // How a stream ends: the usage, if it was asked for, and the mark.
  std::string LastChunks(const TokenCounts& counts) const;

 private:
  void BeginDocument(bool chunk, JsonWriter* json) const;
  std::string Chunk(const ChoicePart& part);
  void WriteChoice(const ChoicePart& part, bool chunk, JsonWriter* json);
  void WriteLogprobs(const ChoicePart& part, JsonWriter* json);

  const AnswerHead head_;
  const bool logprobs_;
  const size_t top_logprobs_;
  const bool include_usage_;
  std::vector<int64_t> text_offsets_;  // by choice: characters of its tokens so far
  std::vector<bool> begun_;            // by choice
};

// An event of a stream, with `json` as its data.
std::string ServerSentEvent(const std::string& json);

}  // namespace polystrate
