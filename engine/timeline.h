// Timeline: when each stage worked on each step, so that overlap and bubbles can be seen. Off until
// Enable(); then one entry per step, taken beforehand so that a step allocates nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace polystrate {

struct StageSpan {
  uint64_t step_id = 0;
  int32_t num_tokens = 0;
  // CLOCK_MONOTONIC, nanoseconds: comparable between ranks of one host.
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
};

class Timeline {
 public:
  static constexpr int64_t kMaxSpans = 1 << 16;  // later steps are not recorded

  void Enable() { spans_.reserve(kMaxSpans); }
  void Add(const StageSpan& span) {
    if (spans_.size() < spans_.capacity()) spans_.push_back(span);
  }
  const std::vector<StageSpan>& spans() const { return spans_; }

  std::vector<uint8_t> ToBytes() const;
  static std::vector<StageSpan> FromBytes(const std::vector<uint8_t>& bytes);

  // Time on CLOCK_MONOTONIC.
  static int64_t NowNs();

 private:
  std::vector<StageSpan> spans_;
};

// Writes the ranks' spans (element r is rank r's) as Chrome trace events, one row per rank: open it
// in Perfetto or chrome://tracing.
absl::Status WriteTimeline(const std::string& path, int tp_size,
                           const std::vector<std::vector<StageSpan>>& ranks);

}  // namespace polystrate
