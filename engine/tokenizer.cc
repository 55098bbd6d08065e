#include "engine/tokenizer.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "engine/byte_level.h"
#include "engine/tokenizer_file.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate {

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::ReadFile(const std::string& path) {
  ASSIGN_OR_RETURN(const Json json, Json::ReadFile(path, kMaxTokenizerFileBytes));
  return FromJson(json);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(const Json& json) {
  ASSIGN_OR_RETURN(TokenizerParts parts, ReadTokenizerParts(json.root()));
  std::vector<PreTokenizer> pre_tokenizers;
  for (const std::string& pattern : parts.patterns) {
    absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(pattern);
    if (!pre_tokenizer.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: \"pre_tokenizer\": %s", json.root().document(),
                          std::string(pre_tokenizer.status().message())));
    }
    pre_tokenizers.push_back(*std::move(pre_tokenizer));
  }
  Bpe bpe = Bpe::Create(parts.model_bytes, parts.merges, parts.ignore_merges);
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::move(parts), std::move(bpe), std::move(pre_tokenizers)));
}

Tokenizer::Tokenizer(TokenizerParts parts, Bpe bpe, std::vector<PreTokenizer> pre_tokenizers)
    : bpe_(std::move(bpe)),
      normalization_(parts.normalization),
      add_prefix_space_(parts.add_prefix_space),
      pre_tokenizers_(std::move(pre_tokenizers)) {
  tokens_.resize(parts.tokens.size());
  ids_.reserve(tokens_.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    Token& token = tokens_[id];
    token.text = std::move(parts.tokens[id]);
    // A token that the alphabet cannot spell, such as a run of plain spaces, stands for itself.
    // Added tokens that it can spell are bytes too: this is how `tokenizers` decodes them.
    token.bytes = AlphabetToBytes(token.text).value_or(token.text);
    ids_.emplace(token.text, static_cast<int32_t>(id));
  }
  // Of equal normalised contents the first counts, and special tokens come first.
  for (const bool special : {true, false}) {
    for (AddedToken& added : parts.added) {
      if (added.special != special) continue;
      tokens_[static_cast<size_t>(added.id)].special = special;
      if (!added.normalized) {
        added_raw_.Add(added);
        continue;
      }
      std::string storage;
      added.content = std::string(Normalize(normalization_, added.content, storage));
      tokens_[static_cast<size_t>(added.id)].bytes =
          AlphabetToBytes(added.content).value_or(added.content);
      added_normalized_.Add(added);
    }
  }
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text) const {
  if (const size_t valid = FirstInvalidUtf8(text); valid != text.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the text is not valid UTF-8: byte 0x%02x at offset %d",
                        static_cast<unsigned char>(text[valid]), valid));
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4);
  PreTokenizer::Scratch scratch;
  std::string storage;
  std::vector<TextPiece> raw_pieces;
  std::vector<TextPiece> pieces;
  added_raw_.Split(text, raw_pieces);
  for (const TextPiece& raw : raw_pieces) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    pieces.clear();
    added_normalized_.Split(Normalize(normalization_, raw.text, storage), pieces);
    for (const TextPiece& piece : pieces) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
      } else {
        RETURN_IF_ERROR(EncodePiece(piece.text, scratch, ids));
      }
    }
  }
  return ids;
}

absl::Status Tokenizer::EncodePiece(std::string_view piece, PreTokenizer::Scratch& scratch,
                                    std::vector<int32_t>& ids) const {
  std::string prefixed;
  if (add_prefix_space_ && !piece.starts_with(' ')) {
    prefixed = " " + std::string(piece);
    piece = prefixed;
  }
  std::vector<std::string_view> words = {piece};
  std::vector<std::string_view> cut;
  for (const PreTokenizer& pre_tokenizer : pre_tokenizers_) {
    cut.clear();
    for (const std::string_view word : words)
      RETURN_IF_ERROR(pre_tokenizer.Split(word, scratch, cut));
    words.swap(cut);
  }
  for (const std::string_view word : words) RETURN_IF_ERROR(bpe_.Encode(word, ids));
  return absl::OkStatus();
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special_tokens && IsSpecial(id)) continue;
    bytes += TokenBytes(id);
  }
  std::string text;
  if (AppendDecodable(bytes, text) != bytes.size()) text += kReplacement;
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return tokens_[static_cast<size_t>(id)].bytes;
}

std::string_view Tokenizer::IdToToken(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return tokens_[static_cast<size_t>(id)].text;
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const auto found = ids_.find(absl::string_view(token.data(), token.size()));
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && tokens_[static_cast<size_t>(id)].special;
}

}  // namespace polystrate
