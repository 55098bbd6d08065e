// Metaspace: SentencePiece's way with spaces (Kudo and Richardson 2018, arXiv:1808.06226). Each
// space becomes a visible mark, mostly U+2581, and words begin with theirs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/json.h"

namespace polystrate {

// The pre-tokenizer of that name in tokenizer.json, and its decoder.
struct Metaspace {
  enum Prepend : uint8_t {
    kAlways,  // every piece of text between added tokens starts with a mark
    kFirst,   // only what starts the text
    kNever,
  };
  std::string mark = "\u2581";  // one character
  Prepend prepend = kAlways;
  bool split = true;  // every mark begins a word of its own

  // INVALID_ARGUMENT where `component`, which stands under the key `where`, holds other values.
  static absl::StatusOr<Metaspace> Read(const JsonView& component, std::string_view where);

  // `piece` with its spaces marked, and a mark before it where `prepend` says so and none is there.
  std::string Mark(std::string_view piece, bool starts_text) const;

  // Appends the words of `marked`, views into it.
  void Split(std::string_view marked, std::vector<std::string_view>& words) const;
};

}  // namespace polystrate
