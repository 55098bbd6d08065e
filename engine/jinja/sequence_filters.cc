// Filters of lists and objects.
#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/jinja/access.h"
#include "engine/jinja/filters.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/methods.h"
#include "engine/jinja/operators.h"
#include "engine/jinja/predicates.h"
#include "engine/jinja/text.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

absl::StatusOr<Value> LengthFilter(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  RETURN_IF_ERROR(heap.Step(self.IsString() ? self.weight() : 1));
  ASSIGN_OR_RETURN(const int64_t length, Length(self));
  return Value(length);
}

absl::StatusOr<Value> Default(Heap&, const Value& self, const Arguments& arguments) {
  Value otherwise = Value::Text("");
  Value boolean(false);
  RETURN_IF_ERROR(Take(arguments, {{"default_value", &otherwise}, {"boolean", &boolean}}));
  const bool use = self.IsUndefined() || (boolean.IsTrue() && !self.IsTrue());
  return use ? otherwise : self;
}

absl::StatusOr<Value> First(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  if (self.IsString()) return GetItem(heap, self, Value(int64_t{0}));
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  return items.items().empty() ? Value() : items.items().front();
}

absl::StatusOr<Value> Last(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  if (self.IsString()) return GetItem(heap, self, Value(int64_t{-1}));
  if (self.IsSequence() && self.sequence().kind == SequenceKind::kIterator) {
    return absl::InvalidArgumentError("the last of a generator: make it a list first");
  }
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  return items.items().empty() ? Value() : items.items().back();
}

absl::StatusOr<Value> ListFilter(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  if (items.IsList()) return items;
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(items.items().size())));
  return heap.List(items.items());
}

absl::StatusOr<Value> Items(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  if (self.IsUndefined()) return heap.List({}, SequenceKind::kIterator);
  if (!self.IsDict()) return WrongType(self, "an object");
  ASSIGN_OR_RETURN(const Value items, CallMethod(heap, self, "items", {}));
  return heap.List(items.items(), SequenceKind::kIterator);
}

absl::StatusOr<Value> Reverse(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  if (self.IsString()) {
    return Slice(heap, self, Value::None(), Value::None(), Value(int64_t{-1}));
  }
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(items.items().size())));
  return heap.List({items.items().rbegin(), items.items().rend()}, SequenceKind::kIterator);
}

absl::StatusOr<Value> JoinFilter(Heap& heap, const Value& self, const Arguments& arguments) {
  Value separator = Value::Text("");
  Value attribute = Value::None();
  RETURN_IF_ERROR(Take(arguments, {{"d", &separator}, {"attribute", &attribute}}));
  if (!separator.IsString()) return WrongType(separator, "a text");
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  if (attribute.IsNone()) return JoinTexts(heap, separator.text(), items.items());
  std::vector<Value> parts;
  for (const Value& item : items.items()) {
    ASSIGN_OR_RETURN(Value part, GetPath(heap, item, attribute));
    parts.push_back(std::move(part));
  }
  return JoinTexts(heap, separator.text(), parts);
}

// ---- By key: what an item is compared by, without regard to case unless asked for.

absl::StatusOr<Value> KeyOf(Heap& heap, const Value& item, const Value& attribute,
                            bool case_sensitive) {
  Value key = item;
  if (!attribute.IsNone()) {
    ASSIGN_OR_RETURN(key, GetPath(heap, item, attribute));
  }
  if (case_sensitive || !key.IsString()) return key;
  return heap.Text(Lower(key.text()));
}

// Several attributes with commas between them.
absl::StatusOr<Value> KeysOf(Heap& heap, const Value& item, const Value& attribute,
                             bool case_sensitive) {
  if (!attribute.IsString() || attribute.text().find(',') == std::string::npos) {
    return KeyOf(heap, item, attribute, case_sensitive);
  }
  ASSIGN_OR_RETURN(const Value names,
                   SplitText(heap, attribute.text(), Value::Text(","), -1, false));
  std::vector<Value> keys;
  for (const Value& name : names.items()) {
    ASSIGN_OR_RETURN(Value key, KeyOf(heap, item, name, case_sensitive));
    keys.push_back(std::move(key));
  }
  return heap.List(std::move(keys));
}

using Keyed = std::pair<Value, Value>;  // key, item

// Stable either way round, as Python's sort.
absl::Status SortByKey(Heap& heap, bool reverse, std::vector<Keyed>& keyed) {
  absl::Status status;
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
    if (!status.ok()) return false;
    const auto less = reverse ? Compare(heap, Operator::kLess, b.first, a.first)
                              : Compare(heap, Operator::kLess, a.first, b.first);
    if (!less.ok()) status = less.status();
    return less.ok() && *less;
  });
  return status;
}

