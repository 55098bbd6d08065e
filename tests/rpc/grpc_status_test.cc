// A retry delay travels in the trailer that every client library reads.

#include "rpc/grpc_status.h"

#include <gtest/gtest.h>

#include <optional>

#include "engine/retry_delay.h"
#include "error_details.pb.h"

namespace polystrate {
namespace {

TEST(GrpcStatus, CarriesTheRetryDelayBothWays) {
  const absl::Status status =
      WithRetryDelay(absl::ResourceExhaustedError("full"), absl::Milliseconds(2500));
  const grpc::Status wire = ToGrpc(status);
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(wire.error_message(), "full");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(wire.error_details()));
  EXPECT_EQ(details.code(), 8);
  EXPECT_EQ(details.message(), "full");
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
  EXPECT_EQ(FromGrpc(wire), status);
}

TEST(GrpcStatus, PlainErrorsHaveNoDetailsAndForeignOnesDoNoHarm) {
  const grpc::Status wire = ToGrpc(absl::InvalidArgumentError("top_p"));
  EXPECT_TRUE(wire.error_details().empty());
  EXPECT_EQ(FromGrpc(wire), absl::InvalidArgumentError("top_p"));
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
  const grpc::Status foreign(grpc::StatusCode::UNAVAILABLE, "away", "\xff not a message");
  EXPECT_EQ(FromGrpc(foreign), absl::UnavailableError("away"));
}

}  // namespace
}  // namespace polystrate
