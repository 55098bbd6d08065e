#include "engine/jinja/interpreter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/jinja/access.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/repr.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {

Value* Scope::Find(Symbol symbol) {
  for (auto& [known, value] : variables) {
    if (known == symbol) return &value;
  }
  return nullptr;
}

void Scope::Set(Symbol symbol, Value value) {
  if (Value* known = Find(symbol)) {
    *known = std::move(value);
  } else {
    variables.emplace_back(symbol, std::move(value));
  }
}

Interpreter::Interpreter(const Template& parsed, const RenderLimits& limits, absl::Time now)
    : template_(parsed), now_(now), heap_(limits) {
  for (size_t i = 0; i < parsed.symbols.size(); ++i) {
    const auto symbol = static_cast<Symbol>(i);
    const std::optional<Function> function = FindFunction(parsed.symbols[i]);
    if (function.has_value()) root_.Set(symbol, Value(*function));
    if (parsed.symbols[i] == "loop") loop_symbol_ = symbol;
    if (parsed.symbols[i] == "caller") caller_symbol_ = symbol;
  }
}

void Interpreter::Define(std::string_view name, Value value) {
  const auto found = std::find(template_.symbols.begin(), template_.symbols.end(), name);
  if (found == template_.symbols.end()) return;
  root_.Set(static_cast<Symbol>(found - template_.symbols.begin()), std::move(value));
}

absl::StatusOr<std::string> Interpreter::Run() {
  const auto flow = Execute(template_.body);
  if (flow.ok()) return std::move(output_);
  if (raised_) return flow.status();
  return absl::InvalidArgumentError(
      absl::StrFormat("line %d: %s", error_line_, flow.status().message()));
}

absl::Status Interpreter::EnterLevel() {
  RETURN_IF_ERROR(heap_.Step());
  if (++depth_ <= kMaxRenderDepth) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("calls and expressions nested deeper than %d levels", kMaxRenderDepth));
}

absl::Status Interpreter::Write(std::string_view text) {
  RETURN_IF_ERROR(heap_.CheckTextSize(static_cast<int64_t>(out_->size() + text.size())));
  RETURN_IF_ERROR(heap_.Step(static_cast<int64_t>(text.size() / 64)));
  out_->append(text);
  return absl::OkStatus();
}

