#include "tests/testing/reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>

namespace polystrate::testing {
namespace {

constexpr int64_t kMargin = 64;             // elements before and after the tensor
constexpr uint32_t kNanBits = 0xffffffffu;  // NaN in every type
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

double Activate(double x, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGelu:
      return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
    case Activation::kGeluTanh:
      return 0.5 * x *
             (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
  }
  return x;
}

}  // namespace

uint64_t Random::Next() {
  uint64_t z = state_ += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

double Random::Normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * Uniform());
}

// Storage has one 32-bit word per element whatever the type: room enough, and aligned.
HostTensor::HostTensor(DType dtype, std::initializer_list<int64_t> dims, int64_t row_stride)
    : dtype_(dtype),
      rows_(*dims.begin()),
      columns_(std::accumulate(dims.begin() + 1, dims.end(), int64_t{1}, std::multiplies<>())),
      row_stride_(row_stride == 0 ? columns_ : row_stride),
      storage_(rows_ * row_stride_ + 2 * kMargin, kNanBits) {
  CHECK_GE(row_stride_, columns_);
  char* data = reinterpret_cast<char*>(storage_.data()) + kMargin * SizeOf(dtype);
  tensor_ = Tensor(data, dtype, Device{}, dims);
  if (row_stride_ != columns_) {  // a strided tensor is some columns of a wider one
    tensor_ = Tensor(data, dtype, Device{}, {rows_, row_stride_}).Columns(0, columns_);
  }
}

int64_t HostTensor::Index(int64_t row, int64_t column) const {
  return kMargin + row * row_stride_ + column;
}

double HostTensor::At(int64_t index) const {
  if (dtype_ == DType::kFloat32) return std::bit_cast<float>(storage_[index]);
  uint16_t bits;
  std::memcpy(&bits, reinterpret_cast<const char*>(storage_.data()) + 2 * index, 2);
  return dtype_ == DType::kFloat16 ? Float16{bits}.ToFloat() : BFloat16{bits}.ToFloat();
}

double HostTensor::Get(int64_t row, int64_t column) const { return At(Index(row, column)); }

void HostTensor::Set(int64_t row, int64_t column, double value) {
  const int64_t index = Index(row, column);
  const float rounded = static_cast<float>(value);
  if (dtype_ == DType::kFloat32) {
    storage_[index] = std::bit_cast<uint32_t>(rounded);
  } else {
    const uint16_t bits = dtype_ == DType::kFloat16 ? Float16::FromFloat(rounded).bits
                                                    : BFloat16::FromFloat(rounded).bits;
    std::memcpy(reinterpret_cast<char*>(storage_.data()) + 2 * index, &bits, 2);
  }
}

HostTensor HostTensor::FillNormal(Random& random, double scale) && {
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t c = 0; c < columns_; ++c) Set(r, c, scale * random.Normal());
  }
  return std::move(*this);
}

HostTensor HostTensor::FillZero() && {
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t c = 0; c < columns_; ++c) Set(r, c, 0.0);
  }
  return std::move(*this);
}

void HostTensor::FillNan() { std::fill_n(storage_.data(), storage_.size(), kNanBits); }

std::vector<double> HostTensor::Values() const {
  std::vector<double> values;
  values.reserve(rows_ * columns_);
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t c = 0; c < columns_; ++c) values.push_back(Get(r, c));
  }
  return values;
}

bool HostTensor::MarginIntact() const {
  const int64_t size = rows_ * row_stride_ + 2 * kMargin;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t at = i - kMargin;
    const bool inside =
        at >= 0 && at < rows_ * row_stride_ && row_stride_ > 0 && at % row_stride_ < columns_;
    if (!inside && !std::isnan(At(i))) return false;
  }
  return true;
}

HostInts::HostInts(std::vector<int32_t> values) : values_(std::move(values)), storage_(values_) {
  tensor_ =
      Tensor(storage_.data(), DType::kInt32, Device{}, {static_cast<int64_t>(values_.size())});
}

HostInts::HostInts(std::vector<int32_t> values, int64_t rows) : HostInts(std::move(values)) {
  const int64_t columns = rows == 0 ? 0 : static_cast<int64_t>(values_.size()) / rows;
  tensor_ = Tensor(storage_.data(), DType::kInt32, Device{}, {rows, columns});
}

