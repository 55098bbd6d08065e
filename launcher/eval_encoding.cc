#include "launcher/eval_encoding.h"

#include <filesystem>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/json.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxConfigBytes = 16 << 20;

// What Python's str.rstrip takes away: White_Space of Unicode and the four separators of ASCII.
bool IsSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

// `text`, valid UTF-8, without the white space at its end.
std::string_view StripRight(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = DecodeUtf8(text.substr(at));
    at += step.num_bytes;
    if (step.status != Utf8Step::kValid || !IsSpace(step.code_point)) end = at;
  }
  return text.substr(0, end);
}

// As a prompt, unless it spells the token that begins a text itself.
absl::StatusOr<std::vector<int32_t>> EncodeText(const Tokenizer& tokenizer, std::string_view text,
                                                const std::optional<int32_t>& prefix_token) {
  const std::string prefix =
      prefix_token.has_value() ? tokenizer.Decode({{*prefix_token}}, false) : "";
  const bool begins = !prefix.empty() && text.substr(0, prefix.size()) == prefix;
  return tokenizer.Encode(text, begins ? AddSpecialTokens::kNo : AddSpecialTokens::kYes);
}

absl::StatusOr<EncodedPair> EncodeAfterPrefix(const Tokenizer& tokenizer,
                                              const std::string& continuation,
                                              const std::optional<int32_t>& prefix_token) {
  if (!prefix_token.has_value()) {
    return absl::InvalidArgumentError(
        "the context is empty, and the model names no token that begins a text");
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                   tokenizer.Encode(continuation, AddSpecialTokens::kNo));
  EncodedPair pair{.continuation_begin = 1};
  if (tokens.empty() || tokens.front() != *prefix_token) pair.tokens.push_back(*prefix_token);
  pair.tokens.insert(pair.tokens.end(), tokens.begin(), tokens.end());
  return pair;
}

absl::StatusOr<EncodedPair> EncodeAfterContext(const Tokenizer& tokenizer,
                                               const std::string& context,
                                               const std::string& continuation,
                                               const std::optional<int32_t>& prefix_token) {
  EncodedPair pair;
  ASSIGN_OR_RETURN(pair.tokens, EncodeText(tokenizer, StripRight(context), prefix_token));
  ASSIGN_OR_RETURN(const auto whole, EncodeText(tokenizer, context + continuation, prefix_token));
  pair.continuation_begin = static_cast<int64_t>(pair.tokens.size());
  if (pair.tokens.size() < whole.size()) {
    pair.tokens.insert(pair.tokens.end(), whole.begin() + pair.continuation_begin, whole.end());
  }
  return pair;
}

// The text of a special token, which stands alone or in an object with its flags.
absl::StatusOr<std::optional<std::string>> SpecialToken(const JsonView& config, const char* key) {
  const auto value = config.Find(key);
  if (!value.has_value() || value->IsNull()) return std::optional<std::string>();
  ASSIGN_OR_RETURN(std::string text,
                   value->IsObject() ? value->GetString("content") : config.GetString(key));
  return std::optional<std::string>(std::move(text));
}

}  // namespace

absl::StatusOr<EncodedPair> EncodePair(const Tokenizer& tokenizer, const std::string& context,
                                       const std::string& continuation,
                                       const EncodingOptions& options) {
  ASSIGN_OR_RETURN(
      EncodedPair pair,
      context.empty() ? EncodeAfterPrefix(tokenizer, continuation, options.prefix_token)
                      : EncodeAfterContext(tokenizer, context, continuation, options.prefix_token));
  const int64_t size = static_cast<int64_t>(pair.tokens.size());
  const int64_t wanted = size - pair.continuation_begin;
  if (pair.continuation_begin == 0) {
    return absl::InvalidArgumentError("the context has no token: it is white space alone");
  }
  if (wanted < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the continuation \"", continuation, "\" adds no token to its context"));
  }
  if (wanted > options.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("the continuation has ", wanted,
                                                   " tokens; the context of the model is ",
                                                   options.max_model_len));
  }
  const int64_t excess = size - (options.max_model_len + 1);
  if (excess > 0) {
    pair.tokens.erase(pair.tokens.begin(), pair.tokens.begin() + excess);
    pair.continuation_begin -= excess;
    pair.truncated = true;
  }
  return pair;
}

absl::StatusOr<std::optional<int32_t>> ReadPrefixToken(const std::string& model_dir,
                                                       const Tokenizer& tokenizer,
                                                       const std::vector<int32_t>& eos_token_ids) {
  const std::string path = absl::StrCat(model_dir, "/tokenizer_config.json");
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    ASSIGN_OR_RETURN(const Json config, Json::ReadFile(path, kMaxConfigBytes));
    if (!config.root().IsObject()) {
      return absl::InvalidArgumentError(absl::StrCat(
          config.root().document(), ": expected an object with the tokenizer's settings"));
    }
    for (const char* key : {"bos_token", "eos_token"}) {
      ASSIGN_OR_RETURN(const auto text, SpecialToken(config.root(), key));
      if (!text.has_value()) continue;
      if (const auto id = tokenizer.TokenToId(*text)) return id;
    }
  }
  if (eos_token_ids.empty()) return std::optional<int32_t>();
  return std::optional<int32_t>(eos_token_ids.front());
}

}  // namespace polystrate
