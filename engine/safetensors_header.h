// The header of a safetensors file: a JSON object from tensor names to dtype, shape and place.
//
// It has a parser of its own because the file is foreign input: a header may have 100 MB, its
// integers need all 63 bits, duplicate names must be seen, and memory must stay in proportion to
// the text. None of that holds for a general JSON tree.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace polystrate {

struct TensorInfo {
  std::string dtype;  // as the file spells it: "F32", "F16", "BF16", "I64", ...
  std::vector<int64_t> shape;
  // Bytes [begin, end) of the data, which starts right after the header. Their number is what dtype
  // and shape need.
  int64_t begin = 0;
  int64_t end = 0;
};

using TensorMap = std::map<std::string, TensorInfo>;

// Parses and validates `text`, the header without its length, of a file with `data_bytes` bytes of
// data. INVALID_ARGUMENT says what is wrong, and with which tensor or at which byte of the header:
// malformed JSON or UTF-8, a duplicate or missing key, an unknown dtype, a negative or overflowing
// size, offsets that disagree with the shape, overlap, leave holes, or do not end with the data.
absl::StatusOr<TensorMap> ParseSafetensorsHeader(absl::string_view text, int64_t data_bytes);

// "[768, 3072]", for messages.
std::string ShapeString(const std::vector<int64_t>& shape);

}  // namespace polystrate