absl::StatusOr<Value> Sort(Heap& heap, const Value& self, const Arguments& arguments) {
  Value reverse(false);
  Value case_sensitive(false);
  Value attribute = Value::None();
  RETURN_IF_ERROR(Take(
      arguments,
      {{"reverse", &reverse}, {"case_sensitive", &case_sensitive}, {"attribute", &attribute}}));
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  std::vector<Keyed> keyed;
  for (const Value& item : items.items()) {
    ASSIGN_OR_RETURN(Value key, KeysOf(heap, item, attribute, case_sensitive.IsTrue()));
    keyed.emplace_back(std::move(key), item);
  }
  RETURN_IF_ERROR(SortByKey(heap, reverse.IsTrue(), keyed));
  std::vector<Value> sorted;
  for (Keyed& one : keyed) sorted.push_back(std::move(one.second));
  return heap.List(std::move(sorted));
}

absl::StatusOr<Value> DictSort(Heap& heap, const Value& self, const Arguments& arguments) {
  Value case_sensitive(false);
  Value by = Value::Text("key");
  Value reverse(false);
  RETURN_IF_ERROR(
      Take(arguments, {{"case_sensitive", &case_sensitive}, {"by", &by}, {"reverse", &reverse}}));
  if (!self.IsDict()) return WrongType(self, "an object");
  if (!by.IsString() || (by.text() != "key" && by.text() != "value")) {
    return absl::InvalidArgumentError("dictsort sorts by 'key' or 'value'");
  }
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : self.dict().members()) {
    ASSIGN_OR_RETURN(Value pair, heap.Tuple(key, value));
    ASSIGN_OR_RETURN(Value sort_key, KeyOf(heap, by.text() == "key" ? key : value, Value::None(),
                                           case_sensitive.IsTrue()));
    keyed.emplace_back(std::move(sort_key), std::move(pair));
  }
  RETURN_IF_ERROR(SortByKey(heap, reverse.IsTrue(), keyed));
  std::vector<Value> sorted;
  for (Keyed& one : keyed) sorted.push_back(std::move(one.second));
  return heap.List(std::move(sorted));
}

absl::StatusOr<Value> Unique(Heap& heap, const Value& self, const Arguments& arguments) {
  Value case_sensitive(false);
  Value attribute = Value::None();
  RETURN_IF_ERROR(
      Take(arguments, {{"case_sensitive", &case_sensitive}, {"attribute", &attribute}}));
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  std::vector<Value> keys;
  std::vector<Value> unique;
  for (const Value& item : items.items()) {
    ASSIGN_OR_RETURN(Value key, KeyOf(heap, item, attribute, case_sensitive.IsTrue()));
    if (key.IsList() || key.IsDict()) return WrongType(key, "a value that can be a key");
    bool known = false;
    for (const Value& other : keys) {
      ASSIGN_OR_RETURN(known, Compare(heap, Operator::kEqual, key, other));
      if (known) break;
    }
    if (known) continue;
    keys.push_back(std::move(key));
    unique.push_back(item);
  }
  return heap.List(std::move(unique), SequenceKind::kIterator);
}

template <Operator better>
absl::StatusOr<Value> Extreme(Heap& heap, const Value& self, const Arguments& arguments) {
  Value case_sensitive(false);
  Value attribute = Value::None();
  RETURN_IF_ERROR(
      Take(arguments, {{"case_sensitive", &case_sensitive}, {"attribute", &attribute}}));
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  Value best;
  Value best_key;
  bool first = true;
  for (const Value& item : items.items()) {
    ASSIGN_OR_RETURN(Value key, KeyOf(heap, item, attribute, case_sensitive.IsTrue()));
    bool takes = first;
    if (!first) {
      ASSIGN_OR_RETURN(takes, Compare(heap, better, key, best_key));
    }
    first = false;
    if (!takes) continue;
    best = item;
    best_key = std::move(key);
  }
  return best;
}

absl::StatusOr<Value> Sum(Heap& heap, const Value& self, const Arguments& arguments) {
  Value attribute = Value::None();
  Value sum(int64_t{0});
  RETURN_IF_ERROR(Take(arguments, {{"attribute", &attribute}, {"start", &sum}}));
  if (sum.IsString()) return WrongType(sum, "a start that is no text");
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  for (const Value& item : items.items()) {
    Value part = item;
    if (!attribute.IsNone()) {
      ASSIGN_OR_RETURN(part, GetPath(heap, item, attribute));
    }
    ASSIGN_OR_RETURN(sum, Arithmetic(heap, Operator::kAdd, sum, part));
  }
  return sum;
}

absl::StatusOr<Value> Batch(Heap& heap, const Value& self, const Arguments& arguments) {
  Value count_value;
  Value fill = Value::None();
  RETURN_IF_ERROR(Take(arguments, {{"linecount", &count_value, false}, {"fill_with", &fill}}));
  ASSIGN_OR_RETURN(const int64_t count, AsInteger(count_value));
  if (count < 1 || count > kMaxRange) return absl::InvalidArgumentError("a batch of no such size");
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  const auto size = static_cast<size_t>(count);
  std::vector<Value> batches;
  for (size_t begin = 0; begin < items.items().size(); begin += size) {
    const size_t end = std::min(begin + size, items.items().size());
    std::vector<Value> batch(items.items().begin() + static_cast<std::ptrdiff_t>(begin),
                             items.items().begin() + static_cast<std::ptrdiff_t>(end));
    if (!fill.IsNone()) batch.resize(size, fill);
    ASSIGN_OR_RETURN(Value list, heap.List(std::move(batch)));
    batches.push_back(std::move(list));
  }
  return heap.List(std::move(batches), SequenceKind::kIterator);
}

