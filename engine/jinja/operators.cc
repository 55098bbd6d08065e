#include "engine/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/jinja/access.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/format.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

absl::Status TooLarge() {
  return absl::InvalidArgumentError("an integer that takes more than 64 bits");
}

absl::Status Unsupported(const char* op, const Value& a, const Value& b) {
  if (a.IsUndefined()) return IsUndefinedError(a.undefined());
  if (b.IsUndefined()) return IsUndefinedError(b.undefined());
  return absl::InvalidArgumentError(absl::StrFormat(
      "cannot apply %s to values of types '%s' and '%s'", op, a.TypeName(), b.TypeName()));
}

bool IsWhole(const Value& value) { return value.IsInt() || value.IsBool(); }

int64_t Whole(const Value& value) {
  return value.IsBool() ? static_cast<int64_t>(value.boolean()) : value.integer();
}

double Real(const Value& value) {
  return value.IsFloat() ? value.real() : static_cast<double>(Whole(value));
}

absl::StatusOr<Value> IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return absl::InvalidArgumentError("division by zero");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return TooLarge();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return TooLarge();
  }
  return Value(result);
}

absl::StatusOr<Value> IntegerArithmetic(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  const bool divides =
      op == Operator::kDivide || op == Operator::kFloorDivide || op == Operator::kModulo;
  if (divides && b == 0) return absl::InvalidArgumentError("division by zero");
  switch (op) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kDivide:
      return Value(static_cast<double>(a) / static_cast<double>(b));
    case Operator::kFloorDivide:
      if (b == -1) {  // the one case in which division overflows
        overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
      } else {
        result = a / b - (a % b != 0 && (a % b < 0) != (b < 0) ? 1 : 0);
      }
      break;
    case Operator::kModulo:
      if (b != -1) {
        result = a % b;
        if (result != 0 && (result < 0) != (b < 0)) result += b;
      }
      break;
    default:
      return IntegerPower(a, b);
  }
  if (overflow) return TooLarge();
  return Value(result);
}

// Both from one fmod, so that a == b * quotient + remainder as nearly as rounding lets it.
std::pair<double, double> FloorDivide(double a, double b) {
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0) {
    if ((b < 0) != (remainder < 0)) {
      remainder += b;
      quotient -= 1;
    }
  } else {
    remainder = std::copysign(0.0, b);
  }
  if (quotient == 0) return {std::copysign(0.0, a / b), remainder};
  double whole = std::floor(quotient);
  if (quotient - whole > 0.5) whole += 1;
  return {whole, remainder};
}

absl::StatusOr<Value> RealArithmetic(Operator op, double a, double b) {
  const bool divides =
      op == Operator::kDivide || op == Operator::kFloorDivide || op == Operator::kModulo;
  if (divides && b == 0) return absl::InvalidArgumentError("division by zero");
  switch (op) {
    case Operator::kAdd:
      return Value(a + b);
    case Operator::kSubtract:
      return Value(a - b);
    case Operator::kMultiply:
      return Value(a * b);
    case Operator::kDivide:
      return Value(a / b);
    case Operator::kFloorDivide:
      return Value(FloorDivide(a, b).first);
    case Operator::kModulo:
      return Value(FloorDivide(a, b).second);
    default:
      break;
  }
  if (a == 0 && b < 0) return absl::InvalidArgumentError("division by zero");
  const double result = std::pow(a, b);
  if (!std::isfinite(result) && std::isfinite(a) && std::isfinite(b)) {
    return absl::InvalidArgumentError("a power that is no number");
  }
  return Value(result);
}

// A text or sequence, `count` times.
absl::StatusOr<Value> Repeat(Heap& heap, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (value.IsString()) {
    const auto size = static_cast<int64_t>(value.text().size());
    int64_t num_bytes = 0;
    if (__builtin_mul_overflow(size, count, &num_bytes)) num_bytes = INT64_MAX;
    RETURN_IF_ERROR(heap.CheckTextSize(num_bytes));
    std::string text;
    text.reserve(static_cast<size_t>(num_bytes));
    for (int64_t i = 0; i < count && size > 0; ++i) text += value.text();
    return heap.Text(std::move(text));
  }
  const auto size = static_cast<int64_t>(value.items().size());
  if (size > 0 && count > kMaxValueWeight / size) {
    return absl::InvalidArgumentError("a list that is repeated too often");
  }
  RETURN_IF_ERROR(heap.Step(size * count));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(size * count));
  for (int64_t i = 0; i < count && size > 0; ++i) {
    items.insert(items.end(), value.items().begin(), value.items().end());
  }
  return heap.List(std::move(items), value.sequence().kind);
}

bool CanRepeat(const Value& value) {
  return value.IsString() || (value.IsSequence() && value.sequence().kind <= SequenceKind::kTuple);
}

absl::StatusOr<Value> Join(Heap& heap, const Value& a, const Value& b) {
  if (a.IsString()) {
    RETURN_IF_ERROR(heap.CheckTextSize(static_cast<int64_t>(a.text().size() + b.text().size())));
    std::string text;
    text.reserve(a.text().size() + b.text().size());
    text.append(a.text()).append(b.text());
    return heap.Text(std::move(text));
  }
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(a.items().size() + b.items().size())));
  std::vector<Value> items;
  items.reserve(a.items().size() + b.items().size());
  items.insert(items.end(), a.items().begin(), a.items().end());
  items.insert(items.end(), b.items().begin(), b.items().end());
  return heap.List(std::move(items), a.sequence().kind);
}

