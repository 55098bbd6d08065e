// When a request that was refused may be sent again: a part of its status, which says by it that
// the refusal is the moment's and not the request's.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace polystrate {

// `status` is an error.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

}  // namespace polystrate
