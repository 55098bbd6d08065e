// Loop: what `loop` is within a `for`.
#pragma once

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

struct Loop {
  Value sequence;
  int64_t index0 = 0;

  const std::vector<Value>& items() const { return sequence.items(); }
};

// loop.index and the like; nullopt: there is no such attribute.
std::optional<Value> LoopAttribute(const Loop& loop, std::string_view name);

// loop.cycle(...)
absl::StatusOr<Value> CallLoop(const Loop& loop, std::string_view name, const Arguments& arguments);

}  // namespace polystrate::jinja
