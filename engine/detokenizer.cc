#include "engine/detokenizer.h"

#include <algorithm>

#include "engine/utf8.h"

namespace polystrate {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens,
                         std::span<const int32_t> prompt)
    : tokenizer_(tokenizer),
      skip_special_tokens_(skip_special_tokens),
      strip_left_(tokenizer.decoder().strip_count()) {
  if (std::any_of(prompt.begin(), prompt.end(), [this](int32_t id) { return IsText(id); })) {
    first_ = false;
    strip_left_ = 0;
  }
}

bool Detokenizer::IsText(int32_t token_id) const {
  if (token_id < 0 || token_id >= tokenizer_.vocab_size()) return false;
  return !(skip_special_tokens_ && tokenizer_.IsSpecial(token_id));
}

std::string Detokenizer::Append(int32_t token_id) {
  std::string text;
  AppendTo(token_id, text);
  return text;
}

void Detokenizer::AppendTo(int32_t token_id, std::string& text) {
  if (!IsText(token_id)) return;
  const std::string_view bytes =
      first_ ? tokenizer_.FirstTokenBytes(token_id) : tokenizer_.TokenBytes(token_id);
  first_ = false;
  if (tokenizer_.decoder().byte_level()) {
    AppendBytes(bytes, text);
  } else if (tokenizer_.IsFallbackByte(token_id)) {
    AppendFallbackByte(bytes, text);
  } else {
    EndRun(text);
    AppendStripped(bytes, text);
  }
}

void Detokenizer::AppendBytes(std::string_view bytes, std::string& text) {
  if (held_back_.empty()) {  // mostly
    held_back_ = bytes.substr(AppendDecodable(bytes, text));
    return;
  }
  held_back_ += bytes;
  held_back_.erase(0, AppendDecodable(held_back_, text));
}

void Detokenizer::AppendFallbackByte(std::string_view byte, std::string& text) {
  if (run_invalid_) return AppendStripped(kReplacement, text);
  held_back_ += byte;
  const Utf8Step step = DecodeUtf8(std::string_view(held_back_).substr(run_valid_));
  if (step.status == Utf8Step::kValid) run_valid_ = held_back_.size();
  if (step.status != Utf8Step::kInvalid) return;
  for (size_t i = 0; i < held_back_.size(); ++i) AppendStripped(kReplacement, text);
  held_back_.clear();
  run_valid_ = 0;
  run_invalid_ = true;
}

void Detokenizer::EndRun(std::string& text) {
  if (run_valid_ == held_back_.size()) {
    if (run_valid_ > 0) AppendStripped(tokenizer_.decoder().RunText(held_back_), text);
  } else {
    for (size_t i = 0; i < held_back_.size(); ++i) AppendStripped(kReplacement, text);
  }
  held_back_.clear();
  run_valid_ = 0;
  run_invalid_ = false;
}

void Detokenizer::AppendStripped(std::string_view piece, std::string& text) {
  const std::string& strip = tokenizer_.decoder().strip();
  while (strip_left_ > 0 && piece.starts_with(strip)) {
    piece.remove_prefix(strip.size());
    --strip_left_;
  }
  if (!piece.empty()) strip_left_ = 0;
  text += piece;
}

std::string Detokenizer::Flush() {
  std::string text;
  if (!tokenizer_.decoder().byte_level()) {
    EndRun(text);
  } else if (!held_back_.empty()) {
    held_back_.clear();
    text = kReplacement;
  }
  return text;
}

}  // namespace polystrate
