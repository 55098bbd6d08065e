#include "engine/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/jinja/expression_parser.h"
#include "engine/jinja/lexer.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

bool IsContent(const Expr& expr) {
  if (expr.kind == ExprKind::kFilter && expr.children[0] != nullptr) {
    return IsContent(*expr.children[0]);
  }
  if (expr.kind == ExprKind::kName || expr.kind == ExprKind::kAttribute) {
    return expr.name == "content";
  }
  if (expr.kind != ExprKind::kItem) return false;
  const Value& key = expr.children[1]->constant;
  return key.IsString() && key.text() == "content";
}

using StatementPtr = std::unique_ptr<const Statement>;
using Ends = std::initializer_list<std::string_view>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  absl::StatusOr<Template> Run();

 private:
  // Statements up to a tag named in `ends`, at whose name the stream then is; of the whole template
  // where there is none.
  absl::StatusOr<Body> Until(Ends ends);
  // The same behind the end of the opening tag.
  absl::StatusOr<Body> TagBody(Ends ends);
  absl::Status EndTag() { return tokens_.Expect(Token::kBlockEnd, "'%}'"); }

  absl::StatusOr<StatementPtr> Output();
  absl::StatusOr<StatementPtr> Tag();
  absl::StatusOr<StatementPtr> If();
  absl::StatusOr<StatementPtr> For();
  absl::StatusOr<StatementPtr> Set();
  absl::StatusOr<StatementPtr> FilterBlock();
  absl::StatusOr<StatementPtr> Macro();
  absl::StatusOr<StatementPtr> CallBlock();
  absl::StatusOr<StatementPtr> With();
  absl::StatusOr<StatementPtr> Generation();
  absl::StatusOr<StatementPtr> LoopControl(StatementKind kind);
  absl::Status Parameters(std::vector<Parameter>& parameters);

  std::unique_ptr<Statement> New(StatementKind kind) const {
    return std::make_unique<Statement>(Statement{.kind = kind, .line = tokens_.line()});
  }

  TokenStream tokens_;
  SymbolTable symbols_;
  ExpressionParser expressions_{tokens_, symbols_};
  int depth_ = 0;  // of statements within each other
  bool loops_over_content_ = false;
  int loop_depth_ = 0;  // of loops around this place, within its macro
};

absl::StatusOr<Template> Parser::Run() {
  Template parsed;
  ASSIGN_OR_RETURN(parsed.body, Until({}));
  parsed.loops_over_content = loops_over_content_;
  parsed.symbols = symbols_.TakeNames();
  return parsed;
}

absl::StatusOr<Body> Parser::Until(Ends ends) {
  Body body;
  if (++depth_ > kMaxNesting) {
    return LineError(tokens_.line(),
                     absl::StrCat("statements nested deeper than ", kMaxNesting, " levels"));
  }
  while (!tokens_.At(Token::kEnd)) {
    if (tokens_.At(Token::kData)) {
      auto data = New(StatementKind::kData);
      data->text = tokens_.Take().text;
      body.push_back(std::move(data));
    } else if (tokens_.At(Token::kVariableBegin)) {
      ASSIGN_OR_RETURN(StatementPtr output, Output());
      body.push_back(std::move(output));
    } else {
      RETURN_IF_ERROR(tokens_.Expect(Token::kBlockBegin, "a tag"));
      if (!tokens_.At(Token::kName)) return tokens_.Unexpected("the name of a tag");
      if (std::any_of(ends.begin(), ends.end(),
                      [this](std::string_view end) { return tokens_.AtName(end); })) {
        --depth_;
        return body;
      }
      ASSIGN_OR_RETURN(StatementPtr statement, Tag());
      RETURN_IF_ERROR(EndTag());
      body.push_back(std::move(statement));
    }
  }
  --depth_;
  if (ends.size() == 0) return body;
  return tokens_.Unexpected(
      absl::StrCat("'", absl::string_view(ends.end()[-1].data(), ends.end()[-1].size()), "'"));
}

absl::StatusOr<Body> Parser::TagBody(Ends ends) {
  tokens_.SkipOperator(":");
  RETURN_IF_ERROR(EndTag());
  return Until(ends);
}

absl::StatusOr<StatementPtr> Parser::Output() {
  tokens_.Take();
  auto output = New(StatementKind::kOutput);
  ASSIGN_OR_RETURN(output->expr, expressions_.Tuple(/*with_condition=*/true));
  RETURN_IF_ERROR(tokens_.Expect(Token::kVariableEnd, "'}}'"));
  return output;
}

