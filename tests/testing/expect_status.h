// Fails: one check for the code and the wording of an expected error.
//
//   EXPECT_TRUE(Fails(file.status(), absl::StatusCode::kNotFound, "model.safetensors"));
#pragma once

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace polystrate {

// Success when `status` has this code and its message contains `part`.
inline testing::AssertionResult Fails(const absl::Status& status, absl::StatusCode code,
                                      absl::string_view part) {
  if (status.code() == code && absl::StrContains(status.message(), part))
    return testing::AssertionSuccess();
  return testing::AssertionFailure() << "expected " << absl::StatusCodeToString(code) << ": ... "
                                     << part << " ..., got " << status;
}

}  // namespace polystrate
