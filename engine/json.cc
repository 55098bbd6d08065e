#include "engine/json.h"

#include <google/protobuf/arena.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_format.h"
#include "engine/utf8.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

using google::protobuf::Value;

constexpr double kMaxExactInteger = 9007199254740992.0;  // 2^53
constexpr size_t kMaxShown = 60;                         // bytes of a value shown in a message

// Cuts `text` for a message, never inside a UTF-8 character.
std::string Shorten(std::string_view text) {
  if (text.size() <= kMaxShown) return std::string(text);
  size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

std::string Show(const Value& value) {
  switch (value.kind_case()) {
    case Value::kNullValue:
      return "null";
    case Value::kBoolValue:
      return value.bool_value() ? "true" : "false";
    case Value::kNumberValue:
      return absl::StrFormat("%.17g", value.number_value());
    case Value::kStringValue:
      return "the string \"" + Shorten(value.string_value()) + "\"";
    case Value::kListValue:
      return absl::StrFormat("an array of %d", value.list_value().values_size());
    default:
      return "an object";
  }
}

// What protobuf's parser does not bound itself: it takes time quadratic in the depth of brackets,
// and memory 70 times the text for an array of empty objects. One pass over the bytes, before it
// starts.
absl::Status CheckBounds(std::string_view text, std::string_view document) {
  int depth = 0;
  int64_t num_values = 1;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) i += text[i] == '\\';
    } else if (c == '\'') {
      // The parser would take this for a string, and this loop would lose its place.
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: not valid JSON: ' at byte %d, strings take double quotes", document, i));
    } else if (c == '[' || c == '{') {
      ++num_values;
      if (++depth > kMaxJsonDepth) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "%s: nested deeper than %d levels at byte %d", document, kMaxJsonDepth, i));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' && ++num_values > kMaxJsonValues) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: more than %d values", document, kMaxJsonValues));
    }
  }
  return absl::OkStatus();
}

// Protobuf's message in our words: "(a.b.c) key: Repeated map key: 'key' is already set." or
// "What is wrong.\n<text there>\n   ^".
absl::Status ParseError(const std::string& message, std::string_view document) {
  constexpr std::string_view kRepeated = "Repeated map key: '";
  constexpr std::string_view kRepeatedEnd = "' is already set";
  const size_t begin = message.find(kRepeated);
  const size_t end = message.rfind(kRepeatedEnd);
  if (begin != std::string::npos && end != std::string::npos && end >= begin + kRepeated.size()) {
    const size_t key = begin + kRepeated.size();
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: duplicate key \"%s\"", document,
                        Shorten(std::string_view(message).substr(key, end - key))));
  }
  const size_t line_end = std::min(message.find('\n'), message.size());
  std::string_view near = std::string_view(message).substr(line_end);
  if (!near.empty()) near.remove_prefix(1);
  near = near.substr(0, near.find('\n'));
  std::string error = absl::StrFormat("%s: not valid JSON: %s", document,
                                      Shorten(std::string_view(message).substr(0, line_end)));
  if (!near.empty()) {
    error += " At: ";
    if (AppendDecodable(near.substr(0, kMaxShown), error) == 0) error += kReplacement;
  }
  return absl::InvalidArgumentError(error);
}

}  // namespace

bool JsonView::IsNull() const {
  return value_->kind_case() == Value::kNullValue || value_->kind_case() == Value::KIND_NOT_SET;
}
bool JsonView::IsBool() const { return value_->has_bool_value(); }
bool JsonView::IsNumber() const { return value_->has_number_value(); }
bool JsonView::IsString() const { return value_->has_string_value(); }
bool JsonView::IsArray() const { return value_->has_list_value(); }
bool JsonView::IsObject() const { return value_->has_struct_value(); }

absl::Status JsonView::Unexpected(std::string_view name, std::string_view expected) const {
  return absl::InvalidArgumentError(absl::StrFormat("%s: \"%s\" is %s, expected %s", *document_,
                                                    Shorten(name), Show(*value_), expected));
}

absl::StatusOr<bool> JsonView::AsBool(std::string_view name) const {
  if (!IsBool()) return Unexpected(name, "true or false");
  return value_->bool_value();
}

absl::StatusOr<double> JsonView::AsDouble(std::string_view name) const {
  if (!IsNumber()) return Unexpected(name, "a number");
  return value_->number_value();
}

absl::StatusOr<int64_t> JsonView::AsInt(std::string_view name) const {
  if (!IsNumber()) return Unexpected(name, "an integer");
  const double number = value_->number_value();
  if (std::trunc(number) != number) return Unexpected(name, "an integer");
  if (std::abs(number) > kMaxExactInteger) return Unexpected(name, "an integer within 2^53");
  return static_cast<int64_t>(number);
}

absl::StatusOr<std::string_view> JsonView::AsString(std::string_view name) const {
  if (!IsString()) return Unexpected(name, "a string");
  return std::string_view(value_->string_value());
}

std::optional<JsonView> JsonView::Find(std::string_view key) const {
  CHECK(IsObject());
  const auto& fields = value_->struct_value().fields();
  const auto found = fields.find(std::string(key));
  if (found == fields.end()) return std::nullopt;
  return JsonView(&found->second, document_);
}

bool JsonView::Has(std::string_view key) const {
  const std::optional<JsonView> found = Find(key);
  return found.has_value() && !found->IsNull();
}