bool CanJoin(const Value& a, const Value& b) {
  if (a.IsString() && b.IsString()) return true;
  return CanRepeat(a) && CanRepeat(b) && a.IsSequence() && b.IsSequence() &&
         a.sequence().kind == b.sequence().kind;
}

const char* Spelling(Operator op) {
  constexpr const char* kSpellings[] = {
      "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSpellings[static_cast<int>(op)];
}

// < == > as -1, 0, 1; 2 where NaN is in it.
absl::StatusOr<int> Order(Heap& heap, const Value& a, const Value& b) {
  RETURN_IF_ERROR(heap.Step());
  if (IsWhole(a) && IsWhole(b)) return Whole(a) < Whole(b) ? -1 : Whole(a) > Whole(b) ? 1 : 0;
  if (a.IsNumber() && b.IsNumber()) {
    const double x = Real(a);
    const double y = Real(b);
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
  }
  if (a.IsString() && b.IsString()) {
    const int order = a.text().compare(b.text());  // of bytes, as of code points
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  if (!CanJoin(a, b)) return Unsupported("<", a, b);
  const size_t common = std::min(a.items().size(), b.items().size());
  for (size_t i = 0; i < common; ++i) {
    if (Equal(a.items()[i], b.items()[i])) continue;
    return Order(heap, a.items()[i], b.items()[i]);
  }
  return a.items().size() < b.items().size() ? -1 : a.items().size() > b.items().size() ? 1 : 0;
}

// What comparing them may take.
int64_t ComparingSteps(const Value& a, const Value& b) { return std::min(a.weight(), b.weight()); }

}  // namespace

absl::StatusOr<Value> Arithmetic(Heap& heap, Operator op, const Value& a, const Value& b) {
  if (IsWhole(a) && IsWhole(b)) return IntegerArithmetic(op, Whole(a), Whole(b));
  if (a.IsNumber() && b.IsNumber()) return RealArithmetic(op, Real(a), Real(b));
  if (op == Operator::kAdd && CanJoin(a, b)) return Join(heap, a, b);
  if (op == Operator::kMultiply && CanRepeat(a) && IsWhole(b)) return Repeat(heap, a, Whole(b));
  if (op == Operator::kMultiply && IsWhole(a) && CanRepeat(b)) return Repeat(heap, b, Whole(a));
  if (op == Operator::kModulo && a.IsString()) return PercentFormat(heap, a.text(), b);
  return Unsupported(Spelling(op), a, b);
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (value.IsFloat()) return Value(-value.real());
  if (!IsWhole(value)) return WrongType(value, "a number");
  return IntegerArithmetic(Operator::kSubtract, 0, Whole(value));
}

absl::StatusOr<Value> Plus(const Value& value) {
  if (value.IsFloat()) return value;
  if (!IsWhole(value)) return WrongType(value, "a number");
  return Value(Whole(value));
}

absl::StatusOr<bool> Contains(Heap& heap, const Value& container, const Value& item) {
  if (container.IsString()) {
    if (!item.IsString()) return Unsupported("in", item, container);
    RETURN_IF_ERROR(heap.Step(1 + static_cast<int64_t>(container.text().size() / 64)));
    return container.text().find(item.text()) != std::string::npos;
  }
  if (container.IsDict()) {
    if (item.IsDict() || item.IsList()) return Unsupported("in", item, container);
    if (!item.IsString()) {
      RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(container.dict().members().size())));
    }
    return container.dict().Find(item) != nullptr;
  }
  if (!container.IsSequence() && !container.IsUndefined())
    return Unsupported("in", item, container);
  ASSIGN_OR_RETURN(const Value sequence, AsSequence(heap, container));
  for (const Value& one : sequence.items()) {
    RETURN_IF_ERROR(heap.Step(ComparingSteps(one, item)));
    if (Equal(one, item)) return true;
  }
  return false;
}

absl::StatusOr<bool> Compare(Heap& heap, Operator op, const Value& a, const Value& b) {
  RETURN_IF_ERROR(heap.Step(ComparingSteps(a, b)));
  if (op == Operator::kEqual) return Equal(a, b);
  if (op == Operator::kNotEqual) return !Equal(a, b);
  if (op == Operator::kIn) return Contains(heap, b, a);
  if (op == Operator::kNotIn) {
    ASSIGN_OR_RETURN(const bool contains, Contains(heap, b, a));
    return !contains;
  }
  ASSIGN_OR_RETURN(const int order, Order(heap, a, b));
  switch (op) {
    case Operator::kLess:
      return order == -1;
    case Operator::kLessEqual:
      return order == -1 || order == 0;
    case Operator::kGreater:
      return order == 1;
    default:
      return order == 1 || order == 0;
  }
}

absl::StatusOr<int64_t> AsInteger(const Value& value) {
  if (!IsWhole(value)) return WrongType(value, "an integer");
  return Whole(value);
}

absl::StatusOr<double> AsReal(const Value& value) {
  if (!value.IsNumber()) return WrongType(value, "a number");
  return Real(value);
}

}  // namespace polystrate::jinja
