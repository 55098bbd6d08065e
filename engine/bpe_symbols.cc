#include "engine/bpe_symbols.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/byte_fallback.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate {

BpeSymbols BpeSymbols::Bytes(const std::vector<std::optional<std::string>>& token_texts) {
  BpeSymbols symbols;
  std::fill(std::begin(symbols.single_), std::end(symbols.single_), -1);
  for (size_t id = 0; id < token_texts.size(); ++id) {
    if (!token_texts[id].has_value() || token_texts[id]->size() != 1) continue;
    symbols.single_[static_cast<unsigned char>((*token_texts[id])[0])] = static_cast<int32_t>(id);
  }
  return symbols;
}

BpeSymbols BpeSymbols::Characters(const std::vector<std::optional<std::string>>& token_texts,
                                  const Unknown& unknown) {
  BpeSymbols symbols;
  symbols.characters_ = true;
  symbols.byte_fallback_ = unknown.byte_fallback;
  symbols.unk_ = unknown.unk.value_or(-1);
  symbols.fuse_unk_ = unknown.fuse_unk;
  std::fill(std::begin(symbols.single_), std::end(symbols.single_), -1);
  std::fill(std::begin(symbols.fallback_), std::end(symbols.fallback_), -1);
  absl::flat_hash_map<std::string, uint8_t> bytes;
  for (int byte = 0; byte < 256; ++byte) {
    bytes.emplace(ByteToFallback(static_cast<uint8_t>(byte)), static_cast<uint8_t>(byte));
  }
  for (size_t i = 0; i < token_texts.size(); ++i) {
    if (!token_texts[i].has_value() || token_texts[i]->empty()) continue;
    const std::string& text = *token_texts[i];
    const auto id = static_cast<int32_t>(i);
    if (const auto byte = bytes.find(text); byte != bytes.end()) {
      symbols.fallback_[byte->second] = id;
    }
    const Utf8Step step = DecodeUtf8(text);
    if (step.num_bytes != text.size()) continue;
    (step.code_point < 0x80 ? symbols.single_[step.code_point] : symbols.others_[step.code_point]) =
        id;
  }
  return symbols;
}

int32_t BpeSymbols::OfCharacter(uint32_t code_point) const {
  if (code_point < 0x80) return single_[code_point];
  const auto found = others_.find(code_point);
  return found == others_.end() ? -1 : found->second;
}

int32_t BpeSymbols::Find(std::string_view symbol) const {
  if (!characters_) return symbol.size() == 1 ? single_[static_cast<unsigned char>(symbol[0])] : -1;
  return OfCharacter(DecodeUtf8(symbol).code_point);
}

absl::Status BpeSymbols::Append(std::string_view text, std::vector<int32_t>& ids) const {
  if (characters_) return AppendCharacters(text, ids);
  for (const char c : text) {
    const int32_t id = single_[static_cast<unsigned char>(c)];
    if (id < 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the tokenizer's vocabulary lacks the byte 0x%02x, which the text needs",
                          static_cast<unsigned char>(c)));
    }
    ids.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status BpeSymbols::AppendCharacters(std::string_view text, std::vector<int32_t>& ids) const {
  // An unknown token waits for the next known character, so that others may fuse with it. As in
  // `tokenizers`, bytes do not end the wait and come before it.
  bool waiting = false;
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    const std::string_view character = text.substr(0, step.num_bytes);
    text.remove_prefix(step.num_bytes);
    if (const int32_t id = OfCharacter(step.code_point); id >= 0) {
      if (waiting) ids.push_back(unk_);
      waiting = false;
      ids.push_back(id);
      continue;
    }
    if (byte_fallback_ && AppendFallback(character, ids)) continue;
    if (unk_ < 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the tokenizer's vocabulary lacks the character U+%04X, which the text needs, and a "
          "token for what is unknown",
          step.code_point));
    }
    if (waiting && !fuse_unk_) ids.push_back(unk_);
    waiting = true;
  }
  if (waiting) ids.push_back(unk_);
  return absl::OkStatus();
}

bool BpeSymbols::AppendFallback(std::string_view character, std::vector<int32_t>& ids) const {
  for (const char c : character) {
    if (fallback_[static_cast<unsigned char>(c)] < 0) return false;
  }
  for (const char c : character) ids.push_back(fallback_[static_cast<unsigned char>(c)]);
  return true;
}

}  // namespace polystrate
