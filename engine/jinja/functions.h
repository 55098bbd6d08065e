// Functions that a template finds defined.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

enum class Function : uint8_t {
  kRange,
  kDict,
  kNamespace,       // the interpreter's: it owns them
  kRaiseException,  // the interpreter's: it ends the render
  kStrftimeNow,
};

std::optional<Function> FindFunction(std::string_view name);

absl::StatusOr<Value> CallRange(Heap& heap, const Arguments& arguments);
// dict(object or pairs, name=value...)
absl::StatusOr<Value> CallDict(Heap& heap, const Arguments& arguments);
// strftime_now(format), of `now` in local time.
absl::StatusOr<Value> CallStrftime(Heap& heap, const Arguments& arguments, absl::Time now);

}  // namespace polystrate::jinja
