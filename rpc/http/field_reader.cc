#include "rpc/http/field_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "rpc/http/openai_error.h"

namespace polystrate {

FieldReader::FieldReader(JsonView object) : object_(object) { CHECK(object.IsObject()); }

template <typename T>
std::optional<T> FieldReader::Take(const char* key, absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  Fail(key, value.status());
  return std::nullopt;
}

void FieldReader::Fail(const char* key, absl::Status status) {
  if (status_.ok()) status_ = WithParam(std::move(status), key);
}

void FieldReader::Fail(const char* key, const std::string& message) {
  Fail(key, absl::InvalidArgumentError(absl::StrCat(key, " ", message)));
}

std::optional<JsonView> FieldReader::Any(const char* key) {
  if (!status_.ok() || !object_.Has(key)) return std::nullopt;
  return object_.Find(key);
}

std::optional<bool> FieldReader::Bool(const char* key) {
  if (!Any(key)) return std::nullopt;
  return Take(key, object_.GetBool(key));
}

std::optional<double> FieldReader::Double(const char* key) {
  if (!Any(key)) return std::nullopt;
  return Take(key, object_.GetDouble(key));
}

std::optional<int64_t> FieldReader::Int(const char* key, int64_t low, int64_t high) {
  if (!Any(key)) return std::nullopt;
  const std::optional<int64_t> value = Take(key, object_.GetInt(key));
  if (!value.has_value() || (*value >= low && *value <= high)) return value;
  Fail(key, absl::StrCat("is ", *value, "; it must be in [", low, ", ", high, "]"));
  return std::nullopt;
}

std::optional<std::string> FieldReader::String(const char* key) {
  if (!Any(key)) return std::nullopt;
  return Take(key, object_.GetString(key));
}

std::optional<JsonView> FieldReader::Array(const char* key) {
  if (!Any(key)) return std::nullopt;
  return Take(key, object_.GetArray(key));
}

std::optional<JsonView> FieldReader::Object(const char* key) {
  if (!Any(key)) return std::nullopt;
  return Take(key, object_.GetObject(key));
}

}  // namespace polystrate
