#include "engine/jinja/expression_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

// Counts what is open while it lives.
class Level {
 public:
  explicit Level(int& depth) : depth_(depth) { ++depth_; }
  ~Level() { --depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  int& depth_;
};

absl::Status TooDeep(int line) {
  return LineError(line, absl::StrCat("an expression of more than ", kMaxNesting, " levels"));
}

}  // namespace

Symbol SymbolTable::Of(const std::string& name) {
  const auto [found, added] = symbols_.emplace(name, static_cast<Symbol>(names_.size()));
  if (added) names_.push_back(name);
  return found->second;
}

std::unique_ptr<Expr> ExpressionParser::New(ExprKind kind, int line, ExprPtr first) {
  auto expr = std::make_unique<Expr>(Expr{.kind = kind, .line = line});
  if (first != nullptr) expr->children.push_back(std::move(first));
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::Made(std::unique_ptr<Expr> expr) const {
  for (const ExprPtr& child : expr->children) {
    if (child != nullptr) expr->depth = std::max(expr->depth, child->depth + 1);
  }
  for (const KeywordExpr& keyword : expr->keywords) {
    expr->depth = std::max(expr->depth, keyword.value->depth + 1);
  }
  if (expr->depth > kMaxNesting) return TooDeep(expr->line);
  return ExprPtr(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Expression() {
  const Level level(depth_);
  if (depth_ > kMaxNesting) return TooDeep(tokens_.line());
  const int line = tokens_.line();
  ASSIGN_OR_RETURN(ExprPtr expr, Or());
  while (tokens_.SkipName("if")) {
    auto condition = New(ExprKind::kCondition, line, std::move(expr));
    ASSIGN_OR_RETURN(ExprPtr test, Or());
    condition->children.push_back(std::move(test));
    condition->children.push_back(nullptr);
    if (tokens_.SkipName("else")) {
      ASSIGN_OR_RETURN(condition->children.back(), Expression());
    }
    ASSIGN_OR_RETURN(expr, Made(std::move(condition)));
  }
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::WithoutCondition() { return Or(); }

absl::StatusOr<ExprPtr> ExpressionParser::Or() {
  const int line = tokens_.line();
  ASSIGN_OR_RETURN(ExprPtr left, And());
  while (tokens_.SkipName("or")) {
    auto expr = New(ExprKind::kOr, line, std::move(left));
    ASSIGN_OR_RETURN(ExprPtr right, And());
    expr->children.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Made(std::move(expr)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::And() {
  const int line = tokens_.line();
  ASSIGN_OR_RETURN(ExprPtr left, Not());
  while (tokens_.SkipName("and")) {
    auto expr = New(ExprKind::kAnd, line, std::move(left));
    ASSIGN_OR_RETURN(ExprPtr right, Not());
    expr->children.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Made(std::move(expr)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::Not() {
  const int line = tokens_.line();
  if (!tokens_.SkipName("not")) return Comparison();
  const Level level(depth_);
  if (depth_ > kMaxNesting) return TooDeep(line);
  ASSIGN_OR_RETURN(ExprPtr operand, Not());
  return Made(New(ExprKind::kNot, line, std::move(operand)));
}

absl::StatusOr<ExprPtr> ExpressionParser::Comparison() {
  constexpr BinaryOperator kKnown[] = {{"==", Operator::kEqual},  {"!=", Operator::kNotEqual},
                                       {"<", Operator::kLess},    {"<=", Operator::kLessEqual},
                                       {">", Operator::kGreater}, {">=", Operator::kGreaterEqual}};
  const int line = tokens_.line();
  ASSIGN_OR_RETURN(ExprPtr first, Sum());
  auto expr = New(ExprKind::kCompare, line, std::move(first));
  while (true) {
    const auto known = std::find_if(std::begin(kKnown), std::end(kKnown), [this](const auto& one) {
      return tokens_.AtOperator(one.text);
    });
    if (known != std::end(kKnown)) {
      tokens_.Take();
      expr->operators.push_back(known->op);
    } else if (tokens_.SkipName("in")) {
      expr->operators.push_back(Operator::kIn);
    } else if (tokens_.AtName("not") && tokens_.next().type == Token::kName &&
               tokens_.next().text == "in") {
      tokens_.Take();
      tokens_.Take();
      expr->operators.push_back(Operator::kNotIn);
    } else {
      break;
    }
    ASSIGN_OR_RETURN(ExprPtr operand, Sum());
    expr->children.push_back(std::move(operand));
  }
  if (expr->operators.empty()) return std::move(expr->children[0]);
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::LeftToRight(Method operand,
                                                      std::initializer_list<BinaryOperator> known) {
  const int line = tokens_.line();
  ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  while (true) {
    const auto found = std::find_if(known.begin(), known.end(), [this](const auto& one) {
      return tokens_.AtOperator(one.text);
    });
    if (found == known.end()) return left;
    tokens_.Take();
    auto expr = New(ExprKind::kBinary, line, std::move(left));
    expr->operators.push_back(found->op);
    ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    expr->children.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Made(std::move(expr)));
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Sum() {
  return LeftToRight(&ExpressionParser::Concatenation,
                     {{"+", Operator::kAdd}, {"-", Operator::kSubtract}});
}

absl::StatusOr<ExprPtr> ExpressionParser::Concatenation() {
  const int line = tokens_.line();
  ASSIGN_OR_RETURN(ExprPtr first, Product());
  if (!tokens_.AtOperator("~")) return first;
  auto expr = New(ExprKind::kConcat, line, std::move(first));
  while (tokens_.SkipOperator("~")) {
    ASSIGN_OR_RETURN(ExprPtr operand, Product());
    expr->children.push_back(std::move(operand));
  }
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Product() {
  return LeftToRight(&ExpressionParser::Power, {{"*", Operator::kMultiply},
                                                {"/", Operator::kDivide},
                                                {"//", Operator::kFloorDivide},
                                                {"%", Operator::kModulo}});
}

absl::StatusOr<ExprPtr> ExpressionParser::Power() {
  return LeftToRight(&ExpressionParser::Unary, {{"**", Operator::kPower}});
}

// The filters behind -x are those of -x, not of x.
absl::StatusOr<ExprPtr> ExpressionParser::Signed(bool with_filter) {
  const int line = tokens_.line();
  const Level level(depth_);
  if (depth_ > kMaxNesting) return TooDeep(line);
  const bool minus = tokens_.SkipOperator("-");
  ExprPtr expr;
  if (minus || tokens_.SkipOperator("+")) {
    ASSIGN_OR_RETURN(ExprPtr operand, Signed(/*with_filter=*/false));
    ASSIGN_OR_RETURN(
        expr, Made(New(minus ? ExprKind::kNegate : ExprKind::kPlus, line, std::move(operand))));
  } else {
    ASSIGN_OR_RETURN(expr, Primary());
  }
  ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
  if (!with_filter) return expr;
  return FilterOrTest(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::Primary() {
  const int line = tokens_.line();
  if (tokens_.AtOperator("(")) return ParenthesisedTuple();
  if (tokens_.AtOperator("[")) return ListLiteral();
  if (tokens_.AtOperator("{")) return DictLiteral();
  auto expr = New(ExprKind::kConstant, line);
  if (tokens_.At(Token::kString)) {
    std::string text;  // neighbours are one
    while (tokens_.At(Token::kString)) text += tokens_.Take().text;
    expr->constant = Value::Text(std::move(text));
  } else if (tokens_.At(Token::kInteger)) {
    expr->constant = Value(tokens_.Take().integer);
  } else if (tokens_.At(Token::kFloat)) {
    expr->constant = Value(tokens_.Take().real);
  } else if (tokens_.At(Token::kName)) {
    const std::string& name = tokens_.Take().text;
    if (name == "true" || name == "True" || name == "false" || name == "False") {
      expr->constant = Value(name == "true" || name == "True");
    } else if (name == "none" || name == "None") {
      expr->constant = Value::None();
    } else {
      expr->kind = ExprKind::kName;
      expr->name = name;
      expr->symbol = symbols_.Of(name);
    }
  } else {
    return tokens_.Unexpected("an expression");
  }
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParenthesisedTuple() {
  const int line = tokens_.Take().line;
  ExprPtr expr;
  if (tokens_.AtOperator(")")) {
    ASSIGN_OR_RETURN(expr, Made(New(ExprKind::kTuple, line)));
  } else {
    ASSIGN_OR_RETURN(expr, Tuple(/*with_condition=*/true));
  }
  RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
  return expr;
}

absl::StatusOr<ExprPtr> ExpressionParser::Tuple(bool with_condition, std::string_view end_name) {
  const int line = tokens_.line();
  std::vector<ExprPtr> children;
  bool is_tuple = false;
  while (true) {
    if (!children.empty() &&
        (tokens_.At(Token::kVariableEnd) || tokens_.At(Token::kBlockEnd) ||
         tokens_.AtOperator(")") || (!end_name.empty() && tokens_.AtName(end_name)))) {
      break;  // behind a comma at the end
    }
    ASSIGN_OR_RETURN(ExprPtr child, with_condition ? Expression() : WithoutCondition());
    children.push_back(std::move(child));
    if (!tokens_.SkipOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) return std::move(children[0]);
  auto expr = New(ExprKind::kTuple, line);
  expr->children = std::move(children);
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::ListLiteral() {
  auto expr = New(ExprKind::kList, tokens_.Take().line);
  while (!tokens_.AtOperator("]")) {
    ASSIGN_OR_RETURN(ExprPtr item, Expression());
    expr->children.push_back(std::move(item));
    if (!tokens_.SkipOperator(",")) break;
  }
  RETURN_IF_ERROR(tokens_.ExpectOperator("]"));
  return Made(std::move(expr));
}

absl::StatusOr<ExprPtr> ExpressionParser::DictLiteral() {
  auto expr = New(ExprKind::kDict, tokens_.Take().line);
  while (!tokens_.AtOperator("}")) {
    ASSIGN_OR_RETURN(ExprPtr key, Expression());
    expr->children.push_back(std::move(key));
    RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
    ASSIGN_OR_RETURN(ExprPtr value, Expression());
    expr->children.push_back(std::move(value));
    if (!tokens_.SkipOperator(",")) break;
  }
  RETURN_IF_ERROR(tokens_.ExpectOperator("}"));
  return Made(std::move(expr));
}

absl::StatusOr<Target> ExpressionParser::OneTarget(bool with_attribute) {
  Target target;
  if (tokens_.SkipOperator("(")) {
    const Level level(depth_);
    if (depth_ > kMaxNesting) return TooDeep(tokens_.line());
    ASSIGN_OR_RETURN(target, AssignmentTarget(with_attribute));
    RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
    return target;
  }
  if (!tokens_.At(Token::kName)) return tokens_.Unexpected("a name to assign to");
  target.name = tokens_.Take().text;
  for (const char* constant : {"true", "false", "none", "True", "False", "None"}) {
    if (target.name == constant) {
      return LineError(tokens_.line(), absl::StrCat("cannot assign to '", target.name, "'"));
    }
  }
  target.symbol = symbols_.Of(target.name);
  if (with_attribute && tokens_.SkipOperator(".")) {
    if (!tokens_.At(Token::kName)) return tokens_.Unexpected("a name");
    target.attribute = tokens_.Take().text;
  }
  return target;
}

absl::StatusOr<Target> ExpressionParser::AssignmentTarget(bool with_attribute) {
  ASSIGN_OR_RETURN(Target first, OneTarget(with_attribute));
  if (!tokens_.AtOperator(",")) return first;
  Target target;
  target.is_tuple = true;
  target.targets.push_back(std::move(first));
  while (tokens_.SkipOperator(",")) {
    if (!tokens_.At(Token::kName) && !tokens_.AtOperator("(")) break;
    if (tokens_.AtName("in")) break;
    ASSIGN_OR_RETURN(Target next, OneTarget(with_attribute));
    target.targets.push_back(std::move(next));
  }
  return target;
}

}  // namespace polystrate::jinja
