#include "launcher/bench_machine.h"

#include <algorithm>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status.h"
#include "launcher/bench_command.h"

namespace polystrate {
namespace {

constexpr int64_t kQuickMatrix = 64;

}  // namespace

MachineFlags::MachineFlags() : threads(std::max(1u, std::thread::hardware_concurrency())) {}

void MachineFlags::AddTo(FlagSet* flags) {
  flags->Add("device", &device, "cpu or cuda, the first GPU that CUDA shows");
  flags->Add("threads", &threads, "threads of the CPU");
}

absl::StatusOr<Stream> MachineFlags::Open() const {
  RETURN_IF_ERROR(CheckBenchRange("threads", threads, 1, 1024));
  if (device == "cpu") return Stream::Cpu(static_cast<int>(threads));
  if (device == "cuda") return Stream::Cuda(0);
  return absl::InvalidArgumentError(
      absl::StrCat("--device is \"", device, "\"; it must be cpu or cuda"));
}

double MachineLimits::SecondsFor(double bytes, double operations) const {
  return std::max(bytes / read, operations / matrix);
}

void MeasureLimits(const Stream& stream, DType dtype, int64_t sweep_bytes, MachineLimits* limits) {
  if (stream.device().type == DeviceType::kCuda) {
    limits->read = std::max(limits->read, MeasureReadBandwidth(stream, sweep_bytes));
    limits->copy = std::max(limits->copy, MeasureCopyBandwidth(stream, sweep_bytes));
  } else {
    limits->read = std::max(limits->read, MeasureReadBandwidth(stream.num_threads(), sweep_bytes));
  }
  std::optional<int64_t> size;
  if (sweep_bytes < kSweepBytes) size = kQuickMatrix;
  limits->matrix = std::max(limits->matrix, MeasureMatrixRate(stream, dtype, size));
}

std::string DescribeMachine(const Stream& stream, const MachineLimits& limits) {
  const bool gpu = stream.device().type == DeviceType::kCuda;
  std::string text = gpu ? "one GPU" : absl::StrCat(stream.num_threads(), " threads");
  absl::StrAppendFormat(&text, "; limits: read %.1f GB/s, ", limits.read / kGiga);
  if (gpu) absl::StrAppendFormat(&text, "copy %.1f GB/s, ", limits.copy / kGiga);
  absl::StrAppendFormat(&text, "matrix product %.3f TFLOP/s", limits.matrix / kTera);
  return text;
}

void WriteLimits(const MachineLimits& limits, JsonWriter* json) {
  json->BeginObject().Key("read_gb_per_s").Double(limits.read / kGiga);
  if (limits.copy > 0) json->Key("copy_gb_per_s").Double(limits.copy / kGiga);
  json->Key("matrix_tflop_per_s").Double(limits.matrix / kTera).EndObject();
}

void WriteSpeed(const Timing& time, double bytes, double operations, const MachineLimits& limits,
                JsonWriter* json) {
  json->Key("bytes").Double(bytes).Key("operations").Double(operations);
  json->Key("predicted_ms").Double(limits.SecondsFor(bytes, operations) * 1e3);
  json->Key("median_ms").Double(time.median * 1e3);
  json->Key("p10_ms").Double(time.fastest * 1e3).Key("p90_ms").Double(time.slowest * 1e3);
  json->Key("read_share").Double(bytes / time.median / limits.read);
  if (limits.copy > 0) json->Key("copy_share").Double(bytes / time.median / limits.copy);
  json->Key("matrix_share").Double(operations / time.median / limits.matrix);
}

}  // namespace polystrate
