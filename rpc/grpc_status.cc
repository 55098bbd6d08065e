#include "rpc/grpc_status.h"

#include <optional>
#include <string>

#include "engine/retry_delay.h"
#include "error_details.pb.h"

namespace polystrate {
namespace {

// Trailers hold 8 KiB by default, and a byte that is not plain ASCII takes three of them.
constexpr size_t kMaxMessageBytes = 2048;

// A serialized google.rpc.Status, or nothing when the message says all.
std::string Details(const absl::Status& status) {
  std::optional<absl::Duration> delay = RetryDelayOf(status);
  if (!delay.has_value()) return {};
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(absl::IDivDuration(*delay, absl::Seconds(1), &*delay));
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(*delay)));
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(std::string(status.message().substr(0, kMaxMessageBytes)));
  details.add_details()->PackFrom(retry);
  return details.SerializeAsString();
}

std::optional<absl::Duration> RetryDelayIn(const std::string& bytes) {
  google::rpc::Status details;
  if (bytes.empty() || !details.ParseFromString(bytes)) return std::nullopt;
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::RetryInfo retry;
    if (!detail.UnpackTo(&retry)) continue;
    return absl::Seconds(retry.retry_delay().seconds()) +
           absl::Nanoseconds(retry.retry_delay().nanos());
  }
  return std::nullopt;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()),
          std::string(status.message().substr(0, kMaxMessageBytes)), Details(status)};
}

absl::Status FromGrpc(const grpc::Status& status) {
  absl::Status error(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  const std::optional<absl::Duration> delay = RetryDelayIn(status.error_details());
  return !error.ok() && delay.has_value() ? WithRetryDelay(std::move(error), *delay) : error;
}

}  // namespace polystrate
