// Edits that mostly leave JSON valid: of bytes changed blindly the parser would stop nearly all,
// and what reads the values would never see them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace polystrate {

// One edit of `json`, drawn from `seed`: a value put in another's place, repeated or erased, or its
// own bytes changed. At most `max_size` bytes.
std::string MutateJson(const std::string& json, size_t max_size, unsigned seed);

// What libFuzzer itself would make of `bytes`.
std::string MutateBytes(std::string bytes, size_t max_size);

// An input of two parts: JSON, and what follows a NUL byte.
struct JsonInput {
  std::string json;
  std::string rest;  // empty where there is no NUL

  static JsonInput From(const uint8_t* data, size_t size);
};

// A LLVMFuzzerCustomMutator for such inputs.
size_t MutateJsonInput(uint8_t* data, size_t size, size_t max_size, unsigned seed);

}  // namespace polystrate
