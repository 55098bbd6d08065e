#include "engine/jinja/access.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "absl/strings/str_format.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/loop.h"
#include "engine/jinja/methods.h"
#include "engine/jinja/operators.h"
#include "engine/jinja/text.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

// What getattr() finds. Nothing: undefined, with `*found` false.
absl::StatusOr<Value> OwnAttribute(Heap& heap, const Value& object, std::string_view name,
                                   bool* found) {
  *found = true;
  if (object.type() == Type::kNamespace) {
    if (const Value* member = object.name_space()->Find(name)) return *member;
  } else if (object.type() == Type::kLoop) {
    const std::optional<Value> attribute = LoopAttribute(*object.loop(), name);
    if (attribute.has_value()) return *attribute;
  } else {
    const MethodKind kind = FindMethod(object, name);
    if (kind == MethodKind::kForbidden) return Value();
    if (kind == MethodKind::kKnown) return heap.BoundMethod(object, std::string(name));
  }
  *found = false;
  return Value();
}

// The item at `index`, which may count from the end; undefined where there is none.
absl::StatusOr<Value> ItemAt(Heap& heap, const Value& object, int64_t index) {
  if (object.IsString()) {
    const std::string& text = object.text();
    RETURN_IF_ERROR(heap.Step(1 + static_cast<int64_t>(text.size() / 64)));
    if (index < 0) index += NumCodePoints(text);
    if (index < 0) return Value();
    const size_t begin = ByteOffset(text, index);
    if (begin == text.size()) return Value();
    return heap.Text(
        text.substr(begin, DecodeUtf8(std::string_view(text).substr(begin)).num_bytes));
  }
  if (object.sequence().kind > SequenceKind::kRange) return Value();
  const auto size = static_cast<int64_t>(object.items().size());
  if (index < 0) index += size;
  if (index < 0 || index >= size) return Value();
  return object.items()[static_cast<size_t>(index)];
}

struct SliceBounds {
  int64_t begin = 0;
  int64_t step = 1;
  int64_t size = 0;  // of the result
};

// One bound, from what stands in the brackets to an index in [low, high].
absl::StatusOr<int64_t> Bound(const Value& value, int64_t otherwise, int64_t length, int64_t low,
                              int64_t high) {
  if (value.IsNone()) return otherwise;
  ASSIGN_OR_RETURN(int64_t index, AsInteger(value));
  if (index < 0) index += length;
  return std::clamp(index, low, high);
}

absl::StatusOr<SliceBounds> Bounds(int64_t length, const Value& begin, const Value& end,
                                   const Value& step) {
  SliceBounds bounds;
  if (!step.IsNone()) {
    ASSIGN_OR_RETURN(bounds.step, AsInteger(step));
    if (bounds.step == 0) return absl::InvalidArgumentError("a slice whose step is 0");
    bounds.step = std::max(bounds.step, -INT64_MAX);
  }
  const bool forward = bounds.step > 0;
  const int64_t low = forward ? 0 : -1;
  const int64_t high = forward ? length : length - 1;
  ASSIGN_OR_RETURN(bounds.begin, Bound(begin, forward ? low : high, length, low, high));
  ASSIGN_OR_RETURN(const int64_t stop, Bound(end, forward ? high : low, length, low, high));
  const int64_t span = forward ? stop - bounds.begin : bounds.begin - stop;
  const int64_t stride = forward ? bounds.step : -bounds.step;
  if (span > 0) bounds.size = (span - 1) / stride + 1;
  return bounds;
}

absl::StatusOr<Value> SliceText(Heap& heap, const std::string& text, const SliceBounds& bounds) {
  RETURN_IF_ERROR(heap.Step(1 + static_cast<int64_t>(text.size() / 16)));
  const std::string_view view = text;
  if (bounds.step == 1) {
    const std::string_view rest = view.substr(ByteOffset(view, bounds.begin));
    return heap.Text(std::string(rest.substr(0, ByteOffset(rest, bounds.size))));
  }
  std::vector<std::string_view> characters;
  for (size_t at = 0; at < text.size();) {
    const size_t num_bytes = DecodeUtf8(view.substr(at)).num_bytes;
    characters.push_back(view.substr(at, num_bytes));
    at += num_bytes;
  }
  std::string result;
  for (int64_t i = 0; i < bounds.size; ++i) {
    result += characters[static_cast<size_t>(bounds.begin + i * bounds.step)];
  }
  return heap.Text(std::move(result));
}

}  // namespace

