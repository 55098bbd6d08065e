// PostProcessor: the special tokens that a model wants before and after a text, such as <s>.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/json.h"

namespace polystrate {

struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;

  // "post_processor" of tokenizer.json: null, ByteLevel (it only moves offsets) and
  // TemplateProcessing, whose template for a single text counts; in a Sequence the later ones wrap
  // what the earlier made. INVALID_ARGUMENT names all else, and ids outside [0, vocab_size).
  static absl::StatusOr<PostProcessor> Read(const JsonView& root, int64_t vocab_size);
};

}  // namespace polystrate
