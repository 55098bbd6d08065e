// RequestGate: who may ask what, decided by a request's headers alone, before its body is read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "httplib.h"
#include "rpc/api_keys.h"
#include "rpc/http/openai_error.h"

namespace polystrate {

// A path that is answered.
struct HttpRoute {
  std::string method;
  std::string path;     // or what it begins with
  bool prefix = false;  // one more segment, or several, follow
  bool keyed = false;   // wants an API key
};

// Any thread.
class RequestGate {
 public:
  // `keys` may be null: nothing wants one. Bodies that say they are longer than max_body_bytes are
  // refused; those in pieces say nothing and are bounded where they are read.
  RequestGate(std::vector<HttpRoute> routes, std::unique_ptr<ApiKeys> keys, int64_t max_body_bytes);

  // Why a request is not answered: 404, 405, 401, 415, 413, 400. Nothing for one that is.
  std::optional<HttpError> Check(const httplib::Request& request) const;
  // Methods that the path takes, "GET, HEAD"; empty for one that is not there.
  std::string AllowedMethods(const std::string& path) const;

 private:
  const std::vector<HttpRoute> routes_;
  const std::unique_ptr<ApiKeys> keys_;
  const int64_t max_body_bytes_;
};

}  // namespace polystrate
