// Formatting: Python's two ways to put values into a text.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

// format % values, `values` one or a tuple of them: %s %r %d %i %x %f %e %g %%, with flags, width
// and precision.
absl::StatusOr<Value> PercentFormat(Heap& heap, const std::string& format, const Value& values);

// format.format(...): {}, {0}, {name}, {name.attribute}, {name[key]}, !r and !s, and after a colon
// fill, alignment, sign, 0, width, comma, precision and type.
absl::StatusOr<Value> BraceFormat(Heap& heap, const std::string& format,
                                  const Arguments& arguments);

}  // namespace polystrate::jinja
