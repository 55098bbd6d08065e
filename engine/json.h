// Json: a parsed JSON document, read through protobuf's JSON parser (google.protobuf.Value).
//
// Every error is INVALID_ARGUMENT and starts with the document's name, then says what stands where
// and what was expected, so that callers can pass it on as it is. No input crashes or hangs the
// parser; nesting, number of values and file size are bounded before anything is built.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace google::protobuf {
class Value;
}

namespace polystrate {

inline constexpr int kMaxJsonDepth = 32;
// Bounds memory: a value takes up to 80 bytes, so an accepted document takes at most about 300 MB
// plus its strings.
inline constexpr int64_t kMaxJsonValues = 4'000'000;

// A value inside a Json, valid as long as that Json lives. Cheap to copy; const and thread-safe.
//
// Getters with a key CHECK that this value is an object: test IsObject() on what a user wrote, or
// come here through GetObject(). A key whose value is null counts as absent, for every getter.
class JsonView {
 public:
  bool IsNull() const;
  bool IsBool() const;
  bool IsNumber() const;
  bool IsString() const;
  bool IsArray() const;
  bool IsObject() const;

  // This value itself. `name` is what messages call it, for example a key.
  absl::StatusOr<bool> AsBool(std::string_view name) const;
  absl::StatusOr<double> AsDouble(std::string_view name) const;
  // Integral and within +-2^53, where doubles are exact; 3.0 is an integer, 3.5 is an error.
  absl::StatusOr<int64_t> AsInt(std::string_view name) const;
  // The bytes live as long as the Json. Valid UTF-8; may hold NUL.
  absl::StatusOr<std::string_view> AsString(std::string_view name) const;

  // Objects. Find returns null values too; the others take them for absent.
  std::optional<JsonView> Find(std::string_view key) const;
  bool Has(std::string_view key) const;
  std::vector<std::string> Keys() const;                               // sorted
  std::vector<std::pair<std::string_view, JsonView>> Members() const;  // sorted by key

  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<double> GetDouble(std::string_view key) const;
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<std::string> GetString(std::string_view key) const;
  absl::StatusOr<JsonView> GetArray(std::string_view key) const;
  absl::StatusOr<JsonView> GetObject(std::string_view key) const;

  // The default where the key is absent or null; a value of the wrong type is still an error.
  absl::StatusOr<bool> GetBoolOr(std::string_view key, bool otherwise) const;
  absl::StatusOr<double> GetDoubleOr(std::string_view key, double otherwise) const;
  absl::StatusOr<int64_t> GetIntOr(std::string_view key, int64_t otherwise) const;
  absl::StatusOr<std::string> GetStringOr(std::string_view key, std::string_view otherwise) const;

  // Arrays (CHECKed).
  int64_t size() const;
  JsonView at(int64_t index) const;
  std::vector<JsonView> Elements() const;

  // INVALID_ARGUMENT in the document's name: `config.json: "name" is VALUE, expected EXPECTED`.
  absl::Status Unexpected(std::string_view name, std::string_view expected) const;

  // The document's name, for callers that word their own messages.
  const std::string& document() const { return *document_; }

 private:
  friend class Json;
  JsonView(const google::protobuf::Value* value, const std::string* document)
      : value_(value), document_(document) {}
  absl::StatusOr<JsonView> Require(std::string_view key) const;

  const google::protobuf::Value* value_;
  const std::string* document_;
};

// Owner of a parsed document. Movable; views stay valid over a move.
class Json {
 public:
  // `document` names the text in messages, usually a file name. Refused: anything but one JSON
  // value, duplicate keys at any depth, invalid UTF-8, numbers outside double's range, nesting over
  // kMaxJsonDepth, more than kMaxJsonValues values. (Protobuf's parser lets trailing commas,
  // unquoted keys and raw control characters in strings pass; so do we.)
  static absl::StatusOr<Json> Parse(std::string_view text, std::string_view document);

  // The file's name without its folder becomes the document's name; errors about the file itself
  // (NOT_FOUND, or INVALID_ARGUMENT when it is no regular file or over max_bytes) give the whole
  // path.
  static absl::StatusOr<Json> ReadFile(const std::string& path, int64_t max_bytes);

  Json(Json&&) noexcept;
  Json& operator=(Json&&) noexcept;
  ~Json();

  JsonView root() const;

 private:
  struct State;
  explicit Json(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polystrate
