// JsonWriter: builds one JSON text, members in the order they are written.
//
//   JsonWriter json;
//   json.BeginObject().Key("kv_source").BeginArray().Int(0).Int(0).EndArray().EndObject();
//   std::puts(json.text().c_str());   // {"kv_source":[0,0]}
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace polystrate {

// Compact output: no spaces, no line breaks, so one text is one line of JSON Lines. Misuse (a value
// in an object without a key, an End that closes nothing) is a bug and CHECKed. Not thread-safe.
class JsonWriter {
 public:
  JsonWriter& BeginObject();
  JsonWriter& EndObject();
  JsonWriter& BeginArray();
  JsonWriter& EndArray();
  JsonWriter& Key(std::string_view key);

  // Bytes that are no UTF-8 become U+FFFD, so that the output is always valid.
  JsonWriter& String(std::string_view value);
  JsonWriter& Int(int64_t value);
  // The shortest digits that read back as the same double; NaN and infinities become null.
  JsonWriter& Double(double value);
  // The same for a float: 0.1f is written 0.1.
  JsonWriter& Float(float value);
  JsonWriter& Bool(bool value);
  JsonWriter& Null();

  // The finished text; CHECKs that everything was closed.
  const std::string& text() const;

 private:
  struct Level {
    bool is_object = false;
    bool empty = true;
    bool has_key = false;  // a key was written, its value not yet
  };
  void BeforeValue();
  JsonWriter& Raw(std::string_view text);
  JsonWriter& Begin(bool is_object, char bracket);
  JsonWriter& End(bool is_object, char bracket);
  void Quote(std::string_view value);

  std::string text_;
  std::vector<Level> levels_;
};

}  // namespace polystrate
