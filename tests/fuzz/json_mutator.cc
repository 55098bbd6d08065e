#include "tests/fuzz/json_mutator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace polystrate {
namespace {

// Bytes [begin, end) of a text.
struct Span {
  size_t begin = 0;
  size_t end = 0;
};

size_t EndOfString(std::string_view json, size_t at) {
  for (++at; at < json.size() && json[at] != '"'; ++at) at += json[at] == '\\' ? 1 : 0;
  return std::min(at + 1, json.size());
}

// Every value, also those that hold others, every key, and every key with its value.
std::vector<Span> FindSpans(std::string_view json) {
  std::vector<Span> spans;
  struct Open {
    size_t begin;
    std::optional<size_t> key;  // where the key of this list or object begins
  };
  std::vector<Open> open;
  std::optional<size_t> key;  // of the value that comes next
  const auto add = [&](size_t begin, size_t end) {
    spans.push_back({begin, end});
    if (key.has_value()) spans.push_back({*key, end});
    key.reset();
  };
  for (size_t at = 0; at < json.size();) {
    const size_t begin = at++;
    const char c = json[begin];
    if (c == '"') {
      at = EndOfString(json, begin);
      add(begin, at);
    } else if (c == ':') {
      if (!spans.empty()) key = spans.back().begin;
    } else if (c == '{' || c == '[') {
      open.push_back({begin, std::exchange(key, std::nullopt)});
    } else if (c == '}' || c == ']') {
      if (open.empty()) continue;
      key = open.back().key;
      add(open.back().begin, at);
      open.pop_back();
    } else if (std::string_view(" \t\r\n,").find(c) == std::string_view::npos) {
      at = std::min(json.find_first_of(" \t\r\n,:{}[]\"", at), json.size());
      add(begin, at);
    }
  }
  return spans;
}

// What readers of numbers, names and lists get wrong.
constexpr std::array<std::string_view, 26> kValues = {"null",
                                                      "true",
                                                      "false",
                                                      "0",
                                                      "1",
                                                      "-1",
                                                      "2",
                                                      "3",
                                                      "0.5",
                                                      "1e308",
                                                      "-1e308",
                                                      "1e-320",
                                                      "4096",
                                                      "2147483648",
                                                      "9007199254740993",
                                                      "4611686018427387904",
                                                      "9223372036854775807",
                                                      "18446744073709551616",
                                                      "\"\"",
                                                      "\"a\"",
                                                      "\"\\u0000\"",
                                                      "\"\xc3\xa9\"",
                                                      "[]",
                                                      "{}",
                                                      "[0,0]",
                                                      "[[]]"};

}  // namespace

std::string MutateBytes(std::string bytes, size_t max_size) {
  const size_t size = bytes.size();
  bytes.resize(std::max(size, max_size));
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), size, bytes.size()));
  return bytes;
}

std::string MutateJson(const std::string& json, size_t max_size, unsigned seed) {
  std::minstd_rand random(seed);
  const std::vector<Span> spans = FindSpans(json);
  if (spans.empty()) return MutateBytes(json, max_size);
  const auto any = [&] { return spans[random() % spans.size()]; };
  const auto text_of = [&json](Span span) {
    return json.substr(span.begin, span.end - span.begin);
  };
  const Span at = any();
  std::string put;
  Span rest = {at.end, json.size()};
  switch (random() % 8) {
    case 0:
      put = std::to_string(random() % 20);
      break;
    case 1:
      put = kValues[random() % kValues.size()];
      break;
    case 2:
      put = text_of(any());
      break;
    case 3:
      put = text_of(at) + "," + text_of(any());
      break;
    case 4: {  // once more, a key under another name
      const std::string text = text_of(at);
      put = text + "," + text;
      if (text[0] == '"') put.insert(text.size() + 2, "x");
      break;
    }
    case 5: {  // with the comma behind it
      const size_t comma = std::min(json.find(',', at.end), json.size());
      rest.begin = std::min(comma + 1, json.size());
      break;
    }
    default:
      put = MutateBytes(text_of(at), at.end - at.begin + 32);
  }
  const std::string edited = json.substr(0, at.begin) + put + text_of(rest);
  return edited.size() <= max_size ? edited : json.substr(0, max_size);
}

JsonInput JsonInput::From(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const size_t nul = std::min(bytes.find('\0'), size);
  return {bytes.substr(0, nul), nul < size ? bytes.substr(nul + 1) : ""};
}

size_t MutateJsonInput(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  if (seed % 4 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const JsonInput input = JsonInput::From(data, size);
  const size_t rest_size = std::min(size - input.json.size(), max_size / 2);
  const std::string json = MutateJson(input.json, max_size - rest_size, seed / 4);
  std::memmove(data + json.size(), data + size - rest_size, rest_size);
  json.copy(reinterpret_cast<char*>(data), json.size());
  return json.size() + rest_size;
}

}  // namespace polystrate
