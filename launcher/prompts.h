// Prompts from flags and JSONL files, as token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer.h"

namespace polystrate {

// Text to token ids; INVALID_ARGUMENT when the model has no tokenizer.json.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const Tokenizer* tokenizer,
                                                  const std::string& text);

// One prompt per line: {"prompt": TEXT}, {"text": TEXT}, {"prompt_ids": [..]} or {"token_ids":
// [..]}. Errors name the file and the line. At most 1 GiB, and 16 MiB a line.
absl::StatusOr<std::vector<std::vector<int32_t>>> ReadPrompts(const Tokenizer* tokenizer,
                                                              const std::string& path);

}  // namespace polystrate
