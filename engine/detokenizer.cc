#include "engine/detokenizer.h"

#include "engine/utf8.h"

namespace polystrate {

std::string Detokenizer::Append(int32_t token_id) {
  if (skip_special_tokens_ && tokenizer_.IsSpecial(token_id)) return {};
  held_back_ += tokenizer_.TokenBytes(token_id);
  std::string text;
  held_back_.erase(0, AppendDecodable(held_back_, text));
  return text;
}

std::string Detokenizer::Flush() {
  if (held_back_.empty()) return {};
  held_back_.clear();
  return std::string(kReplacement);
}

}  // namespace polystrate
