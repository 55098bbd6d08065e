#include "engine/safetensors_header.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();
// PyTorch's own limit. Without one, a header of "1,1,1,..." would cost eight times its size.
constexpr size_t kMaxRank = 64;

struct StorageType {
  const char* name;
  int bits;
};
constexpr StorageType kStorageTypes[] = {
    {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"I16", 16}, {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"F8_E5M2FNUZ", 8},
    {"I32", 32}, {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64}, {"U64", 64},
};

int BitsOf(absl::string_view dtype) {
  for (const StorageType& type : kStorageTypes)
    if (dtype == type.name) return type.bits;
  return 0;
}

// What a message may show of a name that a hostile file chose.
std::string Quoted(absl::string_view name) {
  return absl::StrCat("'", absl::CHexEscape(name.substr(0, 200)), "'");
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  uint8_t bytes[4];
  int32_t size = 0;
  U8_APPEND_UNSAFE(bytes, size, code_point);
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

// A pull parser for the one grammar the format allows; it knows no values but these.
class HeaderParser {
 public:
  explicit HeaderParser(absl::string_view text) : text_(text) {}

  absl::StatusOr<TensorMap> Parse();

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("header byte ", at_, ": ", what));
  }
  void SkipSpace() {
    while (at_ < text_.size() && absl::StrContains(" \t\r\n", text_.substr(at_, 1))) ++at_;
  }
  // Skips white space, then `c` if it is next.
  bool Consume(char c) {
    SkipSpace();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  absl::Status Expect(char c) {
    return Consume(c) ? absl::OkStatus() : Error(absl::StrCat("expected ", std::string(1, c)));
  }
  // Calls parse_value(key) for each key of an object; parse_value consumes the value.
  template <typename ParseValue>
  absl::Status ParseObject(const ParseValue& parse_value);
  absl::StatusOr<std::string> ParseString();
  absl::Status ParseEscape(std::string* out);
  absl::StatusOr<uint32_t> ParseHex4();
  absl::StatusOr<int64_t> ParseSize();
  absl::StatusOr<std::vector<int64_t>> ParseSizes();
  absl::StatusOr<TensorInfo> ParseTensor();
  absl::Status ParseMetadata();

  absl::string_view text_;
  size_t at_ = 0;
};

absl::StatusOr<TensorMap> HeaderParser::Parse() {
  TensorMap tensors;
  bool has_metadata = false;
  RETURN_IF_ERROR(ParseObject([&](std::string name) -> absl::Status {
    if (name == "__metadata__") {
      if (std::exchange(has_metadata, true)) return Error("__metadata__ appears twice");
      return ParseMetadata();
    }
    if (tensors.contains(name))
      return Error(absl::StrCat("tensor ", Quoted(name), " appears twice"));
    ASSIGN_OR_RETURN(TensorInfo info, ParseTensor());
    tensors.emplace(std::move(name), std::move(info));
    return absl::OkStatus();
  }));
  SkipSpace();
  if (at_ != text_.size()) return Error("text after the object that should be all of the header");
  return tensors;
}

template <typename ParseValue>
absl::Status HeaderParser::ParseObject(const ParseValue& parse_value) {
  RETURN_IF_ERROR(Expect('{'));
  if (Consume('}')) return absl::OkStatus();
  do {
    SkipSpace();
    ASSIGN_OR_RETURN(std::string key, ParseString());
    RETURN_IF_ERROR(Expect(':'));
    RETURN_IF_ERROR(parse_value(std::move(key)));
  } while (Consume(','));
  return Expect('}');
}

absl::StatusOr<std::string> HeaderParser::ParseString() {
  RETURN_IF_ERROR(Expect('"'));
  std::string out;
  while (at_ < text_.size()) {
    const char c = text_[at_++];
    if (c == '"') return out;
    if (static_cast<uint8_t>(c) < 0x20) return Error("control character in a string");
    if (c == '\\') {
      RETURN_IF_ERROR(ParseEscape(&out));
    } else {
      out.push_back(c);
    }
  }
  return Error("a string has no end");
}

