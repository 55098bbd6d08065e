// Tokenizer: text to token ids and back, read from Hugging Face's tokenizer.json.
//
// The family it knows is byte-level BPE (GPT-2, GPT-NeoX/Pythia, OLMo, Llama 3, ...), with the ids
// that `tokenizers` gives. What else a file may ask for is refused by name when it is read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/added_tokens.h"
#include "engine/bpe.h"
#include "engine/json.h"
#include "engine/normalizer.h"
#include "engine/pre_tokenizer.h"

namespace polystrate {

// Everything a tokenizer.json says, checked (tokenizer_file.h).
struct TokenizerParts {
  std::vector<std::string> tokens;  // by id, as the file spells them; ids have no gaps
  std::vector<std::optional<std::string>>
      model_bytes;  // of the model's own tokens, which come first
  std::vector<Bpe::Merge> merges;
  std::vector<AddedToken> added;
  bool ignore_merges = false;
  bool add_prefix_space = false;
  Normalization normalization = Normalization::kNone;
  std::vector<std::string> patterns;  // each cuts further what the ones before it left whole
};

// Const and thread-safe: gRPC threads encode while the engine decodes.
class Tokenizer {
 public:
  // `path` is a tokenizer.json. NOT_FOUND or INVALID_ARGUMENT say what is wrong in it and where.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> ReadFile(const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(const Json& json);

  // The ids of `text`, nothing put before or after. INVALID_ARGUMENT when it is no valid UTF-8 or
  // needs a byte that the vocabulary lacks.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const;

  // The text of `ids`. Bytes that are no UTF-8 become U+FFFD; ids without a token (a model's
  // embedding may have more rows than the tokenizer has tokens) stand for nothing.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // Ids are [0, vocab_size()).
  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }
  // The bytes of text that a token stands for; empty for ids without a token.
  std::string_view TokenBytes(int32_t id) const;
  // The spelling in tokenizer.json, where a space is U+0120; empty for ids without a token.
  std::string_view IdToToken(int32_t id) const;
  std::optional<int32_t> TokenToId(std::string_view token) const;
  bool IsSpecial(int32_t id) const;

 private:
  struct Token {
    std::string text;
    std::string bytes;
    bool special = false;
  };
  Tokenizer(TokenizerParts parts, Bpe bpe, std::vector<PreTokenizer> pre_tokenizers);
  // `piece` has no added tokens in it.
  absl::Status EncodePiece(std::string_view piece, PreTokenizer::Scratch& scratch,
                           std::vector<int32_t>& ids) const;

  std::vector<Token> tokens_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  Bpe bpe_;
  AddedTokens added_raw_;         // sought in the text as it came
  AddedTokens added_normalized_;  // sought in what remains, normalised
  Normalization normalization_;
  bool add_prefix_space_;
  std::vector<PreTokenizer> pre_tokenizers_;
};

}  // namespace polystrate
