#include "engine/jinja/loop.h"

#include "absl/strings/str_format.h"

namespace polystrate::jinja {

std::optional<Value> LoopAttribute(const Loop& loop, std::string_view name) {
  const auto length = static_cast<int64_t>(loop.items().size());
  const auto at = static_cast<size_t>(loop.index0);
  if (name == "index") return Value(loop.index0 + 1);
  if (name == "index0") return Value(loop.index0);
  if (name == "first") return Value(loop.index0 == 0);
  if (name == "last") return Value(loop.index0 + 1 >= length);
  if (name == "length") return Value(length);
  if (name == "revindex") return Value(length - loop.index0);
  if (name == "revindex0") return Value(length - loop.index0 - 1);
  if (name == "previtem") return at > 0 ? loop.items()[at - 1] : Value();
  if (name == "nextitem") return loop.index0 + 1 < length ? loop.items()[at + 1] : Value();
  if (name == "depth") return Value(int64_t{1});
  if (name == "depth0") return Value(int64_t{0});
  return std::nullopt;
}

absl::StatusOr<Value> CallLoop(const Loop& loop, std::string_view name,
                               const Arguments& arguments) {
  if (name != "cycle") {
    return absl::InvalidArgumentError(absl::StrFormat("loop.%s() is not supported", name));
  }
  if (arguments.positional.empty()) return absl::InvalidArgumentError("loop.cycle() of nothing");
  return arguments.positional[static_cast<size_t>(loop.index0) % arguments.positional.size()];
}

}  // namespace polystrate::jinja
