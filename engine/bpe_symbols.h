// BpeSymbols: the tokens that text starts as, before BPE merges any: one for each byte, or one for
// each character as SentencePiece has it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace polystrate {

// Movable; const and thread-safe once built.
class BpeSymbols {
 public:
  // What becomes of a character that is no token.
  struct Unknown {
    bool byte_fallback = false;  // its UTF-8 bytes, as tokens <0x00> to <0xFF>; if they all exist
    std::optional<int32_t> unk;  // otherwise this token,
    bool fuse_unk = false;       // once for several such characters in a row
  };

  // Text that a token stands for, by id; nullopt for tokens that are no byte strings.
  static BpeSymbols Bytes(const std::vector<std::optional<std::string>>& token_texts);
  // Of tokens that are one character each, and those of `unknown`.
  static BpeSymbols Characters(const std::vector<std::optional<std::string>>& token_texts,
                               const Unknown& unknown);

  // Appends the tokens of `text`, which is valid UTF-8 unless the symbols are bytes.
  // INVALID_ARGUMENT when the vocabulary lacks one and has nothing in its place; `ids` then has
  // some of them.
  absl::Status Append(std::string_view text, std::vector<int32_t>& ids) const;

  // The token of one character or, where the symbols are bytes, of one byte; -1: none. Not empty.
  int32_t Find(std::string_view symbol) const;

 private:
  absl::Status AppendCharacters(std::string_view text, std::vector<int32_t>& ids) const;
  // The bytes of `character` under byte fallback; false, and nothing, if one is not there.
  bool AppendFallback(std::string_view character, std::vector<int32_t>& ids) const;
  int32_t OfCharacter(uint32_t code_point) const;

  bool characters_ = false;
  int32_t single_[256];  // by byte or, of characters, by code point below 128
  absl::flat_hash_map<uint32_t, int32_t> others_;  // by code point
  bool byte_fallback_ = false;
  int32_t fallback_[256];
  int32_t unk_ = -1;
  bool fuse_unk_ = false;
};

}  // namespace polystrate
