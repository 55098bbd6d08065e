// Heap: makes a render's values, and bounds what it does: steps, memory, nesting.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/jinja/value.h"

namespace polystrate::jinja {

// Far above what a conversation needs: one of 1,000 messages takes some 100,000 steps.
struct RenderLimits {
  // An expression, a statement, an item or 64 bytes of text is about one step; 100 ns or less each.
  int64_t max_steps = 10'000'000;
  int64_t max_live_bytes = int64_t{128} << 20;
  int64_t max_output_bytes = int64_t{16} << 20;  // of the prompt, and of any one text
};

inline constexpr int kMaxValueDepth = 100;  // containers within each other
inline constexpr int64_t kMaxValueWeight = int64_t{1} << 22;
inline constexpr int64_t kMaxRange = 100'000;  // items of range(), as in jinja2

// Every error is INVALID_ARGUMENT. Not thread-safe; outlives the values it made.
class Heap {
 public:
  explicit Heap(const RenderLimits& limits) : limits_(limits) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  absl::Status Step(int64_t num_steps = 1) {
    num_steps_ += num_steps;
    if (num_steps_ <= limits_.max_steps) [[likely]]
      return absl::OkStatus();
    return TooManySteps();
  }
  // Before a text of that size is made.
  absl::Status CheckTextSize(int64_t num_bytes) const;
  // Memory that only the end of the render gives back.
  absl::Status Keep(int64_t num_bytes);

  absl::StatusOr<Value> Text(std::string text);
  absl::StatusOr<Value> List(std::vector<Value> items, SequenceKind kind = SequenceKind::kList);
  absl::StatusOr<Value> Tuple(Value first, Value second);
  // A later value of a key takes the earlier one's place; keys that are lists or objects are
  // refused.
  absl::StatusOr<Value> Object(std::vector<Dict::Member> members);
  absl::StatusOr<Value> BoundMethod(Value self, std::string name);

 private:
  absl::Status TooManySteps() const;
  absl::Status Charge(Node& node, int64_t num_bytes);

  const RenderLimits limits_;
  int64_t num_steps_ = 0;
  Meter meter_;
};

}  // namespace polystrate::jinja