absl::StatusOr<StatementPtr> Parser::Tag() {
  if (tokens_.AtName("if")) return If();
  if (tokens_.AtName("for")) return For();
  if (tokens_.AtName("set")) return Set();
  if (tokens_.AtName("macro")) return Macro();
  if (tokens_.AtName("call")) return CallBlock();
  if (tokens_.AtName("filter")) return FilterBlock();
  if (tokens_.AtName("with")) return With();
  if (tokens_.AtName("generation")) return Generation();
  if (tokens_.AtName("break")) return LoopControl(StatementKind::kBreak);
  if (tokens_.AtName("continue")) return LoopControl(StatementKind::kContinue);
  return LineError(tokens_.line(),
                   absl::StrCat("no tag named '", tokens_.current().text, "' here"));
}

absl::StatusOr<StatementPtr> Parser::If() {
  auto statement = New(StatementKind::kIf);
  do {
    tokens_.Take();
    ASSIGN_OR_RETURN(ExprPtr condition, expressions_.Tuple(/*with_condition=*/false));
    statement->conditions.push_back(std::move(condition));
    ASSIGN_OR_RETURN(Body body, TagBody({"elif", "else", "endif"}));
    statement->bodies.push_back(std::move(body));
  } while (tokens_.AtName("elif"));
  if (tokens_.SkipName("else")) {
    ASSIGN_OR_RETURN(Body body, TagBody({"endif"}));
    statement->bodies.push_back(std::move(body));
  }
  RETURN_IF_ERROR(tokens_.ExpectName("endif"));
  return statement;
}

absl::StatusOr<StatementPtr> Parser::For() {
  auto statement = New(StatementKind::kFor);
  tokens_.Take();
  ASSIGN_OR_RETURN(statement->target, expressions_.AssignmentTarget(/*with_attribute=*/false));
  RETURN_IF_ERROR(tokens_.ExpectName("in"));
  ASSIGN_OR_RETURN(statement->expr, expressions_.Tuple(/*with_condition=*/false, "recursive"));
  loops_over_content_ |= IsContent(*statement->expr);
  ExprPtr condition;
  if (tokens_.SkipName("if")) {
    ASSIGN_OR_RETURN(condition, expressions_.Expression());
  }
  statement->conditions.push_back(std::move(condition));
  if (tokens_.AtName("recursive")) {
    return LineError(tokens_.line(), "recursive loops are not supported");
  }
  ++loop_depth_;
  ASSIGN_OR_RETURN(Body body, TagBody({"else", "endfor"}));
  --loop_depth_;
  statement->bodies.push_back(std::move(body));
  if (tokens_.SkipName("else")) {
    ASSIGN_OR_RETURN(Body otherwise, TagBody({"endfor"}));
    statement->bodies.push_back(std::move(otherwise));
  }
  RETURN_IF_ERROR(tokens_.ExpectName("endfor"));
  return statement;
}

absl::StatusOr<StatementPtr> Parser::Set() {
  auto statement = New(StatementKind::kSet);
  tokens_.Take();
  ASSIGN_OR_RETURN(statement->target, expressions_.AssignmentTarget(/*with_attribute=*/true));
  if (tokens_.SkipOperator("=")) {
    ASSIGN_OR_RETURN(statement->expr, expressions_.Tuple(/*with_condition=*/true));
    return statement;
  }
  statement->kind = StatementKind::kSetBlock;
  ASSIGN_OR_RETURN(statement->expr, expressions_.FilterChain(nullptr));
  ASSIGN_OR_RETURN(Body body, TagBody({"endset"}));
  statement->bodies.push_back(std::move(body));
  tokens_.Take();
  return statement;
}

absl::StatusOr<StatementPtr> Parser::FilterBlock() {
  auto statement = New(StatementKind::kFilter);
  tokens_.Take();
  ASSIGN_OR_RETURN(statement->expr, expressions_.BlockFilter());
  ASSIGN_OR_RETURN(Body body, TagBody({"endfilter"}));
  statement->bodies.push_back(std::move(body));
  tokens_.Take();
  return statement;
}

