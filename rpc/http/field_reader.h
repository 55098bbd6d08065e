// FieldReader: takes the fields of a JSON object of a request by name. Absent and null are the
// same. The first field that is not as it must be is kept as an error which names it, and what
// comes after it reads as absent, so that a caller may read on and ask once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/json.h"

namespace polystrate {

class FieldReader {
 public:
  // CHECKs that `object` is one.
  explicit FieldReader(JsonView object);

  std::optional<bool> Bool(const char* key);
  std::optional<double> Double(const char* key);
  std::optional<int64_t> Int(const char* key, int64_t low, int64_t high);
  std::optional<std::string> String(const char* key);
  std::optional<JsonView> Array(const char* key);
  std::optional<JsonView> Object(const char* key);
  std::optional<JsonView> Any(const char* key);

  // An error of the caller's own about a field. The first stays.
  void Fail(const char* key, const std::string& message);
  void Fail(const char* key, absl::Status status);

  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  std::optional<T> Take(const char* key, absl::StatusOr<T> value);

  JsonView object_;
  absl::Status status_;
};

}  // namespace polystrate
