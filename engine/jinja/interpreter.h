// Interpreter: renders a parsed template once.
//
// Names are looked up at run time in scopes within each other, as jinja2 has them: a loop's round,
// a macro and a block that is kept have one of their own, `if` has none.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/jinja/ast.h"
#include "engine/jinja/functions.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/loop.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

// Expressions, statements and calls within each other while rendering.
inline constexpr int kMaxRenderDepth = 500;

struct Scope {
  explicit Scope(Scope* around) : parent(around) {}
  Value* Find(Symbol symbol);
  void Set(Symbol symbol, Value value);

  Scope* const parent;    // null: outermost
  bool captured = false;  // a macro looks names up in it
  std::vector<std::pair<Symbol, Value>> variables;
};

// What {% macro %} or {% call %} defined: parameters and text, and where its other names are found.
struct Macro {
  const Statement* definition;
  Scope* scope;
};

// For one Run. Errors are INVALID_ARGUMENT: "line N: what", or the words of raise_exception.
class Interpreter {
 public:
  // `parsed` outlives it.
  Interpreter(const Template& parsed, const RenderLimits& limits, absl::Time now);

  void Define(std::string_view name, Value value);
  absl::StatusOr<std::string> Run();
  // The error was the template's own: raise_exception's.
  bool raised() const { return raised_; }

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };

  // Statements: interpreter.cc.
  absl::StatusOr<Flow> Execute(const Body& body);
  absl::StatusOr<Flow> ExecuteOne(const Statement& statement);
  absl::StatusOr<Flow> ExecuteIf(const Statement& statement);
  absl::StatusOr<Flow> ExecuteFor(const Statement& statement);
  absl::StatusOr<Flow> ExecuteWith(const Statement& statement);
  absl::StatusOr<Flow> ExecuteScope(const Statement& statement);
  absl::Status ExecuteCall(const Statement& statement);
  absl::Status ExecuteSetBlock(const Statement& statement);
  absl::Status ExecuteFilter(const Statement& statement);
  absl::StatusOr<Value> LoopItems(const Statement& statement);
  absl::Status Assign(const Target& target, Value value);
  // What `body` writes, with its names looked up in `scope`.
  absl::StatusOr<Value> Captured(const Body& body, Scope* scope);
  absl::StatusOr<Value> DefineMacro(const Statement& statement);
  absl::Status Write(std::string_view text);

  // Expressions: evaluation.cc.
  absl::StatusOr<Value> Evaluate(const Expr& expr);
  absl::StatusOr<Value> EvaluateKind(const Expr& expr);
  absl::StatusOr<Value> EvaluateName(const Expr& expr);
  absl::StatusOr<Value> EvaluateItem(const Expr& expr);
  absl::StatusOr<Value> EvaluateSlice(const Expr& expr);
  absl::StatusOr<Value> EvaluateObject(const Expr& expr);
  absl::StatusOr<Value> EvaluateConcat(const Expr& expr);
  absl::StatusOr<Value> EvaluateCompare(const Expr& expr);
  absl::StatusOr<Value> EvaluateBinary(const Expr& expr);
  absl::StatusOr<Value> EvaluateLogic(const Expr& expr);
  absl::StatusOr<Value> EvaluateCondition(const Expr& expr);
  absl::StatusOr<Value> EvaluateFilterOrTest(const Expr& expr);
  absl::StatusOr<Value> EvaluateCall(const Expr& expr, const Value* caller);
  absl::StatusOr<std::vector<Value>> EvaluateAll(const std::vector<ExprPtr>& exprs);
  // The arguments behind children[0].
  absl::StatusOr<Arguments> EvaluateArguments(const Expr& expr);
  absl::StatusOr<Value> CallValue(const Value& callee, const Arguments& arguments);
  absl::StatusOr<Value> CallMacro(const Macro& macro, const Arguments& arguments);
  absl::StatusOr<Value> CallFunction(Function function, const Arguments& arguments);
  absl::StatusOr<Value> NewNamespace(const Arguments& arguments);
  absl::Status SetMember(Namespace& name_space, std::string_view name, Value value);

  absl::Status EnterLevel();
  // An error's line is that of the innermost place that saw it.
  template <typename Result>
  Result Located(Result result, int line) {
    if (!result.ok() && error_line_ == 0) error_line_ = line;
    return result;
  }
  // Ends the scope that `scope_` is: kept where a macro needs it.
  void Leave(std::unique_ptr<Scope> scope);

  const Template& template_;
  const absl::Time now_;
  Heap heap_;  // outlives all values
  std::deque<Namespace> namespaces_;
  std::deque<Loop> loops_;
  std::deque<Macro> macros_;
  std::vector<std::unique_ptr<Scope>> kept_scopes_;
  Scope root_{nullptr};
  Scope* scope_ = &root_;
  Value block_text_;  // what a filter at the head of a chain takes
  std::string output_;
  std::string* out_ = &output_;
  Symbol loop_symbol_ = -1;  // of `loop` and `caller`; -1: the template has no such name
  Symbol caller_symbol_ = -1;
  int depth_ = 0;
  int error_line_ = 0;
  bool raised_ = false;  // the error is the template's own
};

}  // namespace polystrate::jinja
