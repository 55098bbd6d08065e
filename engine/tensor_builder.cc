#include "engine/tensor_builder.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"
#include "kernels/core/float16.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Large enough that system calls cost nothing beside the copy.
constexpr int64_t kPieceBytes = 1 << 20;

int64_t ElementBytes(const std::string& dtype) { return dtype == "F32" ? 4 : 2; }

int64_t Columns(const std::vector<int64_t>& shape) { return shape.size() == 2 ? shape[1] : 1; }

void Divide(std::vector<float>* values, size_t count) {
  for (float& value : *values) value /= static_cast<float>(count);
}

void RoundTo(const std::string& dtype, std::vector<float>* values) {
  if (dtype == "F32") return;
  for (float& value : *values) {
    value =
        dtype == "F16" ? Float16::FromFloat(value).ToFloat() : BFloat16::FromFloat(value).ToFloat();
  }
}

// Element i of `values` as one of `dtype`.
void Store(const std::string& dtype, const float* values, int64_t count, uint8_t* dst) {
  if (dtype == "F32") {
    std::memcpy(dst, values, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits =
        dtype == "F16" ? Float16::FromFloat(values[i]).bits : BFloat16::FromFloat(values[i]).bits;
    std::memcpy(dst + i * 2, &bits, sizeof(bits));
  }
}

}  // namespace

TensorBuilder::TensorBuilder(const Checkpoint& checkpoint, Pooling pooling)
    : checkpoint_(checkpoint), pooling_(pooling), reader_(checkpoint) {}

absl::Status TensorBuilder::Build(const OutputTensor& tensor, const Append& append) {
  if (tensor.blocks.empty()) return Copy(tensor, append);
  const int64_t row_bytes = Columns(tensor.shape) * ElementBytes(tensor.dtype);
  const int64_t piece_rows = std::max<int64_t>(1, kPieceBytes / row_bytes);
  for (int64_t first = 0; first < tensor.shape[0]; first += piece_rows) {
    const int64_t num_rows = std::min(piece_rows, tensor.shape[0] - first);
    bytes_.resize(static_cast<size_t>(num_rows * row_bytes));
    for (const OutputBlock& block : tensor.blocks)
      RETURN_IF_ERROR(BuildRows(tensor, block, first, num_rows));
    RETURN_IF_ERROR(append(bytes_.data(), num_rows * row_bytes));
  }
  return absl::OkStatus();
}

absl::Status TensorBuilder::Copy(const OutputTensor& tensor, const Append& append) {
  const int64_t num_bytes = tensor.num_bytes();
  for (int64_t from = 0; from < num_bytes; from += kPieceBytes) {
    const int64_t size = std::min(kPieceBytes, num_bytes - from);
    bytes_.resize(static_cast<size_t>(size));
    RETURN_IF_ERROR(tensor.stored.file->ReadBytes(*tensor.stored.info, from, size, bytes_.data()));
    RETURN_IF_ERROR(append(bytes_.data(), size));
  }
  return absl::OkStatus();
}

absl::Status TensorBuilder::BuildRows(const OutputTensor& tensor, const OutputBlock& block,
                                      int64_t first, int64_t num_rows) {
  const Block& place = block.block;
  const int64_t begin = std::max(first, place.row_begin);
  const int64_t end = std::min(first + num_rows, place.row_begin + place.num_rows);
  if (begin >= end) return absl::OkStatus();
  const int64_t columns = Columns(tensor.shape);
  const int64_t bytes = ElementBytes(tensor.dtype);
  uint8_t* dst = bytes_.data() + ((begin - first) * columns + place.column_begin) * bytes;
  const int64_t from = begin - place.row_begin;
  const int64_t to = end - place.row_begin;
  if (block.sources.size() == 1 && block.sources[0].size() == 1)
    return CopyRows(tensor, block, from, to, dst);
  CHECK_EQ(place.num_columns, columns);  // heads are whole rows
  RETURN_IF_ERROR(pooling_ == Pooling::kMean ? PoolMean(block, from, to)
                                             : PoolSequential(block, tensor.dtype, from, to));
  Store(tensor.dtype, pooled_.data(), (to - from) * columns, dst);
  return absl::OkStatus();
}

absl::Status TensorBuilder::CopyRows(const OutputTensor& tensor, const OutputBlock& block,
                                     int64_t begin, int64_t end, uint8_t* dst) {
  const StoredOrigin& origin = block.sources[0][0];
  const Checkpoint::Entry* entry = checkpoint_.Find(origin.tensor);
  CHECK(entry != nullptr && entry->info->dtype == tensor.dtype);
  const int64_t bytes = ElementBytes(tensor.dtype);
  const int64_t columns = Columns(tensor.shape);
  const int64_t stored_columns = Columns(entry->info->shape);
  // Whole rows follow one another on both sides.
  const bool whole = block.block.num_columns == columns && columns == stored_columns;
  const int64_t run_rows = whole ? end - begin : 1;
  for (int64_t row = begin; row < end; row += run_rows) {
    const int64_t from = (origin.row + row) * stored_columns + origin.column;
    RETURN_IF_ERROR(entry->file->ReadBytes(*entry->info, from * bytes,
                                           run_rows * block.block.num_columns * bytes,
                                           dst + (row - begin) * columns * bytes));
  }
  return absl::OkStatus();
}

absl::Status TensorBuilder::PoolSequential(const OutputBlock& block, const std::string& dtype,
                                           int64_t begin, int64_t end) {
  const auto size = static_cast<size_t>((end - begin) * block.block.num_columns);
  const size_t num_heads = block.sources[0].size();
  for (size_t layer = 0; layer < block.sources.size(); ++layer) {
    heads_.assign(size, 0.0f);
    for (const StoredOrigin& head : block.sources[layer])
      RETURN_IF_ERROR(AddTo(&heads_, head, block, begin, end));
    if (num_heads > 1) {
      Divide(&heads_, num_heads);
      RoundTo(dtype, &heads_);
    }
    if (layer == 0) {
      pooled_.swap(heads_);
      continue;
    }
    for (size_t i = 0; i < size; ++i) pooled_[i] = (heads_[i] + pooled_[i]) / 2;
    if (num_heads == 1) RoundTo(dtype, &pooled_);
  }
  return absl::OkStatus();
}

absl::Status TensorBuilder::PoolMean(const OutputBlock& block, int64_t begin, int64_t end) {
  pooled_.assign(static_cast<size_t>((end - begin) * block.block.num_columns), 0.0f);
  for (const auto& layer : block.sources) {
    for (const StoredOrigin& head : layer)
      RETURN_IF_ERROR(AddTo(&pooled_, head, block, begin, end));
  }
  Divide(&pooled_, block.sources.size() * block.sources[0].size());
  return absl::OkStatus();
}

absl::Status TensorBuilder::AddTo(std::vector<float>* sum, const StoredOrigin& origin,
                                  const OutputBlock& block, int64_t begin, int64_t end) {
  const int64_t columns = block.block.num_columns;
  one_.resize(sum->size());
  const Tensor one(one_.data(), DType::kFloat32, Device{}, {end - begin, columns});
  RETURN_IF_ERROR(
      reader_.Read(origin.tensor, {origin.row + begin, end - begin, origin.column, columns}, one));
  for (size_t i = 0; i < one_.size(); ++i) (*sum)[i] += one_[i];
  return absl::OkStatus();
}

}  // namespace polystrate
