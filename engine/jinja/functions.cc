#include "engine/jinja/functions.h"

#include <algorithm>
#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/jinja/access.h"
#include "engine/jinja/operators.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {

std::optional<Function> FindFunction(std::string_view name) {
  if (name == "range") return Function::kRange;
  if (name == "dict") return Function::kDict;
  if (name == "namespace") return Function::kNamespace;
  if (name == "raise_exception") return Function::kRaiseException;
  if (name == "strftime_now") return Function::kStrftimeNow;
  return std::nullopt;
}

absl::StatusOr<Value> CallRange(Heap& heap, const Arguments& arguments) {
  Value bounds[3] = {Value::None(), Value::None(), Value(int64_t{1})};
  RETURN_IF_ERROR(
      Take(arguments, {{"start", &bounds[0], false}, {"stop", &bounds[1]}, {"step", &bounds[2]}}));
  if (bounds[1].IsNone()) bounds[1] = std::exchange(bounds[0], Value(int64_t{0}));
  ASSIGN_OR_RETURN(const int64_t start, AsInteger(bounds[0]));
  ASSIGN_OR_RETURN(const int64_t stop, AsInteger(bounds[1]));
  ASSIGN_OR_RETURN(const int64_t step, AsInteger(bounds[2]));
  if (step == 0) return absl::InvalidArgumentError("range() with a step of 0");
  const double span = static_cast<double>(stop) - static_cast<double>(start);
  if (span / static_cast<double>(step) > static_cast<double>(kMaxRange)) {
    return absl::InvalidArgumentError(absl::StrFormat("range() of more than %d items", kMaxRange));
  }
  std::vector<Value> items;
  int64_t at = start;
  while (step > 0 ? at < stop : at > stop) {
    items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(items.size())));
  return heap.List(std::move(items), SequenceKind::kRange);
}

absl::StatusOr<Value> CallDict(Heap& heap, const Arguments& arguments) {
  std::vector<Dict::Member> members;
  if (arguments.positional.size() > 1) {
    return absl::InvalidArgumentError("dict() takes one object or list of pairs");
  }
  if (!arguments.positional.empty() && arguments.positional[0].IsDict()) {
    members = arguments.positional[0].dict().members();
  } else if (!arguments.positional.empty()) {
    ASSIGN_OR_RETURN(const Value pairs, AsSequence(heap, arguments.positional[0]));
    for (const Value& pair : pairs.items()) {
      ASSIGN_OR_RETURN(const Value both, AsSequence(heap, pair));
      if (both.items().size() != 2) return WrongType(pair, "a pair");
      members.emplace_back(both.items()[0], both.items()[1]);
    }
  }
  for (const auto& [name, value] : arguments.keywords) {
    ASSIGN_OR_RETURN(Value key, heap.Text(name));
    members.emplace_back(std::move(key), value);
  }
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(members.size())));
  return heap.Object(std::move(members));
}

absl::StatusOr<Value> CallStrftime(Heap& heap, const Arguments& arguments, absl::Time now) {
  Value format;
  RETURN_IF_ERROR(Take(arguments, {{"format", &format, false}}));
  if (!format.IsString()) return WrongType(format, "a text");
  if (format.text().size() > 200) {
    return absl::InvalidArgumentError("strftime_now takes a format of at most 200 bytes");
  }
  if (format.text().find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("a NUL character in the format of strftime_now");
  }
  const std::tm local = absl::ToTM(now, absl::LocalTimeZone());
  // Behind a space, so that nothing written means that it did not fit.
  const std::string spaced = " " + format.text();
  std::vector<char> buffer(1 << 14);
  const size_t size = std::strftime(buffer.data(), buffer.size(), spaced.c_str(), &local);
  if (size == 0) return absl::InvalidArgumentError("strftime_now: too long a text");
  std::string text(buffer.data() + 1, size - 1);
  return heap.Text(std::move(text));
}

}  // namespace polystrate::jinja
