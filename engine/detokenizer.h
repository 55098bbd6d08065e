// Detokenizer: token ids to text one at a time, for streams.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/tokenizer.h"

namespace polystrate {

// What Append and Flush returned, joined, is Tokenizer::Decode of all the ids. Each piece by itself
// is valid UTF-8. Held back is what later tokens may change:
//   of a byte-level tokenizer the bytes of a character that is not complete yet, at most three;
//   of byte fallback the valid bytes of a run until it ends, since one invalid byte spoils them
//   all.
// One sequence, one Detokenizer; not thread-safe. `tokenizer` must outlive it.
class Detokenizer {
 public:
  // With a `prompt` that has text the tokens continue it: they are not the first of a text, whose
  // space some tokenizers drop.
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens = true,
                       std::span<const int32_t> prompt = {});

  // The text that became certain with this token, often empty in the middle of a character.
  std::string Append(int32_t token_id);
  void AppendTo(int32_t token_id, std::string& text);

  // The end of the sequence: what is held back, U+FFFD in place of what is incomplete.
  std::string Flush();

 private:
  bool IsText(int32_t token_id) const;
  void AppendBytes(std::string_view bytes, std::string& text);
  void AppendFallbackByte(std::string_view byte, std::string& text);
  void EndRun(std::string& text);
  // Appends `piece` without what is stripped from the start of the whole text.
  void AppendStripped(std::string_view piece, std::string& text);

  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  bool first_ = true;         // no token yet
  int64_t strip_left_;        // characters at the start that may still be stripped
  std::string held_back_;     // of a run: all its bytes
  size_t run_valid_ = 0;      // held_back_[0, run_valid_) is whole characters
  bool run_invalid_ = false;  // its bytes have been given as U+FFFD
};

}  // namespace polystrate