absl::Status Parser::Parameters(std::vector<Parameter>& parameters) {
  RETURN_IF_ERROR(tokens_.ExpectOperator("("));
  while (!tokens_.AtOperator(")")) {
    if (!tokens_.At(Token::kName)) return tokens_.Unexpected("the name of a parameter");
    Parameter parameter;
    parameter.name = tokens_.Take().text;
    parameter.symbol = symbols_.Of(parameter.name);
    if (tokens_.SkipOperator("=")) {
      ASSIGN_OR_RETURN(parameter.otherwise, expressions_.Expression());
    } else if (!parameters.empty() && parameters.back().otherwise != nullptr) {
      return LineError(tokens_.line(), absl::StrCat("the parameter '", parameter.name,
                                                    "' has no default, the one before it has"));
    }
    parameters.push_back(std::move(parameter));
    if (!tokens_.SkipOperator(",")) break;
  }
  return tokens_.ExpectOperator(")");
}

absl::StatusOr<StatementPtr> Parser::Macro() {
  auto statement = New(StatementKind::kMacro);
  tokens_.Take();
  if (!tokens_.At(Token::kName)) return tokens_.Unexpected("the name of a macro");
  statement->target.name = tokens_.Take().text;
  statement->target.symbol = symbols_.Of(statement->target.name);
  RETURN_IF_ERROR(Parameters(statement->parameters));
  const int loops_outside = std::exchange(loop_depth_, 0);
  ASSIGN_OR_RETURN(Body body, TagBody({"endmacro"}));
  loop_depth_ = loops_outside;
  statement->bodies.push_back(std::move(body));
  tokens_.Take();
  return statement;
}

absl::StatusOr<StatementPtr> Parser::CallBlock() {
  auto statement = New(StatementKind::kCall);
  tokens_.Take();
  if (tokens_.AtOperator("(")) RETURN_IF_ERROR(Parameters(statement->parameters));
  ASSIGN_OR_RETURN(statement->expr, expressions_.Expression());
  if (statement->expr->kind != ExprKind::kCall) {
    return LineError(statement->line, "a call block takes the call of a macro");
  }
  const int loops_outside = std::exchange(loop_depth_, 0);
  ASSIGN_OR_RETURN(Body body, TagBody({"endcall"}));
  loop_depth_ = loops_outside;
  statement->bodies.push_back(std::move(body));
  tokens_.Take();
  return statement;
}

absl::StatusOr<StatementPtr> Parser::With() {
  auto statement = New(StatementKind::kWith);
  tokens_.Take();
  while (!tokens_.At(Token::kBlockEnd)) {
    ASSIGN_OR_RETURN(Target target, expressions_.OneTarget(/*with_attribute=*/false));
    RETURN_IF_ERROR(tokens_.ExpectOperator("="));
    ASSIGN_OR_RETURN(ExprPtr value, expressions_.Expression());
    statement->bindings.emplace_back(std::move(target), std::move(value));
    if (!tokens_.SkipOperator(",")) break;
  }
  ASSIGN_OR_RETURN(Body body, TagBody({"endwith"}));
  statement->bodies.push_back(std::move(body));
  tokens_.Take();
  return statement;
}

// What the model said, marked for training: only its scope matters here.
absl::StatusOr<StatementPtr> Parser::Generation() {
  auto statement = New(StatementKind::kScope);
  tokens_.Take();
  const int loops_outside = std::exchange(loop_depth_, 0);
  ASSIGN_OR_RETURN(Body body, TagBody({"endgeneration"}));
  loop_depth_ = loops_outside;
  statement->bodies.push_back(std::move(body));
  tokens_.Take();
  return statement;
}

absl::StatusOr<StatementPtr> Parser::LoopControl(StatementKind kind) {
  auto statement = New(kind);
  const std::string& name = tokens_.Take().text;
  if (loop_depth_ == 0) {
    return LineError(statement->line, absl::StrCat("'", name, "' outside of a loop"));
  }
  return statement;
}

}  // namespace

absl::StatusOr<Template> ParseTemplate(const std::string& text) {
  if (text.size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d bytes, expected at most %d", text.size(), kMaxTemplateBytes));
  }
  const size_t invalid = FirstInvalidUtf8(text);
  if (invalid < text.size()) {
    return absl::InvalidArgumentError(absl::StrFormat("not UTF-8 at byte %d", invalid));
  }
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(text));
  return Parser(std::move(tokens)).Run();
}

}  // namespace polystrate::jinja
