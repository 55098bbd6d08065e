#include "launcher/prompts.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/json.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr size_t kMaxLineBytes = 16 << 20;
constexpr int64_t kMaxFileBytes = int64_t{1} << 30;

// The next line, or its first kMaxLineBytes + 1 bytes; false at the end of the file.
bool ReadLine(std::istream& file, std::string* line) {
  line->clear();
  std::streambuf& bytes = *file.rdbuf();
  int byte = bytes.sbumpc();
  if (byte == EOF) return false;
  for (; byte != EOF && byte != '\n'; byte = bytes.sbumpc()) {
    line->push_back(static_cast<char>(byte));
    if (line->size() > kMaxLineBytes) break;
  }
  return true;
}

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
  std::error_code error;
  std::ifstream file(path);
  if (!file || std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  }
  std::vector<std::vector<int32_t>> prompts;
  std::string text;
  int64_t bytes_left = kMaxFileBytes;
  for (int64_t number = 1; ReadLine(file, &text); ++number) {
    bytes_left -= static_cast<int64_t>(text.size());
    if (text.size() > kMaxLineBytes || bytes_left < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": too long; a line has at most ", kMaxLineBytes,
                       " bytes, the file ", kMaxFileBytes));
    }
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
