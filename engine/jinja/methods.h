// Methods of texts, lists and objects, as Python's types have them.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

enum class MethodKind : uint8_t {
  kNone,       // the type has no such method
  kKnown,      // it has; whether it can be called here shows when it is
  kForbidden,  // it changes the value, which templates may not
};

MethodKind FindMethod(const Value& self, std::string_view name);

// INVALID_ARGUMENT also where Python has the method and this does not.
absl::StatusOr<Value> CallMethod(Heap& heap, const Value& self, std::string_view name,
                                 const Arguments& arguments);

// Of texts; `self` is one.
absl::StatusOr<Value> CallStringMethod(Heap& heap, const Value& self, std::string_view name,
                                       const Arguments& arguments);

// text.split(separator, most) and rsplit, `separator` none for white space; most -1 for all.
absl::StatusOr<Value> SplitText(Heap& heap, const std::string& text, const Value& separator,
                                int64_t most, bool from_right);
// text.replace(...), bounded.
absl::StatusOr<Value> ReplaceText(Heap& heap, std::string_view text, std::string_view from,
                                  std::string_view to, int64_t count);
// Lines without their ends, by Python's idea of line ends.
std::vector<std::string_view> SplitLines(std::string_view text);
// separator.join(items), of any values.
absl::StatusOr<Value> JoinTexts(Heap& heap, std::string_view separator,
                                const std::vector<Value>& items);

}  // namespace polystrate::jinja
