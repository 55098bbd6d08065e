// Tokenizer: text to token ids and back, read from Hugging Face's tokenizer.json.
//
// It knows BPE in two families, with the ids that `tokenizers` gives: over bytes (GPT-2,
// GPT-NeoX/Pythia, Llama 3, Qwen, ...) and over characters as SentencePiece has it (Llama 2,
// Mistral, Gemma, ...). What else a file may ask for is refused by name when it is read.
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
#include "engine/bpe_symbols.h"
#include "engine/json.h"
#include "engine/metaspace.h"
#include "engine/normalizer.h"
#include "engine/post_processor.h"
#include "engine/pre_tokenizer.h"
#include "engine/token_decoder.h"

namespace polystrate {

struct SplitPattern {
  std::string expression;
  SplitBehavior behavior = SplitBehavior::kIsolated;
};

// Everything a tokenizer.json says, checked (tokenizer_file.h).
struct TokenizerParts {
  std::vector<std::string> tokens;  // by id, as the file spells them; ids have no gaps
  // What the model's own tokens, which come first, stand for once text is normalised.
  std::vector<std::optional<std::string>> model_texts;
  std::vector<Bpe::Merge> merges;
  std::vector<AddedToken> added;
  bool ignore_merges = false;
  bool byte_level = false;      // otherwise BPE is over characters
  BpeSymbols::Unknown unknown;  // of characters
  bool add_prefix_space = false;
  Normalizer normalizer;
  std::optional<Metaspace> metaspace;  // marks and cuts first
  std::vector<SplitPattern> splits;    // each cuts further what the ones before it left whole
  PostProcessor post_processor;
  TokenDecoder decoder;
};

// Whether a text gets the special tokens that the file's post-processor wants around it.
enum class AddSpecialTokens : bool { kNo, kYes };

// Const and thread-safe: gRPC threads encode while the engine decodes.
class Tokenizer {
 public:
  // `path` is a tokenizer.json. NOT_FOUND or INVALID_ARGUMENT say what is wrong in it and where.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> ReadFile(const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(const Json& json);

  // The ids of `text`, by default as a prompt is encoded: with what the model wants before and
  // after it, such as <s>, as Hugging Face and vLLM do. INVALID_ARGUMENT when it is no valid UTF-8
  // or needs a byte or character that the vocabulary lacks and has no token for.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              AddSpecialTokens add = AddSpecialTokens::kYes) const;

  // The text of `ids`, as a Detokenizer gives it. Bytes that are no UTF-8 become U+FFFD; ids
  // without a token (a model's embedding may have more rows than the tokenizer has tokens) stand
  // for nothing.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;
  // What one token reads by itself, a special one as it is spelled: bytes that are no UTF-8, as the
  // parts of a character, become U+FFFD.
  std::string TokenText(int32_t id) const;

  // Ids are [0, vocab_size()).
  int32_t vocab_size() const { return static_cast<int32_t>(tokens_.size()); }
  // The bytes of text that a token stands for; empty for ids without a token. FirstTokenBytes is
  // for the first token of a text, whose space may go (TokenDecoder).
  std::string_view TokenBytes(int32_t id) const;
  std::string_view FirstTokenBytes(int32_t id) const;
  // Whether TokenBytes is a byte out of a run (TokenDecoder::FallbackByte).
  bool IsFallbackByte(int32_t id) const;
  // The spelling in tokenizer.json, where a space is U+0120 or U+2581; empty for ids without a
  // token.
  std::string_view IdToToken(int32_t id) const;
  std::optional<int32_t> TokenToId(std::string_view token) const;
  bool IsSpecial(int32_t id) const;
  const TokenDecoder& decoder() const { return decoder_; }

 private:
  struct Token {
    std::string text;
    std::string bytes;
    bool special = false;
    bool fallback_byte = false;
  };
  Tokenizer(TokenizerParts parts, Bpe bpe, std::vector<PreTokenizer> pre_tokenizers);
  // What token `id` stands for, which the decoder finds spelled so.
  void SetToken(size_t id, std::string_view spelling);
  void AddAddedTokens(std::vector<AddedToken> added);
  absl::Status EncodeText(std::string_view text, std::vector<int32_t>& ids) const;
  // `piece` has no added tokens in it.
  absl::Status EncodePiece(std::string_view piece, bool starts_text, PreTokenizer::Scratch& scratch,
                           std::vector<int32_t>& ids) const;

  std::vector<Token> tokens_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  Bpe bpe_;
  AddedTokens added_raw_;         // sought in the text as it came
  AddedTokens added_normalized_;  // sought in what remains, normalised
  Normalizer normalizer_;
  std::optional<Metaspace> metaspace_;
  bool add_prefix_space_;
  std::vector<PreTokenizer> pre_tokenizers_;
  PostProcessor post_processor_;
  TokenDecoder decoder_;
  std::vector<std::string> first_bytes_;  // by id; none where no token differs
};

}  // namespace polystrate
