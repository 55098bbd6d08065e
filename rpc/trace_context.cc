#include "rpc/trace_context.h"

#include <algorithm>

#include "absl/strings/ascii.h"

namespace polystrate {
namespace {

constexpr char kTraceparent[] = "traceparent";
constexpr char kTracestate[] = "tracestate";
constexpr size_t kVersion00Size = 55;
// Longer ones come from no known version; they would only swell metadata and log.
constexpr size_t kMaxTraceparent = 256;
constexpr size_t kMaxTracestate = 512;

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f');
  });
}

bool IsId(absl::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != absl::string_view::npos;
}

bool IsPrintable(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

// The only value of a key; empty when there is none or several.
absl::string_view OnlyValue(const grpc::ServerContextBase& context, const char* key) {
  const auto range = context.client_metadata().equal_range(key);
  if (range.first == range.second || std::next(range.first) != range.second) return {};
  return {range.first->second.data(), range.first->second.size()};
}

}  // namespace

bool IsTraceparent(absl::string_view text) {
  if (text.size() < kVersion00Size || text.size() > kMaxTraceparent) return false;
  if (text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
  const absl::string_view version = text.substr(0, 2);
  if (!IsHex(version) || version == "ff") return false;
  if (!IsId(text.substr(3, 32)) || !IsId(text.substr(36, 16)) || !IsHex(text.substr(53, 2))) {
    return false;
  }
  if (text.size() == kVersion00Size) return true;
  return version != "00" && text[kVersion00Size] == '-' && IsPrintable(text);
}

TraceContext ReadTraceContext(const grpc::ServerContextBase& context) {
  TraceContext trace;
  const absl::string_view traceparent = OnlyValue(context, kTraceparent);
  if (!IsTraceparent(traceparent)) return trace;
  trace.traceparent = std::string(traceparent);
  const absl::string_view tracestate = OnlyValue(context, kTracestate);
  if (tracestate.size() <= kMaxTracestate && IsPrintable(tracestate)) {
    trace.tracestate = std::string(tracestate);
  }
  return trace;
}

void AddTraceContext(const TraceContext& trace, grpc::ServerContextBase* context) {
  if (trace.traceparent.empty()) return;
  context->AddInitialMetadata(kTraceparent, trace.traceparent);
  if (!trace.tracestate.empty()) context->AddInitialMetadata(kTracestate, trace.tracestate);
}

}  // namespace polystrate
