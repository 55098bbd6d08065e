// From the JSON of OpenAI's completion and chat completion requests to calls of Generate.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/json.h"
#include "openengine_generate.pb.h"

namespace polystrate {

namespace pb = openengine::v1;

struct OpenAiRequest {
  std::string model;                       // empty: whichever is served
  std::vector<pb::GenerateRequest> calls;  // one for each prompt, without ids
  int64_t num_choices = 1;                 // of each prompt
  bool stream = false;
  bool include_usage = false;  // a last chunk of the stream tells the usage
  bool logprobs = false;
  int64_t top_logprobs = 0;         // of so many of the likeliest tokens, too
  bool echo = false;                // an answer begins with its prompt
  std::optional<int32_t> priority;  // openengine-priority
};

// INVALID_ARGUMENT, with the field as WithParam has it: a field of a wrong type, one that has no
// meaning here and would be missed, or an order out of range. Ranges that the engine checks are
// left to it, and fields that nobody knows are ignored, as other servers of this API do.
absl::StatusOr<OpenAiRequest> ReadCompletionRequest(const JsonView& body);

// All but the prompt, which a chat template makes of `messages`: its call has an empty one that is
// tokenised as it stands.
absl::StatusOr<OpenAiRequest> ReadChatRequest(const JsonView& body);

}  // namespace polystrate
