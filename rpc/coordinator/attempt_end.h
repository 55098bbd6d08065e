// How an engine's stream ended, and what becomes of the request.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace polystrate {

enum class AttemptEnd : uint8_t {
  kNone,
  kFinal,       // it is the client's: a verdict on the request itself
  kBusy,        // refused for now (queue full, drains): another engine may take it
  kStreamLost,  // it goes on elsewhere; the engine is in order, or leaves in order
  kEngineLost,  // so do all requests that are there
};

// Of a stream that ended before its last event. By the protocol an engine ends a request that
// failed with an event and OK, so that other statuses after acceptance come from the transport,
// from an engine that goes, or from a limit (deadline, slow reader). UNAVAILABLE with a retry delay
// is the word of an engine that drains or starts; without one, nobody is there.
AttemptEnd JudgeEnd(const absl::Status& status, bool accepted);

}  // namespace polystrate
