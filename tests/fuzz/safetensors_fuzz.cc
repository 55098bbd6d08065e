// Input: a safetensors file. Whatever it holds, the answer is tensors that tile its data and can be
// read, or INVALID_ARGUMENT.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/safetensors.h"
#include "kernels/core/check.h"
#include "tests/fuzz/json_mutator.h"

namespace polystrate {
namespace {

constexpr size_t kLengthBytes = 8;

// The header's length as the file states it, cut to what the file has.
size_t HeaderBytes(const uint8_t* data, size_t size) {
  uint64_t stated = 0;
  std::memcpy(&stated, data, kLengthBytes);
  return static_cast<size_t>(std::min<uint64_t>(stated, size - kLengthBytes));
}

// The tensors tile the data: together they are as long, and none lies outside.
void ReadAll(const SafetensorsFile& file, size_t data_bytes) {
  int64_t total = 0;
  for (const auto& [name, info] : file.tensors()) {
    CHECK(0 <= info.begin && info.begin <= info.end);
    CHECK_LE(info.end, static_cast<int64_t>(data_bytes));
    total += info.end - info.begin;
    std::string bytes(static_cast<size_t>(info.end - info.begin), '\0');
    CHECK(file.ReadBytes(info, 0, info.end - info.begin, bytes.data()).ok());
    CHECK(file.Find(name) == &info);
  }
  CHECK_EQ(total, static_cast<int64_t>(data_bytes));
}

}  // namespace
}  // namespace polystrate

// Changes the header as JSON and states its length as it then is, or else bytes anywhere.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using namespace polystrate;
  const std::string file(reinterpret_cast<const char*>(data), size);
  std::string edited;
  if (seed % 4 == 0 || size < kLengthBytes) {
    edited = MutateBytes(file, max_size);
  } else {
    const size_t header_bytes = HeaderBytes(data, size);
    const std::string values = file.substr(kLengthBytes + header_bytes);
    const std::string header = MutateJson(file.substr(kLengthBytes, header_bytes),
                                          max_size - size + header_bytes, seed / 4);
    const uint64_t length = header.size();
    edited.assign(reinterpret_cast<const char*>(&length), kLengthBytes);
    edited += header + values;
  }
  return edited.copy(reinterpret_cast<char*>(data), max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polystrate;
  // A file in memory; opened anew by its path, as any other.
  static const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  static const std::string path = absl::StrCat("/proc/self/fd/", fd);
  CHECK_EQ(ftruncate(fd, 0), 0);
  CHECK_EQ(pwrite(fd, data, size, 0), static_cast<ssize_t>(size));
  const auto file = SafetensorsFile::Open(path);
  if (file.ok()) {
    ReadAll(*file, size - kLengthBytes - HeaderBytes(data, size));
  } else {
    CHECK(file.status().code() == absl::StatusCode::kInvalidArgument);
  }
  return 0;
}