absl::StatusOr<Value> GetAttribute(Heap& heap, const Value& object, const std::string& name) {
  if (object.IsUndefined()) return IsUndefinedError(object.undefined());
  bool found = false;
  ASSIGN_OR_RETURN(Value attribute, OwnAttribute(heap, object, name, &found));
  if (found && !attribute.IsUndefined()) return attribute;
  if (!found && name.substr(0, 2) != "__") {
    if (const Value* member = object.Find(name)) return *member;
  }
  return Value(Undefined{&name, object.TypeName()});
}

absl::StatusOr<Value> GetItem(Heap& heap, const Value& object, const Value& key) {
  if (object.IsUndefined()) return IsUndefinedError(object.undefined());
  if (object.IsDict()) {
    if (!key.IsString()) {
      RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(object.dict().members().size())));
    }
    if (const Value* member = object.dict().Find(key)) return *member;
  } else if ((object.IsString() || object.IsSequence()) && (key.IsInt() || key.IsBool())) {
    ASSIGN_OR_RETURN(const int64_t index, AsInteger(key));
    return ItemAt(heap, object, index);
  }
  if (!key.IsString()) return Value();
  bool found = false;
  return OwnAttribute(heap, object, key.text(), &found);
}

absl::StatusOr<Value> Slice(Heap& heap, const Value& object, const Value& begin, const Value& end,
                            const Value& step) {
  if (object.IsUndefined()) return IsUndefinedError(object.undefined());
  const bool sliceable =
      object.IsString() || (object.IsSequence() && object.sequence().kind <= SequenceKind::kRange);
  if (!sliceable) return WrongType(object, "a text or a list to slice");
  ASSIGN_OR_RETURN(const int64_t length, Length(object));
  ASSIGN_OR_RETURN(const SliceBounds bounds, Bounds(length, begin, end, step));
  if (object.IsString()) return SliceText(heap, object.text(), bounds);
  RETURN_IF_ERROR(heap.Step(bounds.size));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(bounds.size));
  for (int64_t i = 0; i < bounds.size; ++i) {
    items.push_back(object.items()[static_cast<size_t>(bounds.begin + i * bounds.step)]);
  }
  return heap.List(std::move(items), object.sequence().kind);
}

absl::StatusOr<Value> AsSequence(Heap& heap, const Value& value) {
  if (value.IsSequence()) {
    if (value.sequence().kind != SequenceKind::kIterator) return value;
    if (value.sequence().consumed) return heap.List({});
    value.sequence().consumed = true;
    return value;
  }
  std::vector<Value> items;
  if (value.IsString()) {
    std::string_view rest = value.text();
    RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(rest.size())));
    while (!rest.empty()) {
      const size_t num_bytes = DecodeUtf8(rest).num_bytes;
      ASSIGN_OR_RETURN(Value character, heap.Text(std::string(rest.substr(0, num_bytes))));
      items.push_back(std::move(character));
      rest.remove_prefix(num_bytes);
    }
  } else if (value.IsDict()) {
    RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(value.dict().members().size())));
    for (const Dict::Member& member : value.dict().members()) items.push_back(member.first);
  } else if (!value.IsUndefined()) {
    return WrongType(value, "something to go over (a list, an object, a text)");
  }
  return heap.List(std::move(items));
}

absl::StatusOr<int64_t> Length(const Value& value) {
  switch (value.type()) {
    case Type::kUndefined:
      return 0;
    case Type::kString:
      return NumCodePoints(value.text());
    case Type::kDict:
      return static_cast<int64_t>(value.dict().members().size());
    case Type::kLoop:
      return static_cast<int64_t>(value.loop()->items().size());
    case Type::kSequence:
      if (value.sequence().kind != SequenceKind::kIterator) {
        return static_cast<int64_t>(value.items().size());
      }
      [[fallthrough]];
    default:
      return WrongType(value, "something with a length");
  }
}

absl::StatusOr<Value> GetPath(Heap& heap, const Value& object, const Value& path,
                              const Value& otherwise) {
  if (!path.IsString()) {
    ASSIGN_OR_RETURN(const Value item, GetItem(heap, object, path));
    return item.IsUndefined() ? otherwise : item;
  }
  Value value = object;
  std::string_view rest = path.text();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = !part.empty() && part[0] != '-' && read.ec == std::errc() &&
                          read.ptr == part.data() + part.size();
    Value key(index);
    if (!is_index) {
      ASSIGN_OR_RETURN(key, heap.Text(std::string(part)));
    }
    ASSIGN_OR_RETURN(value, GetItem(heap, value, key));
    if (value.IsUndefined()) value = otherwise;
    if (dot == std::string_view::npos) return value;
    rest.remove_prefix(dot + 1);
  }
}

}  // namespace polystrate::jinja
