// TokenDecoder: what a token's spelling in tokenizer.json stands for in text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/json.h"
#include "engine/tokenizer_json.h"

namespace polystrate {

// "decoder" of tokenizer.json, in one of two forms:
//   ByteLevel: tokens are bytes in GPT-2's alphabet (byte_level.h).
//   Of characters: Replace (of a String), ByteFallback, Fuse, Strip (at the start) and Metaspace,
//   as far as they can be done token by token, which all published orders of them can.
// Const and thread-safe.
class TokenDecoder {
 public:
  // INVALID_ARGUMENT names what is not known.
  static absl::StatusOr<TokenDecoder> Read(const JsonView& root);

  bool byte_level() const { return byte_level_; }

  // The bytes of text of a token spelled so. Of characters: valid UTF-8, but for FallbackByte.
  std::string Bytes(std::string_view spelling) const;

  // The byte that a token stands for under byte fallback. Such tokens count in runs: the bytes of a
  // whole run become its text (RunText) if they are valid UTF-8, otherwise a U+FFFD each.
  std::optional<uint8_t> FallbackByte(std::string_view spelling) const;
  std::string RunText(std::string_view bytes) const;

  // Whether a token may mean another text where it is the first of all, and that text: without the
  // marks of spaces.
  bool first_differs() const { return !first_mark_.empty(); }
  std::string FirstBytes(std::string_view spelling) const;

  // The whole text loses up to strip_count() of these at its start.
  const std::string& strip() const { return strip_; }
  int64_t strip_count() const { return strip_count_; }

 private:
  struct Replacement {
    std::string pattern;
    std::string content;
    bool in_runs = false;  // also in the text of byte runs
  };
  // Where in the sequence the reader is.
  struct Progress {
    bool byte_fallback = false;
    bool fused = false;
    bool stripped = false;
    TextGrowth growth{"decoder"};
  };
  absl::Status ReadStep(const JsonView& step, Progress& progress);
  absl::Status ReadReplace(const JsonView& step, Progress& progress);
  absl::Status ReadStrip(const JsonView& step, const Progress& progress);
  absl::Status ReadMetaspace(const JsonView& step);

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  std::vector<Replacement> replacements_;  // one after the other
  std::string first_mark_;                 // left out of the first token; empty: nothing is
  std::string strip_;
  int64_t strip_count_ = 0;
};

}  // namespace polystrate
