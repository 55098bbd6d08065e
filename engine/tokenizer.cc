#include "engine/tokenizer.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "engine/detokenizer.h"
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
  for (const SplitPattern& split : parts.splits) {
    absl::StatusOr<PreTokenizer> pre_tokenizer =
        PreTokenizer::Create(split.expression, split.behavior);
    if (!pre_tokenizer.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: \"pre_tokenizer\": %s", json.root().document(),
                          std::string(pre_tokenizer.status().message())));
    }
    pre_tokenizers.push_back(*std::move(pre_tokenizer));
  }
  BpeSymbols symbols = parts.byte_level ? BpeSymbols::Bytes(parts.model_texts)
                                        : BpeSymbols::Characters(parts.model_texts, parts.unknown);
  Bpe bpe = Bpe::Create(std::move(symbols), parts.model_texts, parts.merges, parts.ignore_merges);
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::move(parts), std::move(bpe), std::move(pre_tokenizers)));
}

Tokenizer::Tokenizer(TokenizerParts parts, Bpe bpe, std::vector<PreTokenizer> pre_tokenizers)
    : bpe_(std::move(bpe)),
      normalizer_(std::move(parts.normalizer)),
      metaspace_(std::move(parts.metaspace)),
      add_prefix_space_(parts.add_prefix_space),
      pre_tokenizers_(std::move(pre_tokenizers)),
      post_processor_(std::move(parts.post_processor)),
      decoder_(std::move(parts.decoder)) {
  tokens_.resize(parts.tokens.size());
  if (decoder_.first_differs()) first_bytes_.resize(tokens_.size());
  ids_.reserve(tokens_.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    tokens_[id].text = std::move(parts.tokens[id]);
    SetToken(id, tokens_[id].text);
    ids_.emplace(tokens_[id].text, static_cast<int32_t>(id));
  }
  AddAddedTokens(std::move(parts.added));
}

void Tokenizer::SetToken(size_t id, std::string_view spelling) {
  tokens_[id].bytes = decoder_.Bytes(spelling);
  tokens_[id].fallback_byte = decoder_.FallbackByte(spelling).has_value();
  if (!first_bytes_.empty()) first_bytes_[id] = decoder_.FirstBytes(spelling);
}

void Tokenizer::AddAddedTokens(std::vector<AddedToken> added_tokens) {
  absl::flat_hash_set<std::string> specials;
  for (const AddedToken& added : added_tokens) {
    if (added.special) specials.insert(added.content);
  }
  // Of equal normalised contents the first counts, and special tokens come first.
  for (const bool special : {true, false}) {
    for (AddedToken& added : added_tokens) {
      if (added.special != special) continue;
      const auto id = static_cast<size_t>(added.id);
      if (!added.normalized) {
        tokens_[id].special = special;
        added_raw_.Add(added);
        continue;
      }
      // `tokenizers` decodes the normalised form, and leaves out what is the name of a special
      // token in this form: one that normalisation changes stays in the text.
      std::string storage;
      added.content = std::string(normalizer_.Apply(added.content, storage));
      tokens_[id].special = specials.contains(added.content);
      SetToken(id, added.content);
      if (!added.content.empty()) added_normalized_.Add(added);
    }
  }
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       AddSpecialTokens add) const {
  if (const size_t valid = FirstInvalidUtf8(text); valid != text.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the text is not valid UTF-8: byte 0x%02x at offset %d",
                        static_cast<unsigned char>(text[valid]), valid));
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + post_processor_.prefix.size() + post_processor_.suffix.size());
  const bool special = add == AddSpecialTokens::kYes;
  if (special) ids = post_processor_.prefix;
  RETURN_IF_ERROR(EncodeText(text, ids));
  if (special) {
    ids.insert(ids.end(), post_processor_.suffix.begin(), post_processor_.suffix.end());
  }
  return ids;
}

absl::Status Tokenizer::EncodeText(std::string_view text, std::vector<int32_t>& ids) const {
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
    const std::string_view normalized = normalizer_.Apply(raw.text, storage);
    added_normalized_.Split(normalized, pieces);
    for (const TextPiece& piece : pieces) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
        continue;
      }
      const bool starts_text =
          raw.text.data() == text.data() && piece.text.data() == normalized.data();
      RETURN_IF_ERROR(EncodePiece(piece.text, starts_text, scratch, ids));
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::EncodePiece(std::string_view piece, bool starts_text,
                                    PreTokenizer::Scratch& scratch,
                                    std::vector<int32_t>& ids) const {
  std::string changed;
  std::vector<std::string_view> words;
  if (metaspace_.has_value()) {
    changed = metaspace_->Mark(piece, starts_text);
    metaspace_->Split(changed, words);
  } else if (add_prefix_space_ && !piece.starts_with(' ')) {
    changed = " " + std::string(piece);
    words = {changed};
  } else {
    words = {piece};
  }
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
  std::string text;
  if (decoder_.byte_level()) {  // the same, four times as fast as in pieces
    std::string bytes;
    for (const int32_t id : ids) {
      if (!skip_special_tokens || !IsSpecial(id)) bytes += TokenBytes(id);
    }
    if (AppendDecodable(bytes, text) != bytes.size()) text += kReplacement;
    return text;
  }
  Detokenizer detokenizer(*this, skip_special_tokens);
  for (const int32_t id : ids) detokenizer.AppendTo(id, text);
  return text + detokenizer.Flush();
}

std::string Tokenizer::TokenText(int32_t id) const {
  if (IsSpecial(id)) return std::string(IdToToken(id));
  const std::string_view bytes = TokenBytes(id);
  std::string text;
  if (AppendDecodable(bytes, text) != bytes.size()) text += kReplacement;
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return tokens_[static_cast<size_t>(id)].bytes;
}

std::string_view Tokenizer::FirstTokenBytes(int32_t id) const {
  if (first_bytes_.empty() || id < 0 || id >= vocab_size()) return TokenBytes(id);
  return first_bytes_[static_cast<size_t>(id)];
}

bool Tokenizer::IsFallbackByte(int32_t id) const {
  return id >= 0 && id < vocab_size() && tokens_[static_cast<size_t>(id)].fallback_byte;
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
