// What the headers of an HTTP request say of the calls that it becomes.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "httplib.h"
#include "rpc/http/generations.h"

namespace polystrate {

struct HeaderTerms {
  std::string request_id;          // X-Request-Id, or a new one
  Generations::Metadata metadata;  // priority, routing key, trace context
};

// INVALID_ARGUMENT for a routing key that metadata cannot hold. An X-Request-Id that is no
// request's id, and a malformed trace context, are as good as none.
absl::StatusOr<HeaderTerms> ReadCallTerms(const httplib::Request& request,
                                          std::optional<int32_t> priority);

}  // namespace polystrate
