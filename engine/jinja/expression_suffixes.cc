// ExpressionParser's suffixes: what may stand behind an operand.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/jinja/expression_parser.h"
#include "engine/jinja/filters.h"
#include "engine/jinja/predicates.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {

absl::StatusOr<ExprPtr> ExpressionParser::Postfix(ExprPtr expr) {
  while (true) {
    if (tokens_.AtOperator(".")) {
      ASSIGN_OR_RETURN(expr, Attribute(std::move(expr)));
    } else if (tokens_.AtOperator("[")) {
      ASSIGN_OR_RETURN(expr, Subscript(std::move(expr)));
    } else if (tokens_.AtOperator("(")) {
      ASSIGN_OR_RETURN(expr, Call(std::move(expr)));
    } else {
      return expr;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Attribute(ExprPtr object) {
  const int line = tokens_.Take().line;
  if (tokens_.At(Token::kName)) {
    auto expr = New(ExprKind::kAttribute, line, std::move(object));
    expr->name = tokens_.Take().text;
    return Made(std::move(expr));
  }
  if (!tokens_.At(Token::kInteger)) return tokens_.Unexpected("a name or a number");
  auto index = New(ExprKind::kConstant, line);
  index->constant = Value(tokens_.Take().integer);
  auto expr = New(ExprKind::kItem, line, std::move(object));
  expr->children.push_back(std::move(index));
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Subscript(ExprPtr object) {
  auto expr = New(ExprKind::kItem, tokens_.Take().line, std::move(object));
  ExprPtr first;
  if (!tokens_.AtOperator(":")) {
    ASSIGN_OR_RETURN(first, Expression());
  }
  expr->children.push_back(std::move(first));
  for (int i = 0; i < 2 && tokens_.SkipOperator(":"); ++i) {
    expr->kind = ExprKind::kSlice;
    ExprPtr bound;
    if (!tokens_.AtOperator(":") && !tokens_.AtOperator("]")) {
      ASSIGN_OR_RETURN(bound, Expression());
    }
    expr->children.push_back(std::move(bound));
  }
  if (expr->kind == ExprKind::kSlice) expr->children.resize(4);
  if (tokens_.AtOperator(",")) {
    return LineError(tokens_.line(), "several indices in one pair of brackets");
  }
  RETURN_IF_ERROR(tokens_.ExpectOperator("]"));
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Call(ExprPtr callee) {
  auto expr = New(ExprKind::kCall, tokens_.line(), std::move(callee));
  RETURN_IF_ERROR(CallArguments(*expr));
  return Made(std::move(expr));
}

absl::Status ExpressionParser::CallArguments(Expr& call) {
  RETURN_IF_ERROR(tokens_.ExpectOperator("("));
  while (!tokens_.AtOperator(")")) {
    if (tokens_.AtOperator("*") || tokens_.AtOperator("**")) {
      return LineError(tokens_.line(), "arguments that are unpacked with * or **");
    }
    if (tokens_.At(Token::kName) && tokens_.next().type == Token::kOperator &&
        tokens_.next().text == "=") {
      const std::string name = tokens_.Take().text;
      tokens_.Take();
      ASSIGN_OR_RETURN(ExprPtr value, Expression());
      call.keywords.push_back({name, std::move(value)});
    } else if (!call.keywords.empty()) {
      return LineError(tokens_.line(), "an argument without a name behind one with a name");
    } else {
      ASSIGN_OR_RETURN(ExprPtr value, Expression());
      call.children.push_back(std::move(value));
    }
    if (!tokens_.SkipOperator(",")) break;
  }
  return tokens_.ExpectOperator(")");
}

absl::StatusOr<ExprPtr> ExpressionParser::FilterOrTest(ExprPtr input) {
  while (true) {
    if (tokens_.AtOperator("|")) {
      ASSIGN_OR_RETURN(input, Filter(std::move(input)));
    } else if (tokens_.AtName("is")) {
      ASSIGN_OR_RETURN(input, Test(std::move(input)));
    } else if (tokens_.AtOperator("(")) {
      ASSIGN_OR_RETURN(input, Call(std::move(input)));
    } else {
      return input;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::FilterChain(ExprPtr input) {
  while (tokens_.AtOperator("|")) {
    ASSIGN_OR_RETURN(input, Filter(std::move(input)));
  }
  return input;
}

absl::StatusOr<ExprPtr> ExpressionParser::BlockFilter() {
  ASSIGN_OR_RETURN(ExprPtr first, Filter(nullptr));
  return FilterChain(std::move(first));
}

// At the bar, or, in a filter block, at the name.
absl::StatusOr<ExprPtr> ExpressionParser::Filter(ExprPtr input) {
  tokens_.SkipOperator("|");
  if (!tokens_.At(Token::kName)) return tokens_.Unexpected("the name of a filter");
  auto expr = New(ExprKind::kFilter, tokens_.line());
  expr->children.push_back(std::move(input));
  expr->name = tokens_.Take().text;
  expr->callable = FindFilter(expr->name);
  if (expr->callable == nullptr) {
    return LineError(expr->line, absl::StrCat("no filter named '", expr->name, "'"));
  }
  if (tokens_.AtOperator("(")) RETURN_IF_ERROR(CallArguments(*expr));
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Test(ExprPtr input) {
  const int line = tokens_.Take().line;
  const bool negated = tokens_.SkipName("not");
  if (!tokens_.At(Token::kName)) return tokens_.Unexpected("the name of a test");
  auto expr = New(ExprKind::kTest, line, std::move(input));
  expr->name = tokens_.Take().text;
  expr->callable = FindTest(expr->name);
  if (expr->callable == nullptr) {
    return LineError(line, absl::StrCat("no test named '", expr->name, "'"));
  }
  const bool operand = tokens_.At(Token::kString) || tokens_.At(Token::kInteger) ||
                       tokens_.At(Token::kFloat) || tokens_.AtOperator("[") ||
                       tokens_.AtOperator("{") ||
                       (tokens_.At(Token::kName) && !tokens_.AtName("else") &&
                        !tokens_.AtName("or") && !tokens_.AtName("and") && !tokens_.AtName("is") &&
                        !tokens_.AtName("if") && !tokens_.AtName("in"));
  if (tokens_.AtOperator("(")) {
    RETURN_IF_ERROR(CallArguments(*expr));
  } else if (tokens_.AtName("is")) {
    return LineError(tokens_.line(), "a test of a test");
  } else if (operand) {
    ASSIGN_OR_RETURN(ExprPtr argument, Primary());
    ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
    expr->children.push_back(std::move(argument));
  }
  if (!negated) return Made(std::move(expr));
  ASSIGN_OR_RETURN(ExprPtr test, Made(std::move(expr)));
  return Made(New(ExprKind::kNot, line, std::move(test)));
}

}  // namespace polystrate::jinja