// ---- With another filter or test by name.

// What is passed on: all behind the first `num_own` arguments.
Arguments Rest(const Arguments& arguments, size_t num_own) {
  Arguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(num_own),
                         arguments.positional.end());
  rest.keywords = arguments.keywords;
  return rest;
}

absl::StatusOr<Value> Map(Heap& heap, const Value& self, const Arguments& arguments) {
  const Value* attribute = arguments.FindKeyword("attribute");
  Callable filter = nullptr;
  Arguments rest;
  Value path;
  Value otherwise;
  if (arguments.positional.empty() && attribute != nullptr) {
    RETURN_IF_ERROR(Take(arguments, {{"attribute", &path}, {"default", &otherwise}}));
  } else {
    if (arguments.positional.empty() || !arguments.positional[0].IsString()) {
      return absl::InvalidArgumentError("map takes the name of a filter, or attribute=");
    }
    const std::string& name = arguments.positional[0].text();
    filter = FindFilter(name);
    if (filter == nullptr) {
      return absl::InvalidArgumentError(absl::StrFormat("no filter named '%s'", name));
    }
    rest = Rest(arguments, 1);
  }
  if (!self.IsTrue()) return heap.List({}, SequenceKind::kIterator);  // none, too
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  std::vector<Value> results;
  results.reserve(items.items().size());
  for (const Value& item : items.items()) {
    RETURN_IF_ERROR(heap.Step());
    Value result;
    if (filter != nullptr) {
      ASSIGN_OR_RETURN(result, filter(heap, item, rest));
    } else {
      ASSIGN_OR_RETURN(result, GetPath(heap, item, path, otherwise));
    }
    results.push_back(std::move(result));
  }
  return heap.List(std::move(results), SequenceKind::kIterator);
}

template <bool keep, bool by_attribute>
absl::StatusOr<Value> Select(Heap& heap, const Value& self, const Arguments& arguments) {
  size_t num_own = by_attribute ? 1 : 0;
  if (arguments.positional.size() < num_own) {
    return absl::InvalidArgumentError("the name of an attribute is missing");
  }
  Callable test = nullptr;
  if (arguments.positional.size() > num_own) {
    const Value& name = arguments.positional[num_own++];
    test = name.IsString() ? FindTest(name.text()) : nullptr;
    if (test == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrFormat("no test named '%s'", name.IsString() ? name.text() : name.TypeName()));
    }
  }
  const Arguments rest = Rest(arguments, num_own);
  if (!self.IsTrue()) return heap.List({}, SequenceKind::kIterator);
  ASSIGN_OR_RETURN(const Value items, AsSequence(heap, self));
  std::vector<Value> kept;
  for (const Value& item : items.items()) {
    RETURN_IF_ERROR(heap.Step());
    Value subject = item;
    if (by_attribute) {
      ASSIGN_OR_RETURN(subject, GetPath(heap, item, arguments.positional[0]));
    }
    if (test != nullptr) {
      ASSIGN_OR_RETURN(subject, test(heap, subject, rest));
    }
    if (subject.IsTrue() == keep) kept.push_back(item);
  }
  return heap.List(std::move(kept), SequenceKind::kIterator);
}

absl::StatusOr<Value> Attr(Heap& heap, const Value& self, const Arguments& arguments) {
  Value name;
  RETURN_IF_ERROR(Take(arguments, {{"name", &name, false}}));
  if (!name.IsString()) return WrongType(name, "a name");
  if (self.IsDict()) {  // its methods only, never its members
    if (FindMethod(self, name.text()) != MethodKind::kKnown) return Value();
    return heap.BoundMethod(self, name.text());
  }
  return GetItem(heap, self, name);
}

constexpr std::pair<std::string_view, Callable> kFilters[] = {
    {"attr", Attr},
    {"batch", Batch},
    {"count", LengthFilter},
    {"d", Default},
    {"default", Default},
    {"dictsort", DictSort},
    {"first", First},
    {"items", Items},
    {"join", JoinFilter},
    {"last", Last},
    {"length", LengthFilter},
    {"list", ListFilter},
    {"map", Map},
    {"max", Extreme<Operator::kGreater>},
    {"min", Extreme<Operator::kLess>},
    {"reject", Select<false, false>},
    {"rejectattr", Select<false, true>},
    {"reverse", Reverse},
    {"select", Select<true, false>},
    {"selectattr", Select<true, true>},
    {"sort", Sort},
    {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

Callable FindSequenceFilter(std::string_view name) {
  for (const auto& [known, filter] : kFilters) {
    if (known == name) return filter;
  }
  return nullptr;
}

Callable FindFilter(std::string_view name) {
  const Callable of_texts = FindTextFilter(name);
  return of_texts != nullptr ? of_texts : FindSequenceFilter(name);
}

}  // namespace polystrate::jinja
