#include "engine/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "engine/json_writer.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Readers may map the file: the values begin at a multiple of the largest element.
constexpr size_t kDataAlignment = 8;

void WriteInts(const std::vector<int64_t>& values, JsonWriter* json) {
  json->BeginArray();
  for (const int64_t value : values) json->Int(value);
  json->EndArray();
}

// The length in 8 bytes, little-endian, and the JSON text, padded with spaces.
std::string Header(const std::vector<NewTensor>& tensors) {
  JsonWriter json;
  // Without this transformers refuses the file.
  json.BeginObject().Key("__metadata__").BeginObject().Key("format").String("pt").EndObject();
  int64_t begin = 0;
  for (const NewTensor& tensor : tensors) {
    json.Key(tensor.name).BeginObject();
    json.Key("dtype").String(tensor.dtype);
    json.Key("shape");
    WriteInts(tensor.shape, &json);
    json.Key("data_offsets");
    WriteInts({begin, begin + tensor.num_bytes}, &json);
    json.EndObject();
    begin += tensor.num_bytes;
  }
  json.EndObject();
  std::string text = json.text();
  text.resize((text.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment, ' ');
  std::string length;
  for (size_t i = 0; i < 8; ++i) length.push_back(static_cast<char>(text.size() >> 8 * i & 0xff));
  return length + text;
}

}  // namespace

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const std::string& path,
                                                            const std::vector<NewTensor>& tensors) {
  SafetensorsWriter writer;
  writer.path_ = path;
  writer.fd_ = FileDescriptor(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (writer.fd_.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", path));
  const std::string header = Header(tensors);
  writer.missing_bytes_ = static_cast<int64_t>(header.size());
  for (const NewTensor& tensor : tensors) writer.missing_bytes_ += tensor.num_bytes;
  RETURN_IF_ERROR(writer.Append(header.data(), static_cast<int64_t>(header.size())));
  return writer;
}

absl::Status SafetensorsWriter::Append(const void* data, int64_t num_bytes) {
  CHECK_LE(num_bytes, missing_bytes_);
  missing_bytes_ -= num_bytes;
  const auto* from = static_cast<const char*>(data);
  while (num_bytes > 0) {
    // Linux transfers at most 2 GiB a call.
    const auto count = static_cast<size_t>(std::min<int64_t>(num_bytes, int64_t{1} << 30));
    const ssize_t written = write(fd_.get(), from, count);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path_));
    from += written;
    num_bytes -= written;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  CHECK_EQ(missing_bytes_, 0);
  if (fsync(fd_.get()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path_));
}

}  // namespace polystrate
