#include "engine/timeline.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/check.h"

namespace polystrate {

int64_t Timeline::NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::vector<uint8_t> Timeline::ToBytes() const {
  std::vector<uint8_t> bytes(spans_.size() * sizeof(StageSpan));
  if (!bytes.empty()) std::memcpy(bytes.data(), spans_.data(), bytes.size());
  return bytes;
}

std::vector<StageSpan> Timeline::FromBytes(const std::vector<uint8_t>& bytes) {
  CHECK_EQ(bytes.size() % sizeof(StageSpan), 0u);
  std::vector<StageSpan> spans(bytes.size() / sizeof(StageSpan));
  if (!bytes.empty()) std::memcpy(spans.data(), bytes.data(), bytes.size());
  return spans;
}

absl::Status WriteTimeline(const std::string& path, int tp_size,
                           const std::vector<std::vector<StageSpan>>& ranks) {
  int64_t origin = std::numeric_limits<int64_t>::max();
  for (const auto& spans : ranks) {
    if (!spans.empty()) origin = std::min(origin, spans.front().begin_ns);
  }
  std::ofstream out(path);
  out << "{\"traceEvents\":[";
  const char* separator = "\n";
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    for (const StageSpan& span : ranks[rank]) {
      out << separator
          << absl::StrFormat(R"({"name":"step %d","ph":"X","pid":%d,"tid":%d,"ts":%.3f,"dur":%.3f,)"
                             R"("args":{"step":%d,"stage":%d,"tp_rank":%d,"tokens":%d}})",
                             span.step_id, rank / tp_size, rank % tp_size,
                             (span.begin_ns - origin) / 1e3, (span.end_ns - span.begin_ns) / 1e3,
                             span.step_id, rank / tp_size, rank % tp_size, span.num_tokens);
      separator = ",\n";
    }
  }
  out << "\n]}\n";
  out.close();
  if (!out) return absl::InternalError(absl::StrCat("cannot write the timeline to ", path));
  return absl::OkStatus();
}

}  // namespace polystrate
