#include "engine/tensor_reader.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/dtype.h"
#include "kernels/core/float16.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Large enough that system calls cost nothing beside the copy, small enough to stay in cache.
constexpr int64_t kStagingBytes = 1 << 20;

struct FromF32 {
  using Storage = uint32_t;
  static float Decode(uint32_t bits) { return std::bit_cast<float>(bits); }
};
struct FromF16 {
  using Storage = uint16_t;
  static float Decode(uint16_t bits) { return Float16{bits}.ToFloat(); }
};
struct FromBF16 {
  using Storage = uint16_t;
  static float Decode(uint16_t bits) { return BFloat16{bits}.ToFloat(); }
};

void Store(float value, float* to) { *to = value; }
void Store(float value, BFloat16* to) { *to = BFloat16::FromFloat(value); }
void Store(float value, Float16* to) { *to = Float16::FromFloat(value); }

template <typename From, typename To>
void ConvertRun(const uint8_t* src, int64_t count, void* dst) {
  To* to = static_cast<To*>(dst);
  for (int64_t i = 0; i < count; ++i) {
    typename From::Storage bits;
    std::memcpy(&bits, src + i * static_cast<int64_t>(sizeof(bits)), sizeof(bits));
    Store(From::Decode(bits), to + i);
  }
}

using Converter = void (*)(const uint8_t* src, int64_t count, void* dst);

template <typename From>
Converter To(DType dtype) {
  if (dtype == DType::kFloat32) return &ConvertRun<From, float>;
  return dtype == DType::kBFloat16 ? &ConvertRun<From, BFloat16> : &ConvertRun<From, Float16>;
}

// How one stored dtype becomes another; `convert` is null where the bytes are the same.
struct Conversion {
  int64_t stored_bytes = 0;  // of an element; 0: this dtype cannot be a weight
  Converter convert = nullptr;
};
Conversion ConversionOf(const std::string& stored, DType dtype) {
  if (stored == "F32") return {4, dtype == DType::kFloat32 ? nullptr : To<FromF32>(dtype)};
  if (stored == "BF16") return {2, dtype == DType::kBFloat16 ? nullptr : To<FromBF16>(dtype)};
  if (stored == "F16") return {2, dtype == DType::kFloat16 ? nullptr : To<FromF16>(dtype)};
  return {};
}

}  // namespace

TensorReader::TensorReader(const Checkpoint& checkpoint)
    : checkpoint_(checkpoint), staging_(kStagingBytes) {}

absl::Status TensorReader::Check(const std::string& name, const std::vector<int64_t>& shape) const {
  ASSIGN_OR_RETURN(const Checkpoint::Entry entry, checkpoint_.Get(name));
  if (entry.info->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", name, "' in ", entry.file->path(), " has shape ",
        ShapeString(entry.info->shape), "; by config.json it should be ", ShapeString(shape)));
  }
  if (ConversionOf(entry.info->dtype, DType::kFloat32).stored_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' in ", entry.file->path(),
                                                   " is stored as ", entry.info->dtype,
                                                   "; a weight must be F32, F16 or BF16"));
  }
  return absl::OkStatus();
}

absl::Status TensorReader::Read(const std::string& name, const Block& block, const Tensor& dst) {
  CHECK(dst.dtype() == DType::kFloat32 || dst.dtype() == DType::kBFloat16 ||
        dst.dtype() == DType::kFloat16);
  CHECK(dst.device().type == DeviceType::kCpu);
  const Checkpoint::Entry* entry = checkpoint_.Find(name);
  CHECK(entry != nullptr);
  const std::vector<int64_t>& shape = entry->info->shape;
  const int64_t stored_columns = shape.size() == 2 ? shape[1] : 1;
  CHECK(block.row_begin >= 0 && block.row_begin + block.num_rows <= shape[0]);
  CHECK(block.column_begin >= 0 && block.column_begin + block.num_columns <= stored_columns);
  CHECK_LE(block.num_rows, dst.dim(0));
  CHECK_LE(block.num_columns, dst.rank() == 2 ? dst.dim(1) : 1);

  // Whole rows that follow one another on both sides are one run, otherwise each row is.
  const bool whole = block.num_columns == stored_columns && block.num_columns == dst.row_stride();
  const int64_t run_rows = whole ? block.num_rows : 1;
  for (int64_t row = 0; row < block.num_rows; row += run_rows) {
    const int64_t from = (block.row_begin + row) * stored_columns + block.column_begin;
    const Tensor to = dst.Rows(row, run_rows);
    RETURN_IF_ERROR(ReadRun(*entry, from, run_rows * block.num_columns, to));
  }
  return absl::OkStatus();
}

absl::Status TensorReader::ReadRun(const Checkpoint::Entry& entry, int64_t from, int64_t count,
                                   const Tensor& dst) {
  const Conversion conversion = ConversionOf(entry.info->dtype, dst.dtype());
  const int64_t stored_bytes = conversion.stored_bytes;
  CHECK_GT(stored_bytes, 0);
  if (conversion.convert == nullptr) {
    return entry.file->ReadBytes(*entry.info, from * stored_bytes, count * stored_bytes, dst.raw());
  }
  auto* to = static_cast<uint8_t*>(dst.raw());
  while (count > 0) {
    const int64_t chunk = std::min(count, kStagingBytes / stored_bytes);
    RETURN_IF_ERROR(entry.file->ReadBytes(*entry.info, from * stored_bytes, chunk * stored_bytes,
                                          staging_.data()));
    conversion.convert(staging_.data(), chunk, to);
    from += chunk;
    to += chunk * SizeOf(dst.dtype());
    count -= chunk;
  }
  return absl::OkStatus();
}

}  // namespace polystrate
