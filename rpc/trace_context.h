// W3C trace context (https://www.w3.org/TR/trace-context): which trace a call belongs to. The
// engine makes no spans; it hands both headers back and puts them on the request's log line, so
// that its lines can be joined with the traces of whoever called.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"

namespace polystrate {

struct TraceContext {
  std::string traceparent;  // empty: the call belongs to no trace
  std::string tracestate;   // vendors' own; empty without a traceparent
};

// True for version-trace_id-parent_id-flags in lower-case hex with ids that are not all zero; a
// version above 00 may have more behind it.
bool IsTraceparent(absl::string_view text);

// As the standard has it, a traceparent that is malformed or there twice is as good as none and no
// reason to refuse the call; nor is a tracestate of more than 512 characters or with others than
// printable ASCII, which is dropped alone.
TraceContext ReadTraceContext(const grpc::ServerContextBase& context);

// Into the answer's initial metadata, unless there is none.
void AddTraceContext(const TraceContext& trace, grpc::ServerContextBase* context);

}  // namespace polystrate