absl::Status HeaderParser::ParseEscape(std::string* out) {
  constexpr absl::string_view kLetters = "\"\\/bfnrt";
  constexpr absl::string_view kMeanings = "\"\\/\b\f\n\r\t";
  const char letter = at_ < text_.size() ? text_[at_++] : '\0';
  if (const size_t i = kLetters.find(letter); i != absl::string_view::npos) {
    out->push_back(kMeanings[i]);
    return absl::OkStatus();
  }
  if (letter != 'u') return Error("unknown escape in a string");
  ASSIGN_OR_RETURN(uint32_t code, ParseHex4());
  if (code >= 0xd800 && code < 0xdc00 && text_.substr(at_, 2) == "\\u") {
    at_ += 2;
    ASSIGN_OR_RETURN(const uint32_t low, ParseHex4());
    if (low < 0xdc00 || low > 0xdfff) return Error("half a surrogate pair in a string");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  if (code >= 0xd800 && code <= 0xdfff) return Error("half a surrogate pair in a string");
  AppendUtf8(code, out);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> HeaderParser::ParseHex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = at_ < text_.size() ? text_[at_++] : '\0';
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return Error("bad \\u escape");
    value = value * 16 + static_cast<uint32_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return value;
}

absl::StatusOr<int64_t> HeaderParser::ParseSize() {
  SkipSpace();
  const size_t first = at_;
  int64_t value = 0;
  for (; at_ < text_.size() && absl::ascii_isdigit(static_cast<unsigned char>(text_[at_])); ++at_) {
    const int64_t digit = text_[at_] - '0';
    if (value > (kInt64Max - digit) / 10) return Error("the number does not fit 63 bits");
    value = value * 10 + digit;
  }
  if (at_ == first) return Error("expected an integer of at least 0");
  if (text_[first] == '0' && at_ > first + 1) return Error("a number begins with 0");
  return value;
}

absl::StatusOr<std::vector<int64_t>> HeaderParser::ParseSizes() {
  RETURN_IF_ERROR(Expect('['));
  std::vector<int64_t> sizes;
  if (Consume(']')) return sizes;
  do {
    if (sizes.size() == kMaxRank) return Error(absl::StrCat("more than ", kMaxRank, " numbers"));
    ASSIGN_OR_RETURN(const int64_t size, ParseSize());
    sizes.push_back(size);
  } while (Consume(','));
  RETURN_IF_ERROR(Expect(']'));
  return sizes;
}

absl::StatusOr<TensorInfo> HeaderParser::ParseTensor() {
  TensorInfo info;
  std::set<std::string> seen;
  RETURN_IF_ERROR(ParseObject([&](const std::string& key) -> absl::Status {
    if (!seen.insert(key).second) return Error(absl::StrCat(Quoted(key), " appears twice"));
    if (key == "dtype") {
      SkipSpace();
      ASSIGN_OR_RETURN(info.dtype, ParseString());
    } else if (key == "shape") {
      ASSIGN_OR_RETURN(info.shape, ParseSizes());
    } else if (key == "data_offsets") {
      ASSIGN_OR_RETURN(const std::vector<int64_t> offsets, ParseSizes());
      if (offsets.size() != 2) return Error("data_offsets should be [begin, end]");
      info.begin = offsets[0];
      info.end = offsets[1];
    } else {
      return Error(absl::StrCat("a tensor has dtype, shape and data_offsets, not ", Quoted(key)));
    }
    return absl::OkStatus();
  }));
  if (seen.size() != 3) return Error("a tensor lacks one of dtype, shape and data_offsets");
  return info;
}

absl::Status HeaderParser::ParseMetadata() {
  return ParseObject([&](const std::string&) -> absl::Status {
    SkipSpace();
    return ParseString().status();
  });
}

// dtype, shape and data_offsets of one tensor must say the same number of bytes.
absl::Status CheckTensor(const TensorInfo& info) {
  const int bits = BitsOf(info.dtype);
  if (bits == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", Quoted(info.dtype), " is not one that safetensors defines"));
  }
  int64_t total_bits = bits;
  for (const int64_t dim : info.shape) {
    if (__builtin_mul_overflow(total_bits, dim, &total_bits)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the size of shape ", ShapeString(info.shape), " overflows"));
    }
  }
  if (total_bits % 8 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeString(info.shape), " of ",
                                                   info.dtype, " is not a whole number of bytes"));
  }
  if (info.begin > info.end || info.end - info.begin != total_bits / 8) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shape ", ShapeString(info.shape), " of ", info.dtype, " needs ", total_bits / 8,
        " bytes, but data_offsets are [", info.begin, ", ", info.end, "]"));
  }
  return absl::OkStatus();
}

// The tensors must tile [0, data_bytes): no overlap, no hole, nothing after the last.
absl::Status CheckTiling(const TensorMap& tensors, int64_t data_bytes) {
  std::vector<const TensorMap::value_type*> order;
  order.reserve(tensors.size());
  for (const auto& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  int64_t end = 0;
  for (const auto* entry : order) {
    const auto& [name, info] = *entry;
    if (info.begin != end) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(name), " begins at byte ", info.begin, " of the data, ",
                       info.begin < end ? "inside the tensor that ends at byte "
                                        : "after a hole that begins at byte ",
                       end));
    }
    end = info.end;
  }
  if (end == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the header describes ", end, " bytes of data, but the file holds ", data_bytes,
                   end > data_bytes ? ": it is cut short; copy or download it again" : ""));
}

}  // namespace

std::string ShapeString(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<TensorMap> ParseSafetensorsHeader(absl::string_view text, int64_t data_bytes) {
  if (!absl::StartsWith(text, "{"))
    return absl::InvalidArgumentError("the header does not begin with '{'");
  if (FirstInvalidUtf8({text.data(), text.size()}) != text.size())
    return absl::InvalidArgumentError("the header is not UTF-8");
  ASSIGN_OR_RETURN(TensorMap tensors, HeaderParser(text).Parse());
  for (const auto& [name, info] : tensors) {
    if (absl::Status status = CheckTensor(info); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(name), ": ", status.message()));
    }
  }
  RETURN_IF_ERROR(CheckTiling(tensors, data_bytes));
  return tensors;
}

}  // namespace polystrate
