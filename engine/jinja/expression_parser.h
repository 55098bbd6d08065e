// ExpressionParser: tokens to expressions, by jinja2's grammar.
#pragma once

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/jinja/ast.h"
#include "engine/jinja/token_stream.h"

namespace polystrate::jinja {

// Numbers for names, as they come.
class SymbolTable {
 public:
  Symbol Of(const std::string& name);
  std::vector<std::string> TakeNames() { return std::move(names_); }

 private:
  absl::flat_hash_map<std::string, Symbol> symbols_;
  std::vector<std::string> names_;
};

inline constexpr int kMaxNesting = 200;  // of expressions, and of statements

// Errors are INVALID_ARGUMENT and start with "line N: ".
class ExpressionParser {
 public:
  // Both outlive the parser.
  ExpressionParser(TokenStream& tokens, SymbolTable& symbols)
      : tokens_(tokens), symbols_(symbols) {}

  absl::StatusOr<ExprPtr> Expression();        // a if b else c
  absl::StatusOr<ExprPtr> WithoutCondition();  // what may stand before `if`: a or b
  // Expressions with commas between them are a tuple.
  absl::StatusOr<ExprPtr> Tuple(bool with_condition, std::string_view end_name = {});
  // | filter | filter...; null where there is none.
  absl::StatusOr<ExprPtr> FilterChain(ExprPtr input);
  // filter | filter..., of a filter block.
  absl::StatusOr<ExprPtr> BlockFilter();
  // a, (b, c), namespace.d
  absl::StatusOr<Target> AssignmentTarget(bool with_attribute);
  absl::StatusOr<Target> OneTarget(bool with_attribute);

 private:
  using Method = absl::StatusOr<ExprPtr> (ExpressionParser::*)();

  absl::StatusOr<ExprPtr> Or();
  absl::StatusOr<ExprPtr> And();
  absl::StatusOr<ExprPtr> Not();
  absl::StatusOr<ExprPtr> Comparison();
  absl::StatusOr<ExprPtr> Sum();
  absl::StatusOr<ExprPtr> Concatenation();
  absl::StatusOr<ExprPtr> Product();
  absl::StatusOr<ExprPtr> Power();
  absl::StatusOr<ExprPtr> Unary() { return Signed(/*with_filter=*/true); }
  absl::StatusOr<ExprPtr> Signed(bool with_filter);
  absl::StatusOr<ExprPtr> Primary();
  absl::StatusOr<ExprPtr> ParenthesisedTuple();
  absl::StatusOr<ExprPtr> ListLiteral();
  absl::StatusOr<ExprPtr> DictLiteral();
  absl::StatusOr<ExprPtr> Postfix(ExprPtr expr);
  absl::StatusOr<ExprPtr> Attribute(ExprPtr object);
  absl::StatusOr<ExprPtr> Subscript(ExprPtr object);
  absl::StatusOr<ExprPtr> Call(ExprPtr callee);
  absl::StatusOr<ExprPtr> FilterOrTest(ExprPtr input);
  absl::StatusOr<ExprPtr> Filter(ExprPtr input);
  absl::StatusOr<ExprPtr> Test(ExprPtr input);
  absl::Status CallArguments(Expr& call);

  // operand (OP operand)..., from the left.
  struct BinaryOperator {
    std::string_view text;
    Operator op;
  };
  absl::StatusOr<ExprPtr> LeftToRight(Method operand, std::initializer_list<BinaryOperator> known);

  static std::unique_ptr<Expr> New(ExprKind kind, int line, ExprPtr first = nullptr);
  // Finished: refuses what is nested too deeply.
  absl::StatusOr<ExprPtr> Made(std::unique_ptr<Expr> expr) const;

  TokenStream& tokens_;
  SymbolTable& symbols_;
  int depth_ = 0;  // of what is being read
};

}  // namespace polystrate::jinja
