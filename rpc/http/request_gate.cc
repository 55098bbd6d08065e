#include "rpc/http/request_gate.h"

#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace polystrate {
namespace {

constexpr size_t kMaxPathBytes = 1024;

bool Matches(const HttpRoute& route, const std::string& path) {
  if (!route.prefix) return path == route.path;
  return path.size() > route.path.size() && absl::StartsWith(path, route.path);
}

bool MethodMatches(const HttpRoute& route, const std::string& method) {
  return method == route.method || (method == "HEAD" && route.method == "GET");
}

bool ShowsKey(const httplib::Request& request, ApiKeys& keys) {
  const std::string authorization = request.get_header_value("Authorization");
  absl::string_view key = authorization;
  if (absl::StartsWithIgnoreCase(key, "bearer ")) {
    key.remove_prefix(7);
    return keys.Accepts(absl::StripAsciiWhitespace(key));
  }
  return keys.Accepts(request.get_header_value("X-Api-Key"));
}

// Also keeps web pages from sending what needs no preflight: they cannot say JSON without one.
std::optional<HttpError> CheckBodyHeaders(const httplib::Request& request) {
  const std::string type = request.get_header_value("Content-Type");
  if (!absl::StartsWithIgnoreCase(type, "application/json")) {
    return HttpError(415, absl::StrCat("Content-Type is \"", type.substr(0, 64),
                                       "\"; it must be application/json"));
  }
  if (request.has_header("Content-Encoding")) {
    return HttpError(415, "a Content-Encoding of requests is not supported");
  }
  return std::nullopt;
}

// Of two lengths a proxy may have believed the other one.
std::optional<HttpError> CheckBodyLength(const httplib::Request& request, int64_t max_bytes) {
  const size_t num_lengths = request.get_header_value_count("Content-Length");
  if (num_lengths == 0) return std::nullopt;
  if (num_lengths > 1 || request.has_header("Transfer-Encoding")) {
    return HttpError(400, "the request says more than once how long its body is");
  }
  const std::string length = request.get_header_value("Content-Length");
  uint64_t num_bytes = 0;
  const bool digits = !length.empty() && absl::c_all_of(length, absl::ascii_isdigit);
  if (!digits) {
    return HttpError(400, absl::StrCat("Content-Length is \"", length.substr(0, 64),
                                       "\"; it must be a number of bytes"));
  }
  // More digits than a number can have is too long as well.
  if (!absl::SimpleAtoi(length, &num_bytes) || num_bytes > static_cast<uint64_t>(max_bytes)) {
    return HttpError(413, absl::StrCat("the request's body is larger than ", max_bytes, " bytes"));
  }
  return std::nullopt;
}

}  // namespace

RequestGate::RequestGate(std::vector<HttpRoute> routes, std::unique_ptr<ApiKeys> keys,
                         int64_t max_body_bytes)
    : routes_(std::move(routes)), keys_(std::move(keys)), max_body_bytes_(max_body_bytes) {}

std::string RequestGate::AllowedMethods(const std::string& path) const {
  std::string methods;
  for (const HttpRoute& route : routes_) {
    if (!Matches(route, path)) continue;
    absl::StrAppend(&methods, methods.empty() ? "" : ", ", route.method,
                    route.method == "GET" ? ", HEAD" : "");
  }
  return methods;
}

std::optional<HttpError> RequestGate::Check(const httplib::Request& request) const {
  const HttpRoute* found = nullptr;
  bool known = false;
  for (const HttpRoute& route : routes_) {
    if (request.path.size() > kMaxPathBytes || !Matches(route, request.path)) continue;
    known = true;
    if (MethodMatches(route, request.method)) found = &route;
  }
  if (!known) {
    return HttpError(404, absl::StrCat("there is nothing at ", request.path.substr(0, 64)));
  }
  if (found == nullptr) {
    return HttpError(405, absl::StrCat(request.path, " takes ", AllowedMethods(request.path),
                                       ", not ", request.method.substr(0, 16)));
  }
  if (found->keyed && keys_ != nullptr && !ShowsKey(request, *keys_)) {
    return HttpError(401, "the header \"Authorization: Bearer KEY\" shows no valid API key",
                     "invalid_api_key");
  }
  if (auto error = CheckBodyLength(request, max_body_bytes_)) return error;
  if (found->method == "POST") return CheckBodyHeaders(request);
  return std::nullopt;
}

}  // namespace polystrate
