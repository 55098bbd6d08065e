#include "engine/jinja/methods.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "absl/strings/str_format.h"
#include "engine/jinja/operators.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

template <size_t N>
bool Among(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

constexpr std::string_view kDictMethods[] = {"copy", "fromkeys", "get", "items", "keys", "values"};
constexpr std::string_view kDictChanges[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view kListMethods[] = {"copy", "count", "index"};
constexpr std::string_view kListChanges[] = {"append", "clear",  "extend",  "insert",
                                             "pop",    "remove", "reverse", "sort"};
constexpr std::string_view kStringMethods[] = {
    "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
    "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
    "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
    "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
    "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
    "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
    "swapcase",     "title",       "translate", "upper",      "zfill"};

absl::StatusOr<Value> CallDictMethod(Heap& heap, const Value& self, std::string_view name,
                                     const Arguments& arguments) {
  const Dict& dict = self.dict();
  if (name == "get") {
    Value key;
    Value otherwise = Value::None();
    if (!arguments.keywords.empty()) {
      return absl::InvalidArgumentError("get() takes no arguments by name");
    }
    RETURN_IF_ERROR(Take(arguments, {{"key", &key, false}, {"default", &otherwise}}));
    if (!key.IsString()) RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(dict.members().size())));
    const Value* found = dict.Find(key);
    return found != nullptr ? *found : otherwise;
  }
  RETURN_IF_ERROR(Take(arguments, {}));
  if (name == "copy") return self;
  std::vector<Value> items;
  items.reserve(dict.members().size());
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(dict.members().size())));
  for (const auto& [key, value] : dict.members()) {
    if (name == "keys") {
      items.push_back(key);
    } else if (name == "values") {
      items.push_back(value);
    } else {
      ASSIGN_OR_RETURN(Value pair, heap.Tuple(key, value));
      items.push_back(std::move(pair));
    }
  }
  if (name == "keys") return heap.List(std::move(items), SequenceKind::kKeys);
  if (name == "values") return heap.List(std::move(items), SequenceKind::kValues);
  return heap.List(std::move(items), SequenceKind::kItems);
}

absl::StatusOr<Value> CallListMethod(Heap& heap, const Value& self, std::string_view name,
                                     const Arguments& arguments) {
  if (name == "copy") {
    RETURN_IF_ERROR(Take(arguments, {}));
    return self;
  }
  Value wanted;
  RETURN_IF_ERROR(Take(arguments, {{"value", &wanted, false}}));
  int64_t count = 0;
  for (size_t i = 0; i < self.items().size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Compare(heap, Operator::kEqual, self.items()[i], wanted));
    if (!equal) continue;
    if (name == "index") return Value(static_cast<int64_t>(i));
    ++count;
  }
  if (name == "index")
    return absl::InvalidArgumentError("index() of a value that is not in the list");
  return Value(count);
}

}  // namespace

MethodKind FindMethod(const Value& self, std::string_view name) {
  if (self.IsString()) return Among(kStringMethods, name) ? MethodKind::kKnown : MethodKind::kNone;
  if (self.IsDict()) {
    if (Among(kDictChanges, name)) return MethodKind::kForbidden;
    return Among(kDictMethods, name) ? MethodKind::kKnown : MethodKind::kNone;
  }
  if (!self.IsSequence() || self.sequence().kind > SequenceKind::kRange) return MethodKind::kNone;
  if (self.IsList() && Among(kListChanges, name)) return MethodKind::kForbidden;
  const bool known = Among(kListMethods, name) && (self.IsList() || name != "copy");
  return known ? MethodKind::kKnown : MethodKind::kNone;
}

absl::StatusOr<Value> CallMethod(Heap& heap, const Value& self, std::string_view name,
                                 const Arguments& arguments) {
  if (FindMethod(self, name) != MethodKind::kKnown || name == "fromkeys") {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s() of a value of type '%s' is not supported", name, self.TypeName()));
  }
  if (self.IsString()) return CallStringMethod(heap, self, name, arguments);
  if (self.IsDict()) return CallDictMethod(heap, self, name, arguments);
  return CallListMethod(heap, self, name, arguments);
}

}  // namespace polystrate::jinja
