#include "rpc/http/call_terms.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "rpc/trace_context.h"

namespace polystrate {
namespace {

// Room for what tells a request's prompts apart.
constexpr size_t kMaxRequestIdBytes = 240;
constexpr size_t kMaxRoutingKeyBytes = 1024;
constexpr size_t kMaxTraceStateBytes = 512;

bool IsVisible(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
}

bool IsPrintable(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isprint);
}

std::string NewRequestId() {
  std::random_device device;
  return absl::StrFormat("%08x%08x%08x%08x", device(), device(), device(), device());
}

void AddTrace(const httplib::Request& request, Generations::Metadata* metadata) {
  const std::string parent = request.get_header_value("traceparent");
  if (request.get_header_value_count("traceparent") != 1 || !IsTraceparent(parent)) return;
  metadata->emplace_back("traceparent", parent);
  const std::string state = request.get_header_value("tracestate");
  if (IsPrintable(state) && state.size() <= kMaxTraceStateBytes) {
    metadata->emplace_back("tracestate", state);
  }
}

}  // namespace

absl::StatusOr<HeaderTerms> ReadCallTerms(const httplib::Request& request,
                                          std::optional<int32_t> priority) {
  HeaderTerms terms;
  terms.request_id = request.get_header_value("X-Request-Id");
  if (!IsVisible(terms.request_id) || terms.request_id.size() > kMaxRequestIdBytes) {
    terms.request_id = NewRequestId();
  }
  if (priority.has_value()) {
    terms.metadata.emplace_back("openengine-priority", absl::StrCat(*priority));
  }
  if (request.has_header("x-openengine-routing-key")) {
    const std::string key = request.get_header_value("x-openengine-routing-key");
    if (!IsPrintable(key) || key.size() > kMaxRoutingKeyBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the header x-openengine-routing-key must be 1 to ", kMaxRoutingKeyBytes,
                       " printable ASCII characters"));
    }
    terms.metadata.emplace_back("openengine-routing-key", key);
  }
  AddTrace(request, &terms.metadata);
  return terms;
}

}  // namespace polystrate
