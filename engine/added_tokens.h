// AddedTokens: finds tokens that stand outside the model's vocabulary or are matched before it,
// such as <|endoftext|>, in text. The semantics are those of Hugging Face's `tokenizers`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace polystrate {

// One entry of "added_tokens" in tokenizer.json.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // left out when decoding with skip_special_tokens
  bool lstrip = false;       // swallows white space to its left
  bool rstrip = false;       // swallows white space to its right
  bool single_word = false;  // no match inside a word
  bool normalized = false;   // sought in normalised text, otherwise in the text as it came
};

// A piece of a text: an added token, or (id < 0) what lies between them.
struct TextPiece {
  std::string_view text;
  int32_t id = -1;
};

// Finds the leftmost, among those the longest, added token, then goes on behind it. Built once,
// then const and thread-safe. Time is linear in the text times the longest token.
class AddedTokens {
 public:
  // Where two contents are equal the first added wins. Contents must not be empty. For a normalised
  // token `content` is its normalised form.
  void Add(const AddedToken& token);

  // Appends the pieces of `text`, views into it, none of them empty.
  void Split(std::string_view text, std::vector<TextPiece>& pieces) const;

 private:
  struct Match {
    size_t end = 0;  // 0: no match
    int32_t token = -1;
  };
  Match LongestAt(std::string_view text, size_t begin) const;

  std::vector<AddedToken> tokens_;
  // A trie: (node << 8 | byte) -> child; node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> children_;
  std::vector<int32_t> token_at_node_ = {-1};  // index into tokens_
  bool starts_token_[256] = {};                // by first byte
};

}  // namespace polystrate