std::vector<std::pair<std::string_view, JsonView>> JsonView::Members() const {
  CHECK(IsObject());
  const auto& fields = value_->struct_value().fields();
  std::vector<std::pair<std::string_view, JsonView>> members;
  members.reserve(fields.size());
  for (const auto& [key, value] : fields) members.emplace_back(key, JsonView(&value, document_));
  std::sort(members.begin(), members.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  return members;
}

std::vector<std::string> JsonView::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : Members()) keys.emplace_back(key);
  return keys;
}

absl::StatusOr<JsonView> JsonView::Require(std::string_view key) const {
  const std::optional<JsonView> found = Find(key);
  if (found.has_value() && !found->IsNull()) return *found;
  return absl::InvalidArgumentError(absl::StrFormat("%s: \"%s\" is %s", *document_, Shorten(key),
                                                    found.has_value() ? "null" : "missing"));
}

absl::StatusOr<bool> JsonView::GetBool(std::string_view key) const {
  ASSIGN_OR_RETURN(const JsonView value, Require(key));
  return value.AsBool(key);
}

absl::StatusOr<double> JsonView::GetDouble(std::string_view key) const {
  ASSIGN_OR_RETURN(const JsonView value, Require(key));
  return value.AsDouble(key);
}

absl::StatusOr<int64_t> JsonView::GetInt(std::string_view key) const {
  ASSIGN_OR_RETURN(const JsonView value, Require(key));
  return value.AsInt(key);
}

absl::StatusOr<std::string> JsonView::GetString(std::string_view key) const {
  ASSIGN_OR_RETURN(const JsonView value, Require(key));
  ASSIGN_OR_RETURN(const std::string_view text, value.AsString(key));
  return std::string(text);
}

absl::StatusOr<JsonView> JsonView::GetArray(std::string_view key) const {
  ASSIGN_OR_RETURN(const JsonView value, Require(key));
  if (!value.IsArray()) return value.Unexpected(key, "an array");
  return value;
}

absl::StatusOr<JsonView> JsonView::GetObject(std::string_view key) const {
  ASSIGN_OR_RETURN(const JsonView value, Require(key));
  if (!value.IsObject()) return value.Unexpected(key, "an object");
  return value;
}

absl::StatusOr<bool> JsonView::GetBoolOr(std::string_view key, bool otherwise) const {
  if (!Has(key)) return otherwise;
  return GetBool(key);
}

absl::StatusOr<double> JsonView::GetDoubleOr(std::string_view key, double otherwise) const {
  if (!Has(key)) return otherwise;
  return GetDouble(key);
}

absl::StatusOr<int64_t> JsonView::GetIntOr(std::string_view key, int64_t otherwise) const {
  if (!Has(key)) return otherwise;
  return GetInt(key);
}

absl::StatusOr<std::string> JsonView::GetStringOr(std::string_view key,
                                                  std::string_view otherwise) const {
  if (!Has(key)) return std::string(otherwise);
  return GetString(key);
}

int64_t JsonView::size() const {
  CHECK(IsArray());
  return value_->list_value().values_size();
}

JsonView JsonView::at(int64_t index) const {
  CHECK(index >= 0 && index < size());
  return JsonView(&value_->list_value().values(static_cast<int>(index)), document_);
}

std::vector<JsonView> JsonView::Elements() const {
  CHECK(IsArray());
  std::vector<JsonView> elements;
  elements.reserve(static_cast<size_t>(size()));
  for (const Value& value : value_->list_value().values()) {
    elements.push_back(JsonView(&value, document_));
  }
  return elements;
}

struct Json::State {
  std::string document;
  google::protobuf::Arena arena;  // owns *root; twice as fast as the heap for many small values
  Value* root = nullptr;
};

Json::Json(std::unique_ptr<State> state) : state_(std::move(state)) {}
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

JsonView Json::root() const { return JsonView(state_->root, &state_->document); }

absl::StatusOr<Json> Json::Parse(std::string_view text, std::string_view document) {
  RETURN_IF_ERROR(CheckBounds(text, document));
  auto state = std::make_unique<State>();
  state->document = std::string(document);
  state->root = google::protobuf::Arena::CreateMessage<Value>(&state->arena);
  const auto status = google::protobuf::util::JsonStringToMessage(
      google::protobuf::StringPiece(text.data(), text.size()), state->root);
  if (!status.ok()) {
    return ParseError(std::string(status.message().data(), status.message().size()), document);
  }
  return Json(std::move(state));
}

absl::StatusOr<Json> Json::ReadFile(const std::string& path, int64_t max_bytes) {
  std::error_code error;
  const auto file_status = std::filesystem::status(path, error);
  if (file_status.type() == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(path + ": no such file");
  }
  if (file_status.type() != std::filesystem::file_type::regular) {
    return absl::InvalidArgumentError(path + ": not a regular file");
  }
  const auto num_bytes = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (error || num_bytes > max_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: %d bytes, expected a JSON file of at most %d", path, num_bytes, max_bytes));
  }
  std::string text(static_cast<size_t>(num_bytes), '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(text.data(), num_bytes);
  if (!file) return absl::InvalidArgumentError(path + ": cannot be read");
  return Parse(text, std::filesystem::path(path).filename().string());
}

}  // namespace polystrate
