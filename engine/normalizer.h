// Normalizer: what is done to text before it is split into tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/json.h"

namespace polystrate {

// `text` with each `pattern` (not empty) replaced, from the left.
std::string ReplaceAll(std::string_view text, std::string_view pattern, std::string_view content);

// Const and thread-safe.
class Normalizer {
 public:
  struct Step {
    // NFC is that of Unicode 9.0, which is what Hugging Face's `tokenizers` has.
    enum Kind : uint8_t { kNfc, kPrepend, kReplace };
    Kind kind = kNfc;
    std::string pattern;  // of kReplace, not empty
    std::string content;  // of kReplace and kPrepend
  };

  Normalizer() = default;  // changes nothing
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  // "normalizer" of tokenizer.json: null, or NFC, Prepend and Replace (of a String), in any order.
  // INVALID_ARGUMENT names all else.
  static absl::StatusOr<Normalizer> Read(const JsonView& root);

  // The normalised form of `text`, which must be valid UTF-8. When nothing changes the result is
  // `text` itself, otherwise it lies in `storage`. Nothing is put before an empty text.
  std::string_view Apply(std::string_view text, std::string& storage) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace polystrate
