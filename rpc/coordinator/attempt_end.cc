#include "rpc/coordinator/attempt_end.h"

#include "engine/retry_delay.h"

namespace polystrate {

AttemptEnd JudgeEnd(const absl::Status& status, bool accepted) {
  const bool for_now = !status.ok() && RetryDelayOf(status).has_value();
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      if (!for_now) return AttemptEnd::kEngineLost;
      return accepted ? AttemptEnd::kStreamLost : AttemptEnd::kBusy;
    case absl::StatusCode::kResourceExhausted:
      return !accepted && for_now ? AttemptEnd::kBusy : AttemptEnd::kFinal;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kOk:
      return AttemptEnd::kStreamLost;
    default:
      return AttemptEnd::kFinal;
  }
}

}  // namespace polystrate
