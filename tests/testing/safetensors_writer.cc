#include "tests/testing/safetensors_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace polystrate {
namespace {

// Rounds through the arithmetic itself: scaled so that the last bit of the half is an integer's.
uint16_t HalfFromFloat(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const float size = std::fabs(value);
  if (size == 0.0f) return sign;
  if (std::isnan(value)) return sign | 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(size, &exponent);                        // size = [0.5, 1) * 2^exponent
  const int last_bit = std::max(exponent, -13) - 11;  // -24 for subnormals
  const float steps = std::nearbyint(std::ldexp(size, -last_bit));
  // `steps` has its leading bit at 2^10 for normals: adding the exponent above it, a carry
  // included.
  return sign | static_cast<uint16_t>(static_cast<int>(steps) + (last_bit + 24) * 1024);
}

float FloatFromHalf(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const float size = exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                     : exponent == 0
                         ? std::ldexp(static_cast<float>(fraction), -24)
                         : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return (half & 0x8000) != 0 ? -size : size;
}

template <typename T>
void Append(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}
template <typename T>
T Element(absl::string_view bytes, size_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
  return value;
}

std::string LengthBytes(uint64_t length) {
  std::string bytes;
  Append(length, &bytes);
  return bytes;
}

}  // namespace

std::string EncodeFloats(const std::vector<float>& values, const std::string& dtype) {
  if (dtype == "F32") {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
  }
  CHECK(dtype == "F16" || dtype == "BF16");
  std::string bytes;
  bytes.reserve(values.size() * 2);
  for (const float value : values)
    Append(dtype == "F16" ? HalfFromFloat(value) : BFloat16::FromFloat(value).bits, &bytes);
  return bytes;
}

std::vector<float> DecodeFloats(absl::string_view bytes, const std::string& dtype) {
  CHECK(dtype == "F32" || dtype == "F16" || dtype == "BF16");
  std::vector<float> values(bytes.size() / (dtype == "F32" ? 4 : 2));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = dtype == "F32"   ? Element<float>(bytes, i)
                : dtype == "F16" ? FloatFromHalf(Element<uint16_t>(bytes, i))
                                 : BFloat16{Element<uint16_t>(bytes, i)}.ToFloat();
  }
  return values;
}

std::string SafetensorsHeader(const std::vector<StoredTensor>& tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  size_t begin = 0;
  for (const StoredTensor& tensor : tensors) {
    const size_t end = begin + tensor.bytes.size();
    absl::StrAppend(&header, ",\"", tensor.name, "\":{\"dtype\":\"", tensor.dtype, "\",\"shape\":[",
                    absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", begin, ",", end,
                    "]}");
    begin = end;
  }
  return header + "}";
}

std::string SafetensorsBytes(absl::string_view header, absl::string_view data) {
  return absl::StrCat(LengthBytes(header.size()), header, data);
}

void WriteSafetensors(const std::string& path, const std::vector<StoredTensor>& tensors) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  const std::string header = SafetensorsHeader(tensors);
  file << LengthBytes(header.size()) << header;
  for (const StoredTensor& tensor : tensors) file << tensor.bytes;
  file.close();
  CHECK(file.good());
}

}  // namespace polystrate
