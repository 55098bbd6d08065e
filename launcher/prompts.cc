#include "launcher/prompts.h"

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/json.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

absl::StatusOr<std::vector<int32_t>> ReadIds(const JsonView& line, const char* key) {
  ASSIGN_OR_RETURN(const JsonView array, line.GetArray(key));
  std::vector<int32_t> ids;
  for (const JsonView& element : array.Elements()) {
    ASSIGN_OR_RETURN(const int64_t id, element.AsInt(key));
    if (id < 0 || id > INT32_MAX) return line.Unexpected(key, "token ids");
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> ReadPrompt(const Tokenizer* tokenizer, const JsonView& line) {
  if (line.IsObject()) {
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
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  std::vector<std::vector<int32_t>> prompts;
  std::string text;
  for (int64_t number = 1; std::getline(file, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = absl::StrCat(path, ":", number);
    ASSIGN_OR_RETURN(const Json line, Json::Parse(text, where));
    absl::StatusOr<std::vector<int32_t>> prompt = ReadPrompt(tokenizer, line.root());
    if (!prompt.ok() && !absl::StrContains(prompt.status().message(), where)) {
      return absl::Status(prompt.status().code(),
                          absl::StrCat(where, ": ", prompt.status().message()));
    }
    RETURN_IF_ERROR(prompt.status());
    if (prompt->empty()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": the prompt is empty"));
    }
    prompts.push_back(*std::move(prompt));
  }
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no prompts"));
  return prompts;
}

}  // namespace polystrate
