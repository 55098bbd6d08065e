// How Python prints values: str() and repr().
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

// The shortest digits that read back as the same double, as Python writes them: 1.0, 1e-05, inf.
std::string FloatText(double value);
// repr of a string: in quotes, with escapes.
std::string Quoted(std::string_view text);

// str(value): text as it is, undefined as nothing, True and None as Python spells them. Errors:
// Heap's, and what has no text (a macro, a loop, a generator).
absl::StatusOr<std::string> Str(Heap& heap, const Value& value);
// repr(value), as it stands in a printed list.
absl::StatusOr<std::string> Repr(Heap& heap, const Value& value);

}  // namespace polystrate::jinja
