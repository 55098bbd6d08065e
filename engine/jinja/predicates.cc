#include "engine/jinja/predicates.h"

#include <utility>

#include "engine/jinja/filters.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/operators.h"
#include "engine/jinja/repr.h"
#include "engine/jinja/text.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

template <bool (*holds)(const Value&)>
absl::StatusOr<Value> Simple(Heap&, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  return Value(holds(self));
}

bool IsDefined(const Value& value) { return !value.IsUndefined(); }
bool IsUndefined(const Value& value) { return value.IsUndefined(); }
bool IsNone(const Value& value) { return value.IsNone(); }
bool IsBoolean(const Value& value) { return value.IsBool(); }
bool IsTrueItself(const Value& value) { return value.IsBool() && value.boolean(); }
bool IsFalseItself(const Value& value) { return value.IsBool() && !value.boolean(); }
bool IsInteger(const Value& value) { return value.IsInt(); }
bool IsFloat(const Value& value) { return value.IsFloat(); }
bool IsNumber(const Value& value) { return value.IsNumber(); }
bool IsString(const Value& value) { return value.IsString(); }
bool IsMapping(const Value& value) { return value.IsDict(); }
bool IsSequence(const Value& value) {
  if (value.IsUndefined()) return true;  // it has no items
  return value.IsString() || value.IsDict() ||
         (value.IsSequence() && value.sequence().kind <= SequenceKind::kRange);
}
bool IsIterable(const Value& value) {
  return value.IsString() || value.IsDict() || value.IsSequence() || value.IsUndefined() ||
         value.type() == Type::kLoop;
}
bool IsCallable(const Value& value) {
  return value.type() == Type::kMacro || value.type() == Type::kMethod ||
         value.type() == Type::kFunction || value.IsUndefined() || value.type() == Type::kLoop;
}
bool IsEscaped(const Value&) { return false; }

template <bool upper>
absl::StatusOr<Value> CaseTest(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  ASSIGN_OR_RETURN(const std::string text, Str(heap, self));
  return Value(HasCased(text, upper));
}

template <int64_t remainder>
absl::StatusOr<Value> Modulo2(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  ASSIGN_OR_RETURN(const Value rest, Arithmetic(heap, Operator::kModulo, self, Value(int64_t{2})));
  return Value(Equal(rest, Value(remainder)));
}

absl::StatusOr<Value> DivisibleBy(Heap& heap, const Value& self, const Arguments& arguments) {
  Value divisor;
  RETURN_IF_ERROR(Take(arguments, {{"num", &divisor, false}}));
  ASSIGN_OR_RETURN(const Value rest, Arithmetic(heap, Operator::kModulo, self, divisor));
  return Value(Equal(rest, Value(int64_t{0})));
}

template <Operator op>
absl::StatusOr<Value> Comparison(Heap& heap, const Value& self, const Arguments& arguments) {
  Value other;
  RETURN_IF_ERROR(Take(arguments, {{"other", &other, false}}));
  ASSIGN_OR_RETURN(const bool holds, Compare(heap, op, self, other));
  return Value(holds);
}

// `is`: for the few values of which there is only one.
absl::StatusOr<Value> SameAs(Heap&, const Value& self, const Arguments& arguments) {
  Value other;
  RETURN_IF_ERROR(Take(arguments, {{"other", &other, false}}));
  return Value(self.type() == other.type() && Equal(self, other));
}

template <Callable (*find)(std::string_view)>
absl::StatusOr<Value> Known(Heap&, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  return Value(self.IsString() && find(self.text()) != nullptr);
}

constexpr std::pair<std::string_view, Callable> kTests[] = {
    {"!=", Comparison<Operator::kNotEqual>},
    {"<", Comparison<Operator::kLess>},
    {"<=", Comparison<Operator::kLessEqual>},
    {"==", Comparison<Operator::kEqual>},
    {">", Comparison<Operator::kGreater>},
    {">=", Comparison<Operator::kGreaterEqual>},
    {"boolean", Simple<IsBoolean>},
    {"callable", Simple<IsCallable>},
    {"defined", Simple<IsDefined>},
    {"divisibleby", DivisibleBy},
    {"eq", Comparison<Operator::kEqual>},
    {"equalto", Comparison<Operator::kEqual>},
    {"escaped", Simple<IsEscaped>},
    {"even", Modulo2<0>},
    {"false", Simple<IsFalseItself>},
    {"filter", Known<FindFilter>},
    {"float", Simple<IsFloat>},
    {"ge", Comparison<Operator::kGreaterEqual>},
    {"greaterthan", Comparison<Operator::kGreater>},
    {"gt", Comparison<Operator::kGreater>},
    {"in", Comparison<Operator::kIn>},
    {"integer", Simple<IsInteger>},
    {"iterable", Simple<IsIterable>},
    {"le", Comparison<Operator::kLessEqual>},
    {"lessthan", Comparison<Operator::kLess>},
    {"lower", CaseTest<false>},
    {"lt", Comparison<Operator::kLess>},
    {"mapping", Simple<IsMapping>},
    {"ne", Comparison<Operator::kNotEqual>},
    {"none", Simple<IsNone>},
    {"number", Simple<IsNumber>},
    {"odd", Modulo2<1>},
    {"sameas", SameAs},
    {"sequence", Simple<IsSequence>},
    {"string", Simple<IsString>},
    {"test", Known<FindTest>},
    {"true", Simple<IsTrueItself>},
    {"undefined", Simple<IsUndefined>},
    {"upper", CaseTest<true>},
};

}  // namespace

Callable FindTest(std::string_view name) {
  for (const auto& [known, test] : kTests) {
    if (known == name) return test;
  }
  return nullptr;
}

}  // namespace polystrate::jinja
