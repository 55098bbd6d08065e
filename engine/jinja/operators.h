// Operators, with Python's rules: what may be added to what, which way division rounds, how values
// compare. Integers are of 64 bits, and one that would not fit is an error.
#pragma once

#include "absl/status/statusor.h"
#include "engine/jinja/ast.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

// + - * / // % **
absl::StatusOr<Value> Arithmetic(Heap& heap, Operator op, const Value& a, const Value& b);
absl::StatusOr<Value> Negate(const Value& value);
absl::StatusOr<Value> Plus(const Value& value);

// == != < <= > >= in, not in
absl::StatusOr<bool> Compare(Heap& heap, Operator op, const Value& a, const Value& b);
absl::StatusOr<bool> Contains(Heap& heap, const Value& container, const Value& item);

// The integer that a number without a fraction type is (a bool is one); an error for others.
absl::StatusOr<int64_t> AsInteger(const Value& value);
absl::StatusOr<double> AsReal(const Value& value);

}  // namespace polystrate::jinja
