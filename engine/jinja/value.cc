#include "engine/jinja/value.h"

#include <algorithm>

namespace polystrate::jinja {
namespace {

constexpr size_t kIndexed = 16;  // members from which on a hash map beats looking at each

bool EqualSequences(const Sequence& a, const Sequence& b) {
  if (&a == &b) return true;
  if (a.kind != b.kind || a.kind == SequenceKind::kIterator) return false;
  return std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(), Equal);
}

bool EqualDicts(const Dict& a, const Dict& b) {
  if (a.members().size() != b.members().size()) return false;
  return std::all_of(a.members().begin(), a.members().end(), [&b](const Dict::Member& member) {
    const Value* other = b.Find(member.first);
    return other != nullptr && Equal(member.second, *other);
  });
}

bool EqualNumbers(const Value& a, const Value& b) {
  const auto integer = [](const Value& value) {
    return value.IsBool() ? static_cast<int64_t>(value.boolean()) : value.integer();
  };
  if (!a.IsFloat() && !b.IsFloat()) return integer(a) == integer(b);
  if (a.IsFloat() && b.IsFloat()) return a.real() == b.real();
  // Exact, as Python's: not through a double that cannot hold the integer.
  const double real = a.IsFloat() ? a.real() : b.real();
  const int64_t whole = a.IsFloat() ? integer(b) : integer(a);
  return real >= -0x1p63 && real < 0x1p63 &&
         static_cast<double>(static_cast<int64_t>(real)) == real &&
         static_cast<int64_t>(real) == whole;
}

}  // namespace

Value Value::Text(std::string text) {
  auto node = std::make_shared<String>();
  node->weight += static_cast<int64_t>(text.size() / 64);
  node->text = std::move(text);
  return Value(std::shared_ptr<const String>(std::move(node)));
}

Value Value::List(std::vector<Value> items) {
  auto node = std::make_shared<Sequence>();
  node->depth = 1;
  for (const Value& item : items) AddChild(*node, item);
  node->items = std::move(items);
  return Value(std::shared_ptr<const Sequence>(std::move(node)));
}

Value Value::Object(std::vector<std::pair<std::string, Value>> members) {
  auto node = std::make_shared<Dict>();
  node->depth = 1;
  for (auto& [key, value] : members) {
    AddChild(*node, value);
    node->Set(Text(std::move(key)), std::move(value));
  }
  return Value(std::shared_ptr<const Dict>(std::move(node)));
}

const Value* Value::Find(std::string_view key) const {
  return IsDict() ? dict().Find(key) : nullptr;
}

int Value::depth() const {
  switch (type()) {
    case Type::kSequence:
      return sequence().depth;
    case Type::kDict:
      return dict().depth;
    case Type::kMethod:
      return method().depth;
    default:
      return 0;
  }
}

int64_t Value::weight() const {
  switch (type()) {
    case Type::kString:
      return (*std::get_if<StringRef>(&data_))->weight;
    case Type::kSequence:
      return sequence().weight;
    case Type::kDict:
      return dict().weight;
    default:
      return 1;
  }
}

bool Value::IsTrue() const {
  switch (type()) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
      return boolean();
    case Type::kInt:
      return integer() != 0;
    case Type::kFloat:
      return real() != 0;
    case Type::kString:
      return !text().empty();
    case Type::kSequence:
      return sequence().kind == SequenceKind::kIterator || !items().empty();
    case Type::kDict:
      return !dict().members().empty();
    default:
      return true;
  }
}

const char* Value::TypeName() const {
  switch (type()) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "None";
    case Type::kBool:
      return "bool";
    case Type::kInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return "str";
    case Type::kSequence: {
      constexpr const char* kNames[] = {"list",      "tuple",       "range",     "generator",
                                        "dict_keys", "dict_values", "dict_items"};
      return kNames[static_cast<int>(sequence().kind)];
    }
    case Type::kDict:
      return "dict";
    case Type::kNamespace:
      return "Namespace";
    case Type::kLoop:
      return "LoopContext";
    case Type::kMacro:
      return "Macro";
    case Type::kMethod:
    case Type::kFunction:
      return "function";
  }
  return "";
}

const Value* Dict::Find(std::string_view key) const {
  if (!index_.empty()) {
    const auto found = index_.find(key);
    return found == index_.end() ? nullptr : &members_[found->second].second;
  }
  for (const Member& member : members_) {
    if (member.first.IsString() && member.first.text() == key) return &member.second;
  }
  return nullptr;
}

const Value* Dict::Find(const Value& key) const {
  if (key.IsString()) return Find(std::string_view(key.text()));
  for (const Member& member : members_) {
    if (Equal(member.first, key)) return &member.second;
  }
  return nullptr;
}

void Dict::Set(Value key, Value value) {
  if (const Value* found = Find(key)) {
    const_cast<Value&>(*found) = std::move(value);  // `this` is not const
    return;
  }
  members_.emplace_back(std::move(key), std::move(value));
  if (members_.size() < kIndexed) return;
  const size_t first = index_.empty() ? 0 : members_.size() - 1;
  for (size_t i = first; i < members_.size(); ++i) {
    if (members_[i].first.IsString()) index_.emplace(members_[i].first.text(), i);
  }
}

const Value* Namespace::Find(std::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Namespace::Set(std::string_view key, Value value) {
  for (auto& member : members) {
    if (member.first == key) {
      member.second = std::move(value);
      return;
    }
  }
  members.emplace_back(key, std::move(value));
}

void AddChild(Node& node, const Value& child) {
  constexpr int64_t kMost = int64_t{1} << 40;
  node.depth = std::max(node.depth, child.depth() + 1);
  node.weight = std::min(kMost, node.weight + child.weight());
}

bool Equal(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) return EqualNumbers(a, b);
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return true;
    case Type::kString:
      return a.text() == b.text();
    case Type::kSequence:
      return EqualSequences(a.sequence(), b.sequence());
    case Type::kDict:
      return EqualDicts(a.dict(), b.dict());
    case Type::kNamespace:
      return a.name_space() == b.name_space();
    case Type::kLoop:
      return a.loop() == b.loop();
    case Type::kMacro:
      return a.macro() == b.macro();
    case Type::kMethod:
      return a.method().name == b.method().name && Equal(a.method().self, b.method().self);
    case Type::kFunction:
      return a.function() == b.function();
    default:
      return false;  // numbers came before
  }
}

}  // namespace polystrate::jinja
