#include "engine/retry_delay.h"

#include <string>

#include "absl/strings/cord.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr char kPayload[] = "polystrate/retry_delay";  // as absl::FormatDuration writes it

}  // namespace

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  CHECK(!status.ok());
  status.SetPayload(kPayload, absl::Cord(absl::FormatDuration(delay)));
  return status;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return std::nullopt;
  absl::Duration delay;
  CHECK(absl::ParseDuration(std::string(*payload), &delay));
  return delay;
}

}  // namespace polystrate
