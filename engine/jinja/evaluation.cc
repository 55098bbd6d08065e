// Interpreter's expressions.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/jinja/access.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/functions.h"
#include "engine/jinja/interpreter.h"
#include "engine/jinja/methods.h"
#include "engine/jinja/operators.h"
#include "engine/jinja/repr.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {

absl::StatusOr<Value> Interpreter::Evaluate(const Expr& expr) {
  if (expr.kind == ExprKind::kConstant) return expr.constant;
  RETURN_IF_ERROR(Located(EnterLevel(), expr.line));
  ASSIGN_OR_RETURN(Value value, Located(EvaluateKind(expr), expr.line));
  --depth_;
  return value;
}

absl::StatusOr<Value> Interpreter::EvaluateKind(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.constant;
    case ExprKind::kName:
      return EvaluateName(expr);
    case ExprKind::kTuple:
    case ExprKind::kList: {
      ASSIGN_OR_RETURN(std::vector<Value> items, EvaluateAll(expr.children));
      return heap_.List(std::move(items),
                        expr.kind == ExprKind::kList ? SequenceKind::kList : SequenceKind::kTuple);
    }
    case ExprKind::kDict:
      return EvaluateObject(expr);
    case ExprKind::kAttribute: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.children[0]));
      return GetAttribute(heap_, object, expr.name);
    }
    case ExprKind::kItem:
      return EvaluateItem(expr);
    case ExprKind::kSlice:
      return EvaluateSlice(expr);
    case ExprKind::kCall:
      return EvaluateCall(expr, nullptr);
    case ExprKind::kFilter:
    case ExprKind::kTest:
      return EvaluateFilterOrTest(expr);
    case ExprKind::kNot: {
      ASSIGN_OR_RETURN(const Value operand, Evaluate(*expr.children[0]));
      return Value(!operand.IsTrue());
    }
    case ExprKind::kNegate:
    case ExprKind::kPlus: {
      ASSIGN_OR_RETURN(const Value operand, Evaluate(*expr.children[0]));
      return expr.kind == ExprKind::kNegate ? Negate(operand) : Plus(operand);
    }
    case ExprKind::kBinary:
      return EvaluateBinary(expr);
    case ExprKind::kConcat:
      return EvaluateConcat(expr);
    case ExprKind::kCompare:
      return EvaluateCompare(expr);
    case ExprKind::kAnd:
    case ExprKind::kOr:
      return EvaluateLogic(expr);
    case ExprKind::kCondition:
      return EvaluateCondition(expr);
  }
  return Value();
}

absl::StatusOr<Value> Interpreter::EvaluateName(const Expr& expr) {
  for (Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    if (const Value* value = scope->Find(expr.symbol)) return *value;
  }
  return Value(Undefined{&expr.name, nullptr});
}

absl::StatusOr<std::vector<Value>> Interpreter::EvaluateAll(const std::vector<ExprPtr>& exprs) {
  std::vector<Value> values;
  values.reserve(exprs.size());
  for (const ExprPtr& expr : exprs) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr));
    values.push_back(std::move(value));
  }
  return values;
}

absl::StatusOr<Value> Interpreter::EvaluateObject(const Expr& expr) {
  std::vector<Dict::Member> members;
  for (size_t i = 0; i < expr.children.size(); i += 2) {
    ASSIGN_OR_RETURN(Value key, Evaluate(*expr.children[i]));
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr.children[i + 1]));
    members.emplace_back(std::move(key), std::move(value));
  }
  return heap_.Object(std::move(members));
}

absl::StatusOr<Value> Interpreter::EvaluateItem(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.children[0]));
  ASSIGN_OR_RETURN(const Value key, Evaluate(*expr.children[1]));
  ASSIGN_OR_RETURN(Value item, GetItem(heap_, object, key));
  const Value& constant = expr.children[1]->constant;
  if (item.IsUndefined() && constant.IsString()) {
    return Value(Undefined{&constant.text(), object.TypeName()});
  }
  return item;
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.children[0]));
  Value bounds[3] = {Value::None(), Value::None(), Value::None()};
  for (size_t i = 0; i < 3; ++i) {
    if (expr.children[i + 1] == nullptr) continue;
    ASSIGN_OR_RETURN(bounds[i], Evaluate(*expr.children[i + 1]));
  }
  return Slice(heap_, object, bounds[0], bounds[1], bounds[2]);
}

absl::StatusOr<Value> Interpreter::EvaluateConcat(const Expr& expr) {
  ASSIGN_OR_RETURN(const std::vector<Value> parts, EvaluateAll(expr.children));
  return JoinTexts(heap_, "", parts);
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expr& expr) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expr.children[0]));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    ASSIGN_OR_RETURN(Value right, Evaluate(*expr.children[i + 1]));
    ASSIGN_OR_RETURN(const bool holds, Compare(heap_, expr.operators[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

absl::StatusOr<Value> Interpreter::EvaluateBinary(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value left, Evaluate(*expr.children[0]));
  ASSIGN_OR_RETURN(const Value right, Evaluate(*expr.children[1]));
  return Arithmetic(heap_, expr.operators[0], left, right);
}

// As in Python, the operand that decides is the value.
absl::StatusOr<Value> Interpreter::EvaluateLogic(const Expr& expr) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expr.children[0]));
  if (left.IsTrue() == (expr.kind == ExprKind::kOr)) return left;
  return Evaluate(*expr.children[1]);
}

