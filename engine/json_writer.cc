#include "engine/json_writer.h"

#include <charconv>
#include <cmath>

#include "engine/utf8.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

template <typename T>
std::string_view Format(T value, char (&buffer)[40]) {
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string_view(buffer, static_cast<size_t>(result.ptr - buffer));
}

}  // namespace

void JsonWriter::BeforeValue() {
  if (levels_.empty()) {
    CHECK(text_.empty());  // one text holds one value
    return;
  }
  Level& level = levels_.back();
  if (level.is_object) {
    CHECK(level.has_key);
    level.has_key = false;
    return;
  }
  if (!level.empty) text_ += ',';
  level.empty = false;
}

JsonWriter& JsonWriter::Raw(std::string_view text) {
  BeforeValue();
  text_ += text;
  return *this;
}

JsonWriter& JsonWriter::Begin(bool is_object, char bracket) {
  BeforeValue();
  text_ += bracket;
  levels_.push_back({.is_object = is_object});
  return *this;
}

JsonWriter& JsonWriter::End(bool is_object, char bracket) {
  CHECK(!levels_.empty());
  CHECK_EQ(levels_.back().is_object, is_object);
  CHECK(!levels_.back().has_key);
  levels_.pop_back();
  text_ += bracket;
  return *this;
}

JsonWriter& JsonWriter::BeginObject() { return Begin(true, '{'); }
JsonWriter& JsonWriter::EndObject() { return End(true, '}'); }
JsonWriter& JsonWriter::BeginArray() { return Begin(false, '['); }
JsonWriter& JsonWriter::EndArray() { return End(false, ']'); }

JsonWriter& JsonWriter::Key(std::string_view key) {
  CHECK(!levels_.empty() && levels_.back().is_object && !levels_.back().has_key);
  Level& level = levels_.back();
  if (!level.empty) text_ += ',';
  level.empty = false;
  level.has_key = true;
  Quote(key);
  text_ += ':';
  return *this;
}

JsonWriter& JsonWriter::String(std::string_view value) {
  BeforeValue();
  Quote(value);
  return *this;
}

JsonWriter& JsonWriter::Int(int64_t value) {
  char buffer[40];
  return Raw(Format(value, buffer));
}

JsonWriter& JsonWriter::Double(double value) {
  char buffer[40];
  return Raw(std::isfinite(value) ? Format(value, buffer) : "null");
}

JsonWriter& JsonWriter::Float(float value) {
  char buffer[40];
  return Raw(std::isfinite(value) ? Format(value, buffer) : "null");
}

JsonWriter& JsonWriter::Bool(bool value) { return Raw(value ? "true" : "false"); }
JsonWriter& JsonWriter::Null() { return Raw("null"); }

void JsonWriter::Quote(std::string_view value) {
  constexpr char kHex[] = "0123456789abcdef";
  text_ += '"';
  size_t i = 0;
  while (i < value.size()) {
    const auto byte = static_cast<unsigned char>(value[i]);
    if (byte >= 0x80) {
      const Utf8Step step = DecodeUtf8(value.substr(i));
      text_ += step.status == Utf8Step::kValid ? value.substr(i, step.num_bytes) : kReplacement;
      i += step.num_bytes;
      continue;
    }
    ++i;
    if (byte == '"' || byte == '\\') {
      text_ += '\\';
      text_ += static_cast<char>(byte);
    } else if (byte == '\n') {
      text_ += "\\n";
    } else if (byte == '\t') {
      text_ += "\\t";
    } else if (byte == '\r') {
      text_ += "\\r";
    } else if (byte < 0x20 || byte == 0x7f) {
      text_ += "\\u00";
      text_ += kHex[byte >> 4];
      text_ += kHex[byte & 15];
    } else {
      text_ += static_cast<char>(byte);
    }
  }
  text_ += '"';
}

const std::string& JsonWriter::text() const {
  CHECK(levels_.empty() && !text_.empty());
  return text_;
}

}  // namespace polystrate
