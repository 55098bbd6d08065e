#include "engine/jinja/heap.h"

#include "absl/strings/str_format.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {

absl::Status Heap::TooManySteps() const {
  return absl::InvalidArgumentError(
      absl::StrFormat("rendering takes more than %d steps", limits_.max_steps));
}

absl::Status Heap::CheckTextSize(int64_t num_bytes) const {
  if (num_bytes <= limits_.max_output_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("a text of more than %d bytes", limits_.max_output_bytes));
}

absl::Status Heap::Keep(int64_t num_bytes) {
  meter_.live_bytes += num_bytes;
  if (meter_.live_bytes <= limits_.max_live_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("rendering takes more than %d bytes of memory", limits_.max_live_bytes));
}

absl::Status Heap::Charge(Node& node, int64_t num_bytes) {
  RETURN_IF_ERROR(Step(1 + num_bytes / 64));
  node.meter = &meter_;
  node.bytes = num_bytes;
  RETURN_IF_ERROR(Keep(num_bytes));
  if (node.depth > kMaxValueDepth) {
    return absl::InvalidArgumentError(
        absl::StrFormat("lists and objects nested deeper than %d levels", kMaxValueDepth));
  }
  if (node.weight > kMaxValueWeight) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a value of more than %d parts", kMaxValueWeight));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Heap::Text(std::string text) {
  RETURN_IF_ERROR(CheckTextSize(static_cast<int64_t>(text.size())));
  auto node = std::make_shared<String>();
  node->weight += static_cast<int64_t>(text.size() / 64);
  node->text = std::move(text);
  RETURN_IF_ERROR(Charge(*node, static_cast<int64_t>(sizeof(String) + node->text.capacity())));
  return Value(std::shared_ptr<const String>(std::move(node)));
}

absl::StatusOr<Value> Heap::List(std::vector<Value> items, SequenceKind kind) {
  auto node = std::make_shared<Sequence>();
  node->kind = kind;
  node->depth = 1;
  for (const Value& item : items) AddChild(*node, item);
  node->items = std::move(items);
  RETURN_IF_ERROR(Charge(
      *node, static_cast<int64_t>(sizeof(Sequence) + node->items.capacity() * sizeof(Value))));
  return Value(std::shared_ptr<const Sequence>(std::move(node)));
}

absl::StatusOr<Value> Heap::Tuple(Value first, Value second) {
  std::vector<Value> items;
  items.reserve(2);
  items.push_back(std::move(first));
  items.push_back(std::move(second));
  return List(std::move(items), SequenceKind::kTuple);
}

absl::StatusOr<Value> Heap::Object(std::vector<Dict::Member> members) {
  constexpr int64_t kMemberBytes = sizeof(Dict::Member) + 32;  // with its place in the index
  auto node = std::make_shared<Dict>();
  node->depth = 1;
  const auto num_bytes =
      static_cast<int64_t>(sizeof(Dict)) + static_cast<int64_t>(members.size()) * kMemberBytes;
  for (Dict::Member& member : members) {
    if (member.first.IsDict() || member.first.IsList()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("unhashable type: '%s'", member.first.TypeName()));
    }
    // Keys that are no strings are looked for one by one.
    if (!member.first.IsString()) RETURN_IF_ERROR(Step(static_cast<int64_t>(members.size())));
    AddChild(*node, member.first);
    AddChild(*node, member.second);
    node->Set(std::move(member.first), std::move(member.second));
  }
  RETURN_IF_ERROR(Charge(*node, num_bytes));
  return Value(std::shared_ptr<const Dict>(std::move(node)));
}

absl::StatusOr<Value> Heap::BoundMethod(Value self, std::string name) {
  auto node = std::make_shared<Method>();
  AddChild(*node, self);
  node->self = std::move(self);
  node->name = std::move(name);
  RETURN_IF_ERROR(Charge(*node, sizeof(Method) + 32));
  return Value(std::shared_ptr<const Method>(std::move(node)));
}

}  // namespace polystrate::jinja
