// What is inside a value: attributes, items, slices, and the sequence that a loop goes over.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

// `object.name`: an attribute or method goes before a member, as in Python (`x.items` of an object
// is never its key "items"). What is not there is undefined and points at `name`.
absl::StatusOr<Value> GetAttribute(Heap& heap, const Value& object, const std::string& name);

// `object[key]`: a member or item goes before an attribute. What is not there is undefined.
absl::StatusOr<Value> GetItem(Heap& heap, const Value& object, const Value& key);

// `object[begin:end:step]`; none for those left out.
absl::StatusOr<Value> Slice(Heap& heap, const Value& object, const Value& begin, const Value& end,
                            const Value& step);

// The value itself where it is a sequence, else a list: of a text's characters, an object's keys,
// nothing where it is undefined. An iterator gives its items once. Others are errors.
absl::StatusOr<Value> AsSequence(Heap& heap, const Value& value);

// len().
absl::StatusOr<int64_t> Length(const Value& value);

// Attributes behind dots, digits are indices: "function.name", of `map(attribute=...)`. `otherwise`
// stands for each that is not there.
absl::StatusOr<Value> GetPath(Heap& heap, const Value& object, const Value& path,
                              const Value& otherwise = Value());

}  // namespace polystrate::jinja
