// How long a drain that was asked for over the wire lets requests go on.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "polystrate_admin.pb.h"

namespace polystrate {

// INVALID_ARGUMENT for a time that is none.
inline absl::StatusOr<absl::Duration> DrainTimeout(const v1::DrainRequest& request,
                                                   absl::Duration usual) {
  if (!request.has_timeout_seconds()) return usual;
  const double seconds = request.timeout_seconds();
  if (seconds >= 0.0) return absl::Seconds(seconds);
  return absl::InvalidArgumentError(  // NaN too
      absl::StrCat("timeout_seconds is ", seconds, "; it must be at least 0"));
}

}  // namespace polystrate
