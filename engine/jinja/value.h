// Value: what a template computes with. They follow Python's types, whose behaviour templates rely
// on: integers are not floats, a list is not a tuple, objects keep the order of their keys.
//
// Values are immutable and cheap to copy: strings, lists and objects are shared. What can change
// (Namespace, Loop) or holds code (Macro) belongs to the render that made it; values point at it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace polystrate::jinja {

class Value;
struct Namespace;
struct Loop;
struct Macro;
struct Method;
enum class Function : uint8_t;  // engine/jinja/functions.h

// What the render has allocated and not given back. Outlives whatever it counts.
struct Meter {
  int64_t live_bytes = 0;
};

// The part of strings, lists and objects that bounds them.
struct Node {
  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node() {
    if (meter != nullptr) meter->live_bytes -= bytes;
  }
  Meter* meter = nullptr;  // null: not of a render
  int64_t bytes = 0;
  int depth = 0;       // containers within each other, this one counted
  int64_t weight = 1;  // values in it, shared ones as often as they are met, and its text by 64
};

struct String : Node {
  std::string text;  // valid UTF-8
};

// Python has several kinds of sequence that differ in how they print and in what they can do.
enum class SequenceKind : uint8_t { kList, kTuple, kRange, kIterator, kKeys, kValues, kItems };

struct Sequence : Node {
  SequenceKind kind = SequenceKind::kList;
  std::vector<Value> items;
  mutable bool consumed = false;  // a kIterator gives its items once
};

// What reading a name, key or index gave that is not there: prints as nothing, is false, and most
// operations on it are errors that name it.
struct Undefined {
  const std::string* name = nullptr;  // in the template; null: an index or a computed key
  const char* owner = nullptr;        // the type that has no such attribute; null: a variable
};

struct None {};

enum class Type : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kSequence,
  kDict,
  kNamespace,
  kLoop,
  kMacro,
  kMethod,
  kFunction,
};

struct Dict;

class Value {
 public:
  Value() = default;  // undefined
  explicit Value(Undefined undefined) : data_(undefined) {}
  explicit Value(bool value) : data_(value) {}
  explicit Value(int64_t value) : data_(value) {}
  explicit Value(double value) : data_(value) {}
  explicit Value(std::shared_ptr<const String> value) : data_(std::move(value)) {}
  explicit Value(std::shared_ptr<const Sequence> value) : data_(std::move(value)) {}
  explicit Value(std::shared_ptr<const Dict> value) : data_(std::move(value)) {}
  explicit Value(std::shared_ptr<const Method> value) : data_(std::move(value)) {}
  explicit Value(Namespace* value) : data_(value) {}
  explicit Value(Loop* value) : data_(value) {}
  explicit Value(Macro* value) : data_(value) {}
  explicit Value(Function value) : data_(value) {}

  // For what a template is given; a render makes its own through its Heap, which counts. Text must
  // be valid UTF-8.
  static Value None() { return Value(Data(jinja::None{})); }
  static Value Text(std::string text);
  static Value List(std::vector<Value> items);
  static Value Object(
      std::vector<std::pair<std::string, Value>> members);  // the last of a key wins

  Type type() const { return static_cast<Type>(data_.index()); }
  bool IsUndefined() const { return type() == Type::kUndefined; }
  bool IsNone() const { return type() == Type::kNone; }
  bool IsBool() const { return type() == Type::kBool; }
  bool IsInt() const { return type() == Type::kInt; }
  bool IsFloat() const { return type() == Type::kFloat; }
  bool IsString() const { return type() == Type::kString; }
  bool IsSequence() const { return type() == Type::kSequence; }
  bool IsList() const { return IsSequence() && sequence().kind == SequenceKind::kList; }
  bool IsDict() const { return type() == Type::kDict; }
  bool IsNumber() const { return IsBool() || IsInt() || IsFloat(); }  // as Python: True is 1

  // Of the type asked for (undefined behaviour otherwise: test first).
  const Undefined& undefined() const { return *std::get_if<Undefined>(&data_); }
  bool boolean() const { return *std::get_if<bool>(&data_); }
  int64_t integer() const { return *std::get_if<int64_t>(&data_); }
  double real() const { return *std::get_if<double>(&data_); }
  const std::string& text() const { return (*std::get_if<StringRef>(&data_))->text; }
  const Sequence& sequence() const { return **std::get_if<SequenceRef>(&data_); }
  const std::vector<Value>& items() const { return sequence().items; }
  const Dict& dict() const { return **std::get_if<DictRef>(&data_); }
  const Method& method() const { return **std::get_if<MethodRef>(&data_); }
  Namespace* name_space() const { return *std::get_if<Namespace*>(&data_); }
  Loop* loop() const { return *std::get_if<Loop*>(&data_); }
  Macro* macro() const { return *std::get_if<Macro*>(&data_); }
  Function function() const { return *std::get_if<Function>(&data_); }

  // The member of an object; null where this is none or has no such key.
  const Value* Find(std::string_view key) const;

  // Of Node; 0 and 1 for what is none. What walks a value takes steps in proportion to its weight.
  int depth() const;
  int64_t weight() const;
  // What `if` makes of it: empty, zero, none and undefined are false.
  bool IsTrue() const;
  // Python's name of the type, for messages: "str", "dict".
  const char* TypeName() const;

 private:
  using StringRef = std::shared_ptr<const String>;
  using SequenceRef = std::shared_ptr<const Sequence>;
  using DictRef = std::shared_ptr<const Dict>;
  using MethodRef = std::shared_ptr<const Method>;
  // In the order of Type.
  using Data = std::variant<Undefined, jinja::None, bool, int64_t, double, StringRef, SequenceRef,
                            DictRef, Namespace*, Loop*, Macro*, MethodRef, Function>;
  explicit Value(Data data) : data_(std::move(data)) {}

  Data data_;
};

// Keys are hashable values, nearly always strings; members keep the order in which keys first came.
struct Dict : Node {
  using Member = std::pair<Value, Value>;

  const Value* Find(std::string_view key) const;
  const Value* Find(const Value& key) const;
  void Set(Value key, Value value);
  const std::vector<Member>& members() const { return members_; }

 private:
  std::vector<Member> members_;
  absl::flat_hash_map<std::string_view, size_t> index_;  // of strings, once there are many
};

// A method that was read and not called yet: `text.strip`.
struct Method : Node {
  Value self;
  std::string name;
};

struct Namespace {
  const Value* Find(std::string_view key) const;
  void Set(std::string_view key, Value value);
  std::vector<std::pair<std::string, Value>> members;
};

// Depth and weight of a container come from what it holds; saturating.
void AddChild(Node& node, const Value& child);

// ==, as Python has it: 1 == 1.0 == True; containers by what they hold.
bool Equal(const Value& a, const Value& b);

}  // namespace polystrate::jinja
