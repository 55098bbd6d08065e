// Arguments: what a call in a template passes, and how filters, tests, methods and functions take
// it: by place or by name, as Python does.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

class Heap;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;

  const Value* FindKeyword(std::string_view name) const;
};

// A filter or test: `self | name(arguments)`.
using Callable = absl::StatusOr<Value> (*)(Heap& heap, const Value& self,
                                           const Arguments& arguments);

// Where one argument goes. An optional one that is not passed leaves `*value` as it is.
struct Slot {
  std::string_view name;
  Value* value;
  bool optional = true;
};

// INVALID_ARGUMENT where arguments are too many, of unknown names, passed twice or missing.
absl::Status Take(const Arguments& arguments, absl::Span<const Slot> slots);
inline absl::Status Take(const Arguments& arguments, std::initializer_list<Slot> slots) {
  return Take(arguments, absl::MakeConstSpan(slots.begin(), slots.size()));
}

// INVALID_ARGUMENT "expected WHAT, got a value of type TYPE".
absl::Status WrongType(const Value& value, std::string_view expected);
// INVALID_ARGUMENT that says what `undefined` was.
absl::Status IsUndefinedError(const Undefined& undefined);

}  // namespace polystrate::jinja
