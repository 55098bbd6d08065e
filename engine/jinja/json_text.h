// JSON to values and back, as Python's json module does: keys keep their order, 1 is an integer
// and 1.0 is not.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

inline constexpr int kMaxJsonNesting = 64;

// One JSON value. INVALID_ARGUMENT says at which byte of `document` (the text's name in messages)
// what is wrong: nesting over kMaxJsonNesting, invalid UTF-8, lone surrogates and numbers outside
// double's range are. The last of equal keys wins. Integers outside 64 bits become floats.
absl::StatusOr<Value> ReadJson(std::string_view text, std::string_view document);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool lines = false;  // each item on a line of its own
  std::string indent;  // of each level, where `lines`
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// json.dumps. Errors: Heap's, and what JSON has no word for (undefined, a macro, a generator).
absl::StatusOr<std::string> WriteJson(Heap& heap, const Value& value, const JsonStyle& style);

}  // namespace polystrate::jinja