void Interpreter::Leave(std::unique_ptr<Scope> scope) {
  scope_ = scope->parent;
  if (!scope->captured) return;
  if (scope_ != nullptr) scope_->captured = true;
  kept_scopes_.push_back(std::move(scope));
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Body& body) {
  for (const auto& statement : body) {
    RETURN_IF_ERROR(Located(EnterLevel(), statement->line));
    ASSIGN_OR_RETURN(const Flow flow, Located(ExecuteOne(*statement), statement->line));
    --depth_;
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteOne(const Statement& statement) {
  switch (statement.kind) {
    case StatementKind::kData:
      RETURN_IF_ERROR(Write(statement.text));
      return Flow::kNext;
    case StatementKind::kOutput: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expr));
      if (value.IsString()) {
        RETURN_IF_ERROR(Write(value.text()));
      } else {
        ASSIGN_OR_RETURN(const std::string text, Str(heap_, value));
        RETURN_IF_ERROR(Write(text));
      }
      return Flow::kNext;
    }
    case StatementKind::kIf:
      return ExecuteIf(statement);
    case StatementKind::kFor:
      return ExecuteFor(statement);
    case StatementKind::kSet: {
      ASSIGN_OR_RETURN(Value value, Evaluate(*statement.expr));
      RETURN_IF_ERROR(Assign(statement.target, std::move(value)));
      return Flow::kNext;
    }
    case StatementKind::kSetBlock:
      RETURN_IF_ERROR(ExecuteSetBlock(statement));
      return Flow::kNext;
    case StatementKind::kFilter:
      RETURN_IF_ERROR(ExecuteFilter(statement));
      return Flow::kNext;
    case StatementKind::kMacro: {
      ASSIGN_OR_RETURN(Value macro, DefineMacro(statement));
      RETURN_IF_ERROR(Assign(statement.target, std::move(macro)));
      return Flow::kNext;
    }
    case StatementKind::kCall:
      RETURN_IF_ERROR(ExecuteCall(statement));
      return Flow::kNext;
    case StatementKind::kWith:
      return ExecuteWith(statement);
    case StatementKind::kScope:
      return ExecuteScope(statement);
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteIf(const Statement& statement) {
  for (size_t i = 0; i < statement.conditions.size(); ++i) {
    ASSIGN_OR_RETURN(const Value condition, Evaluate(*statement.conditions[i]));
    if (condition.IsTrue()) return Execute(statement.bodies[i]);
  }
  if (statement.bodies.size() == statement.conditions.size()) return Flow::kNext;
  return Execute(statement.bodies.back());
}

// What is gone over: all of it, or where the loop has a condition, what fulfils that.
absl::StatusOr<Value> Interpreter::LoopItems(const Statement& statement) {
  ASSIGN_OR_RETURN(const Value all, Evaluate(*statement.expr));
  ASSIGN_OR_RETURN(Value sequence, AsSequence(heap_, all));
  const Expr* condition = statement.conditions[0].get();
  if (condition == nullptr) return sequence;
  std::vector<Value> kept;
  for (const Value& item : sequence.items()) {
    auto scope = std::make_unique<Scope>(scope_);
    scope_ = scope.get();
    RETURN_IF_ERROR(Assign(statement.target, item));
    ASSIGN_OR_RETURN(const Value holds, Evaluate(*condition));
    if (holds.IsTrue()) kept.push_back(item);
    Leave(std::move(scope));
  }
  return heap_.List(std::move(kept));
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteFor(const Statement& statement) {
  ASSIGN_OR_RETURN(Value sequence, LoopItems(statement));
  if (sequence.items().empty()) {
    return statement.bodies.size() > 1 ? Execute(statement.bodies[1]) : Flow::kNext;
  }
  RETURN_IF_ERROR(heap_.Keep(sizeof(Loop)));
  Loop& loop = loops_.emplace_back(Loop{.sequence = std::move(sequence)});
  for (size_t i = 0; i < loop.items().size(); ++i) {
    RETURN_IF_ERROR(heap_.Step());
    loop.index0 = static_cast<int64_t>(i);
    auto scope = std::make_unique<Scope>(scope_);
    scope_ = scope.get();
    if (loop_symbol_ >= 0) scope->Set(loop_symbol_, Value(&loop));
    RETURN_IF_ERROR(Assign(statement.target, loop.items()[i]));
    ASSIGN_OR_RETURN(const Flow flow, Execute(statement.bodies[0]));
    Leave(std::move(scope));
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteWith(const Statement& statement) {
  auto scope = std::make_unique<Scope>(scope_);
  std::vector<Value> values;
  for (const auto& [target, expr] : statement.bindings) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr));
    values.push_back(std::move(value));
  }
  scope_ = scope.get();
  for (size_t i = 0; i < values.size(); ++i) {
    RETURN_IF_ERROR(Assign(statement.bindings[i].first, std::move(values[i])));
  }
  ASSIGN_OR_RETURN(const Flow flow, Execute(statement.bodies[0]));
  Leave(std::move(scope));
  return flow;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteScope(const Statement& statement) {
  auto scope = std::make_unique<Scope>(scope_);
  scope_ = scope.get();
  ASSIGN_OR_RETURN(const Flow flow, Execute(statement.bodies[0]));
  Leave(std::move(scope));
  return flow;
}

absl::StatusOr<Value> Interpreter::Captured(const Body& body, Scope* scope) {
  Scope* const outside = std::exchange(scope_, scope);
  std::string text;
  std::string* const out = std::exchange(out_, &text);
  const auto flow = Execute(body);
  out_ = out;
  if (!flow.ok()) return flow.status();
  scope_ = outside;
  return heap_.Text(std::move(text));
}

absl::Status Interpreter::ExecuteSetBlock(const Statement& statement) {
  auto scope = std::make_unique<Scope>(scope_);
  ASSIGN_OR_RETURN(Value value, Captured(statement.bodies[0], scope.get()));
  Leave(std::move(scope));
  if (statement.expr != nullptr) {
    Value outside = std::exchange(block_text_, std::move(value));
    ASSIGN_OR_RETURN(value, Evaluate(*statement.expr));
    block_text_ = std::move(outside);
  }
  return Assign(statement.target, std::move(value));
}

absl::Status Interpreter::ExecuteFilter(const Statement& statement) {
  auto scope = std::make_unique<Scope>(scope_);
  ASSIGN_OR_RETURN(Value text, Captured(statement.bodies[0], scope.get()));
  Leave(std::move(scope));
  Value outside = std::exchange(block_text_, std::move(text));
  ASSIGN_OR_RETURN(const Value filtered, Evaluate(*statement.expr));
  block_text_ = std::move(outside);
  ASSIGN_OR_RETURN(const std::string written, Str(heap_, filtered));
  return Write(written);
}

absl::StatusOr<Value> Interpreter::DefineMacro(const Statement& statement) {
  RETURN_IF_ERROR(heap_.Keep(sizeof(Macro)));
  scope_->captured = true;
  return Value(&macros_.emplace_back(Macro{&statement, scope_}));
}

absl::Status Interpreter::ExecuteCall(const Statement& statement) {
  ASSIGN_OR_RETURN(const Value caller, DefineMacro(statement));
  ASSIGN_OR_RETURN(const Value value, EvaluateCall(*statement.expr, &caller));
  ASSIGN_OR_RETURN(const std::string text, Str(heap_, value));
  return Write(text);
}

absl::Status Interpreter::SetMember(Namespace& name_space, std::string_view name, Value value) {
  if (!name.empty() && name[0] == '_') {
    return absl::InvalidArgumentError(
        absl::StrFormat("a namespace's name may not start with _: '%s'", name));
  }
  RETURN_IF_ERROR(heap_.Step(static_cast<int64_t>(1 + name_space.members.size() / 8)));
  if (name_space.Find(name) == nullptr) {
    RETURN_IF_ERROR(heap_.Keep(static_cast<int64_t>(sizeof(Value) + 32 + name.size())));
  }
  name_space.Set(name, std::move(value));
  return absl::OkStatus();
}

absl::Status Interpreter::Assign(const Target& target, Value value) {
  if (target.is_tuple) {
    ASSIGN_OR_RETURN(const Value sequence, AsSequence(heap_, value));
    if (sequence.items().size() != target.targets.size()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%d values for %d names", sequence.items().size(), target.targets.size()));
    }
    for (size_t i = 0; i < target.targets.size(); ++i) {
      RETURN_IF_ERROR(Assign(target.targets[i], sequence.items()[i]));
    }
    return absl::OkStatus();
  }
  if (target.attribute.empty()) {
    scope_->Set(target.symbol, std::move(value));
    return absl::OkStatus();
  }
  for (Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    const Value* object = scope->Find(target.symbol);
    if (object == nullptr) continue;
    if (object->type() != Type::kNamespace) break;
    return SetMember(*object->name_space(), target.attribute, std::move(value));
  }
  return absl::InvalidArgumentError(absl::StrCat("cannot assign to '", target.name, ".",
                                                 target.attribute, "': it is no namespace"));
}

}  // namespace polystrate::jinja
