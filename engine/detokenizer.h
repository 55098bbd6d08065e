// Detokenizer: token ids to text one at a time, for streams.
#pragma once

#include <cstdint>
#include <string>

#include "engine/tokenizer.h"

namespace polystrate {

// What Append and Flush returned, joined, is Tokenizer::Decode of all the ids. Each piece by itself
// is valid UTF-8: the bytes of a character that is not complete yet are held back (at most three).
// One sequence, one Detokenizer; not thread-safe. `tokenizer` must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens = true)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // The text that became certain with this token, often empty in the middle of a character.
  std::string Append(int32_t token_id);

  // The end of the sequence: U+FFFD if a character is still incomplete, otherwise nothing.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  std::string held_back_;
};

}  // namespace polystrate