Error Measure(const std::vector<double>& expected, const std::vector<double>& actual) {
  CHECK_EQ(expected.size(), actual.size());
  Error error;
  double squares = 0.0, total = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(expected[i] - actual[i]);
    if (std::isnan(difference)) return {kNan, kNan};
    error.max_abs = std::max(error.max_abs, difference);
    squares += difference * difference;
    total += expected[i] * expected[i];
  }
  error.nmse = total > 0.0 ? squares / total : squares;
  return error;
}

Tolerance ToleranceFor(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return {2e-5, 1e-11};
    case DType::kFloat16:
      return {5e-3, 2.5e-7};
    default:
      return {4e-2, 1.6e-5};
  }
}

std::vector<double> GemmReference(const HostTensor& x, const HostTensor& weight,
                                  const HostTensor* bias, Activation activation) {
  const int64_t m = x.rows(), n = weight.rows(), k = x.columns();
  const std::vector<double> a = x.Values(), b = weight.Values();
  std::vector<double> out;
  out.reserve(m * n);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias == nullptr ? 0.0 : bias->Get(j, 0);
      for (int64_t l = 0; l < k; ++l) sum += a[i * k + l] * b[j * k + l];
      out.push_back(Activate(sum, activation));
    }
  }
  return out;
}

std::vector<double> LayerNormReference(const HostTensor& x, const HostTensor& weight,
                                       const HostTensor& bias, double epsilon) {
  std::vector<double> out;
  const double n = static_cast<double>(x.columns());
  for (int64_t r = 0; r < x.rows(); ++r) {
    double mean = 0.0, variance = 0.0;
    for (int64_t c = 0; c < x.columns(); ++c) mean += x.Get(r, c) / n;
    for (int64_t c = 0; c < x.columns(); ++c) {
      variance += (x.Get(r, c) - mean) * (x.Get(r, c) - mean) / n;
    }
    for (int64_t c = 0; c < x.columns(); ++c) {
      out.push_back((x.Get(r, c) - mean) / std::sqrt(variance + epsilon) * weight.Get(c, 0) +
                    bias.Get(c, 0));
    }
  }
  return out;
}

std::vector<double> RmsNormReference(const HostTensor& x, const HostTensor& weight,
                                     double epsilon) {
  std::vector<double> out;
  const int64_t n = weight.rows();
  for (int64_t r = 0; r < x.rows(); ++r) {
    for (int64_t begin = 0; begin < x.columns(); begin += n) {
      double mean = 0.0;
      for (int64_t c = 0; c < n; ++c) {
        mean += x.Get(r, begin + c) * x.Get(r, begin + c) / static_cast<double>(n);
      }
      for (int64_t c = 0; c < n; ++c) {
        out.push_back(x.Get(r, begin + c) / std::sqrt(mean + epsilon) * weight.Get(c, 0));
      }
    }
  }
  return out;
}

std::vector<double> GatedActivationReference(const HostTensor& gate_up, Activation activation) {
  std::vector<double> out;
  const int64_t n = gate_up.columns() / 2;
  for (int64_t r = 0; r < gate_up.rows(); ++r) {
    for (int64_t c = 0; c < n; ++c) {
      out.push_back(Activate(gate_up.Get(r, c), activation) * gate_up.Get(r, n + c));
    }
  }
  return out;
}

void RotateReference(double base, int rotary_dim, int64_t position, double* head) {
  const int half = rotary_dim / 2;
  for (int j = 0; j < half; ++j) {
    const double angle = static_cast<double>(position) * std::pow(base, -2.0 * j / rotary_dim);
    const double a = head[j], b = head[half + j];
    head[j] = a * std::cos(angle) - b * std::sin(angle);
    head[half + j] = b * std::cos(angle) + a * std::sin(angle);
  }
}

std::vector<double> AttentionRowReference(const std::vector<double>& query,
                                          const std::vector<double>& keys,
                                          const std::vector<double>& values, int64_t num_keys,
                                          double scale) {
  const size_t head_dim = query.size();
  std::vector<double> scores(num_keys, 0.0), out(head_dim, 0.0);
  for (int64_t j = 0; j < num_keys; ++j) {
    for (size_t d = 0; d < head_dim; ++d) scores[j] += scale * query[d] * keys[j * head_dim + d];
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0.0;
  for (int64_t j = 0; j < num_keys; ++j) {
    const double weight = std::exp(scores[j] - max);
    sum += weight;
    for (size_t d = 0; d < head_dim; ++d) out[d] += weight * values[j * head_dim + d];
  }
  for (double& value : out) value /= sum;
  return out;
}

}  // namespace polystrate::testing