absl::StatusOr<Value> Interpreter::EvaluateCondition(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value condition, Evaluate(*expr.children[1]));
  if (condition.IsTrue()) return Evaluate(*expr.children[0]);
  if (expr.children[2] == nullptr) return Value();
  return Evaluate(*expr.children[2]);
}

absl::StatusOr<Value> Interpreter::EvaluateFilterOrTest(const Expr& expr) {
  Value input = block_text_;
  if (expr.children[0] != nullptr) {
    ASSIGN_OR_RETURN(input, Evaluate(*expr.children[0]));
  }
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr));
  auto result = expr.callable(heap_, input, arguments);
  if (result.ok()) return result;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s '%s': %s", expr.kind == ExprKind::kFilter ? "filter" : "test", expr.name,
                      result.status().message()));
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expr& expr) {
  Arguments arguments;
  for (size_t i = 1; i < expr.children.size(); ++i) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr.children[i]));
    arguments.positional.push_back(std::move(value));
  }
  for (const KeywordExpr& keyword : expr.keywords) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*keyword.value));
    arguments.keywords.emplace_back(keyword.name, std::move(value));
  }
  return arguments;
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expr& expr, const Value* caller) {
  const Expr& callee = *expr.children[0];
  Value object;
  Value function;
  const bool attribute = callee.kind == ExprKind::kAttribute;
  if (attribute) {
    ASSIGN_OR_RETURN(object, Evaluate(*callee.children[0]));
  } else {
    ASSIGN_OR_RETURN(function, Evaluate(callee));
  }
  ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(expr));
  if (caller != nullptr) arguments.keywords.emplace_back("caller", *caller);
  if (attribute) {
    if (FindMethod(object, callee.name) == MethodKind::kKnown) {
      return CallMethod(heap_, object, callee.name, arguments);
    }
    if (FindMethod(object, callee.name) == MethodKind::kForbidden) {
      return absl::InvalidArgumentError(absl::StrFormat("%s() would change a value of type '%s'",
                                                        callee.name, object.TypeName()));
    }
    if (object.type() == Type::kLoop) return CallLoop(*object.loop(), callee.name, arguments);
    ASSIGN_OR_RETURN(function, GetAttribute(heap_, object, callee.name));
  }
  return CallValue(function, arguments);
}

absl::StatusOr<Value> Interpreter::CallValue(const Value& callee, const Arguments& arguments) {
  switch (callee.type()) {
    case Type::kMacro:
      return CallMacro(*callee.macro(), arguments);
    case Type::kMethod:
      return CallMethod(heap_, callee.method().self, callee.method().name, arguments);
    case Type::kFunction:
      return CallFunction(callee.function(), arguments);
    default:
      return WrongType(callee, "something to call");
  }
}

absl::StatusOr<Value> Interpreter::CallMacro(const Macro& macro, const Arguments& arguments) {
  const Statement& definition = *macro.definition;
  auto scope = std::make_unique<Scope>(macro.scope);
  std::vector<Value> passed(definition.parameters.size());
  std::vector<Slot> slots;
  Arguments own = arguments;
  const auto caller = std::find_if(own.keywords.begin(), own.keywords.end(),
                                   [](const auto& keyword) { return keyword.first == "caller"; });
  if (caller != own.keywords.end()) {
    if (caller_symbol_ >= 0) scope->Set(caller_symbol_, caller->second);
    own.keywords.erase(caller);
  }
  for (size_t i = 0; i < passed.size(); ++i) {
    slots.push_back({definition.parameters[i].name, &passed[i]});
  }
  RETURN_IF_ERROR(Take(own, slots));
  Scope* const outside = std::exchange(scope_, scope.get());
  for (size_t i = 0; i < passed.size(); ++i) {
    const Parameter& parameter = definition.parameters[i];
    const bool given = i < own.positional.size() || own.FindKeyword(parameter.name) != nullptr;
    if (!given && parameter.otherwise != nullptr) {
      ASSIGN_OR_RETURN(passed[i], Evaluate(*parameter.otherwise));
    } else if (!given) {
      passed[i] = Value(Undefined{&parameter.name, nullptr});
    }
    scope->Set(parameter.symbol, std::move(passed[i]));
  }
  ASSIGN_OR_RETURN(Value text, Captured(definition.bodies[0], scope.get()));
  Leave(std::move(scope));
  scope_ = outside;
  return text;
}

absl::StatusOr<Value> Interpreter::CallFunction(Function function, const Arguments& arguments) {
  switch (function) {
    case Function::kRange:
      return CallRange(heap_, arguments);
    case Function::kDict:
      return CallDict(heap_, arguments);
    case Function::kNamespace:
      return NewNamespace(arguments);
    case Function::kStrftimeNow:
      return CallStrftime(heap_, arguments, now_);
    case Function::kRaiseException:
      break;
  }
  Value message;
  RETURN_IF_ERROR(Take(arguments, {{"message", &message, false}}));
  ASSIGN_OR_RETURN(const std::string text, Str(heap_, message));
  raised_ = true;
  return absl::InvalidArgumentError(text);
}

absl::StatusOr<Value> Interpreter::NewNamespace(const Arguments& arguments) {
  RETURN_IF_ERROR(heap_.Keep(sizeof(Namespace)));
  ASSIGN_OR_RETURN(const Value members, CallDict(heap_, arguments));
  Namespace& name_space = namespaces_.emplace_back();
  for (const auto& [key, value] : members.dict().members()) {
    if (!key.IsString()) return WrongType(key, "a name");
    RETURN_IF_ERROR(SetMember(name_space, key.text(), value));
  }
  return Value(&name_space);
}

}  // namespace polystrate::jinja
