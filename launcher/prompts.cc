#include "launcher/prompts.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/json.h"
#include "kernels/core/status.h"
#include "launcher/jsonl.h"

namespace polystrate {
namespace {

absl::StatusOr<std::vector<int32_t>> ReadIds(const JsonView& line, const char* key) {
  ASSIGN_OR_RETURN(const JsonView array, line.GetArray(key));
  std::vector<int32_t> ids;
  for (const JsonView& element : array.Elements()) {
    ASSIGN_OR_RETURN(const int64_t id, element.AsInt(key));
    if (id < 0 || id > INT32_MAX) return element.Unexpected(key, "a token id");
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> ReadPrompt(const Tokenizer* tokenizer, const JsonView& line) {
  if (line.IsObject()) {
    int given = 0;
    for (const char* key : {"token_ids", "prompt_ids", "text", "prompt"}) given += line.Has(key);
    if (given > 1) return absl::InvalidArgumentError("several prompts; expected one a line");
    for (const char* key : {"token_ids", "prompt_ids"}) {
      if (line.Has(key)) return ReadIds(line, key);
    }
    for (const char* key : {"text", "prompt"}) {
      if (!line.Has(key)) continue;
      ASSIGN_OR_RETURN(const std::string text, line.GetString(key));
      return EncodePrompt(tokenizer, text);
    }
  }
  return absl::InvalidArgumentError(
      R"(expected {"prompt": TEXT}, {"text": TEXT}, {"prompt_ids": [..]} or {"token_ids": [..]})");
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const Tokenizer* tokenizer,
                                                  const std::string& text) {
  if (tokenizer == nullptr) {
    return absl::InvalidArgumentError(
        "the model directory has no tokenizer.json; give token ids instead of text");
  }
  return tokenizer->Encode(text);
}

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadPrompts(const Tokenizer* tokenizer,
                                                              const std::string& path) {
  std::vector<std::vector<int32_t>> prompts;
  RETURN_IF_ERROR(ForEachJsonLine(path, [&](const JsonView& line, const std::string&) {
    ASSIGN_OR_RETURN(auto prompt, ReadPrompt(tokenizer, line));
    if (prompt.empty()) return absl::InvalidArgumentError("the prompt is empty");
    prompts.push_back(std::move(prompt));
    return absl::OkStatus();
  }));
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no prompts"));
  return prompts;
}

}  // namespace polystrate
