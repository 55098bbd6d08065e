#include "rpc/http/openai_error.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "engine/json_writer.h"
#include "engine/retry_delay.h"

namespace polystrate {
namespace {

constexpr char kParamPayload[] = "polystrate/param";

std::string TypeOf(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

std::string CodeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kNotFound:
      return "model_not_found";
    case absl::StatusCode::kUnauthenticated:
      return "invalid_api_key";
    case absl::StatusCode::kResourceExhausted:
      return "rate_limit_exceeded";
    case absl::StatusCode::kUnimplemented:
      return "unsupported_parameter";
    default:
      return "";
  }
}

void StringOrNull(const std::string& text, JsonWriter* json) {
  if (text.empty()) {
    json->Null();
  } else {
    json->String(text);
  }
}

}  // namespace

HttpError::HttpError(int http_status, absl::string_view text, absl::string_view word)
    : status(http_status), message(text), type(TypeOf(http_status)), code(word) {}

HttpError::HttpError(const absl::Status& error)
    : HttpError(HttpStatusOf(error.code()), error.message(), CodeOf(error.code())) {
  if (const auto named = error.GetPayload(kParamPayload); named.has_value()) {
    param = std::string(*named);
  }
  if (const auto delay = RetryDelayOf(error); delay.has_value()) {
    retry_after_seconds =
        std::max<int64_t>(1, absl::ToInt64Seconds(absl::Ceil(*delay, absl::Seconds(1))));
  } else if (error.code() == absl::StatusCode::kResourceExhausted) {
    permanent = true;  // what does not fit never will
  }
}

std::string HttpError::ToJson() const {
  JsonWriter json;
  json.BeginObject().Key("error").BeginObject();
  json.Key("message").String(message).Key("type").String(type);
  StringOrNull(param, &json.Key("param"));
  StringOrNull(code, &json.Key("code"));
  json.EndObject().EndObject();
  return json.text();
}

int HttpStatusOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kCancelled:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    case absl::StatusCode::kUnimplemented:
      return 501;
    default:
      return 500;
  }
}

absl::Status WithParam(absl::Status status, absl::string_view param) {
  if (!status.ok()) status.SetPayload(kParamPayload, absl::Cord(param));
  return status;
}

}  // namespace polystrate
