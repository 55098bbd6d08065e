// Writes safetensors files, honest ones from tensors and dishonest ones from a header's text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace polystrate {

struct StoredTensor {
  std::string name;
  std::string dtype;  // "F32", "F16", "BF16", or any other the format has
  std::vector<int64_t> shape;
  std::string bytes;
};

// Values as bytes of dtype "F32", "F16" or "BF16", rounded to nearest even.
std::string EncodeFloats(const std::vector<float>& values, const std::string& dtype);
// The values that those bytes stand for.
std::vector<float> DecodeFloats(absl::string_view bytes, const std::string& dtype);

// {"name": {"dtype": ..., "shape": ..., "data_offsets": ...}, ...}, data in the tensors' order.
std::string SafetensorsHeader(const std::vector<StoredTensor>& tensors);
// A whole file: the header's length in 8 bytes, the header, the data.
std::string SafetensorsBytes(absl::string_view header, absl::string_view data);
void WriteSafetensors(const std::string& path, const std::vector<StoredTensor>& tensors);

}  // namespace polystrate
