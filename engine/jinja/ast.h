// A parsed template: a tree that is never changed once it is made.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/jinja/arguments.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

// Names are compared as numbers: the same name has the same in one template.
using Symbol = int;

struct Expr;
using ExprPtr = std::unique_ptr<const Expr>;

struct KeywordExpr {
  std::string name;
  ExprPtr value;
};

enum class ExprKind : uint8_t {
  kConstant,   // constant
  kName,       // name, symbol
  kTuple,      // children
  kList,       // children
  kDict,       // children: key, value, key, value...
  kAttribute,  // children[0] . name
  kItem,       // children[0] [ children[1] ]
  kSlice,      // children[0] [ children[1] : children[2] : children[3] ], those left out are null
  kCall,       // children[0] ( children[1]..., keywords )
  kFilter,     // children[0] | name ( children[1]..., keywords ); null: a filter block's own text
  kTest,       // children[0] is name ( children[1]..., keywords )
  kNot,        // children[0]
  kNegate,     // children[0]
  kPlus,       // children[0]
  kBinary,     // children[0] operators[0] children[1]
  kConcat,     // children[0] ~ children[1] ~ ...
  kCompare,    // children[0] operators[0] children[1] operators[1] children[2] ...
  kAnd,        // both children
  kOr,
  kCondition,  // children[0] if children[1] else children[2], which may be null
};

enum class Operator : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

struct Expr {
  ExprKind kind;
  int line;
  int depth = 1;  // expressions within each other
  Value constant;
  std::string name;
  Symbol symbol = -1;
  std::vector<Operator> operators;
  std::vector<ExprPtr> children;
  std::vector<KeywordExpr> keywords;
  Callable callable = nullptr;  // of a filter or test
};

struct Statement;
using Body = std::vector<std::unique_ptr<const Statement>>;

// A name, `namespace.name`, or several of them in brackets.
struct Target {
  Symbol symbol = -1;
  std::string name;
  std::string attribute;        // of a namespace
  std::vector<Target> targets;  // the value is taken apart
  bool is_tuple = false;
};

struct Parameter {
  Symbol symbol;
  std::string name;
  ExprPtr otherwise;  // null: undefined
};

enum class StatementKind : uint8_t {
  kData,      // text
  kOutput,    // expr
  kIf,        // bodies[i] where conditions[i], bodies.back() where none
  kFor,       // target, expr, condition (or null), bodies[0], bodies[1] where nothing was there
  kSet,       // target, expr
  kSetBlock,  // target, expr (a chain of filters, or null), bodies[0]
  kFilter,    // expr (a chain of filters), bodies[0]
  kMacro,     // target, parameters, bodies[0]
  kCall,      // expr (a call), parameters, bodies[0]
  kWith,      // bindings, bodies[0]
  kScope,     // bodies[0]
  kBreak,
  kContinue,
};

struct Statement {
  StatementKind kind;
  int line;
  std::string text;
  Target target;
  ExprPtr expr;
  std::vector<ExprPtr> conditions;
  std::vector<std::pair<Target, ExprPtr>> bindings;
  std::vector<Parameter> parameters;
  std::vector<Body> bodies;
};

struct Template {
  Body body;
  std::vector<std::string> symbols;  // names by Symbol
  bool loops_over_content = false;   // over `content`, `x.content` or `x['content']`
};

}  // namespace polystrate::jinja
