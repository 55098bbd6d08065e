#include "engine/tokenizer_config.h"

#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/json.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Beside the template, thousands of added tokens.
constexpr int64_t kMaxFileBytes = 16 << 20;
constexpr size_t kMaxTokenBytes = 1024;

using Text = std::optional<std::string>;

absl::StatusOr<Text> Bounded(std::string text, size_t most, const std::string& what) {
  if (text.size() <= most) return Text(std::move(text));
  return absl::InvalidArgumentError(
      absl::StrCat(what, " has ", text.size(), " bytes; it may have ", most));
}

absl::StatusOr<Text> ReadTemplateFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  std::string text(kMaxChatTemplateBytes + 1, '\0');
  std::ifstream file;
  if (std::filesystem::is_regular_file(path, error)) file.open(path, std::ios::binary);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  const size_t invalid = FirstInvalidUtf8(text);
  if (invalid == text.size()) return Bounded(std::move(text), kMaxChatTemplateBytes, path);
  return absl::InvalidArgumentError(absl::StrCat(path, ": byte ", invalid, " is no UTF-8"));
}

// An object, or nothing where there is no file.
absl::StatusOr<std::optional<Json>> ReadObject(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  ASSIGN_OR_RETURN(Json json, Json::ReadFile(path, kMaxFileBytes));
  if (!json.root().IsObject()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  }
  return json;
}

// A string, or several by name, of which "default" is the one for chats.
absl::StatusOr<Text> ReadTemplate(const JsonView& config) {
  const auto found = config.Find("chat_template");
  if (!found.has_value() || found->IsNull()) return std::nullopt;
  const std::string what = absl::StrCat(config.document(), ": \"chat_template\"");
  if (found->IsString()) {
    return Bounded(std::string(*found->AsString("chat_template")), kMaxChatTemplateBytes, what);
  }
  if (!found->IsArray()) {
    return config.Unexpected("chat_template", "a string or an array of named templates");
  }
  for (const JsonView& named : found->Elements()) {
    if (!named.IsObject()) return found->Unexpected("chat_template", "an array of objects");
    ASSIGN_OR_RETURN(const std::string name, named.GetString("name"));
    if (name != "default") continue;
    ASSIGN_OR_RETURN(std::string text, named.GetString("template"));
    return Bounded(std::move(text), kMaxChatTemplateBytes, what);
  }
  return std::nullopt;
}

// A string, or an object that has it as "content".
absl::StatusOr<Text> ReadToken(const JsonView& config, const char* key) {
  const auto found = config.Find(key);
  if (!found.has_value() || found->IsNull()) return std::nullopt;
  const std::string what = absl::StrCat(config.document(), ": \"", key, "\"");
  if (!found->IsObject()) {
    ASSIGN_OR_RETURN(std::string text, config.GetString(key));
    return Bounded(std::move(text), kMaxTokenBytes, what);
  }
  ASSIGN_OR_RETURN(std::string text, found->GetString("content"));
  return Bounded(std::move(text), kMaxTokenBytes, what);
}

}  // namespace

TokenizerConfig ReadTokenizerConfig(const std::string& model_dir,
                                    std::vector<std::string>* problems) {
  // The first that says it.
  const auto take = [problems](absl::StatusOr<Text> read, Text* into) {
    if (!read.ok()) problems->emplace_back(read.status().message());
    if (read.ok() && !into->has_value()) *into = *std::move(read);
  };
  TokenizerConfig config;
  take(ReadTemplateFile(model_dir + "/chat_template.jinja"), &config.chat_template);
  for (const char* file : {"/tokenizer_config.json", "/special_tokens_map.json"}) {
    const absl::StatusOr<std::optional<Json>> json = ReadObject(model_dir + file);
    if (!json.ok()) problems->emplace_back(json.status().message());
    if (!json.ok() || !json->has_value()) continue;
    const JsonView root = (*json)->root();
    take(ReadTemplate(root), &config.chat_template);
    take(ReadToken(root, "bos_token"), &config.bos_token);
    take(ReadToken(root, "eos_token"), &config.eos_token);
  }
  return config;
}

}  // namespace polystrate
