// What an HTTP client is told when something is wrong, in the shape of OpenAI's API:
// {"error": {"message": .., "type": .., "param": .., "code": ..}}.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace polystrate {

struct HttpError {
  int status = 500;
  std::string message;
  std::string type;                            // OpenAI's class of it, by `status`
  std::string param;                           // the field it is about; empty: null
  std::string code;                            // a word for programs; empty: null
  std::optional<int64_t> retry_after_seconds;  // the Retry-After header
  bool permanent = false;  // the same request will fail again, although its status says otherwise

  // `status` decides the type.
  HttpError(int status, absl::string_view message, absl::string_view code = "");
  // The field that WithParam named, and the retry delay that the status carries.
  explicit HttpError(const absl::Status& status);

  std::string ToJson() const;
};

// Of a request that fails with this code.
int HttpStatusOf(absl::StatusCode code);

// Which field of the request's JSON an error is about. OK stays as it is.
absl::Status WithParam(absl::Status status, absl::string_view param);

}  // namespace polystrate
