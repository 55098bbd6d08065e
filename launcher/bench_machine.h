// The machine that a bench runs on: the stream that its flags name, and what it does at best.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/json_writer.h"
#include "kernels/core/device.h"
#include "kernels/core/dtype.h"
#include "kernels/machine_limits.h"
#include "launcher/flags.h"

namespace polystrate {

struct MachineFlags {
  std::string device = "cpu";
  int64_t threads;  // of the CPU; by default all it has

  MachineFlags();
  void AddTo(FlagSet* flags);
  // INVALID_ARGUMENT for a device or a number that there is not; what Stream::Cuda says, for a GPU
  // that cannot be used.
  absl::StatusOr<Stream> Open() const;
};

struct MachineLimits {
  double read = 0;    // bytes per second
  double copy = 0;    // bytes per second, read and written; of GPUs alone
  double matrix = 0;  // operations per second, in the dtype

  // Seconds that so much takes at best.
  double SecondsFor(double bytes, double operations) const;
};

// Raises `limits` to what is measured now: the best of several times is what the machine can do.
// `sweep_bytes`: what is read through, more than caches hold; below kSweepBytes, a test's, the
// matrix product is small too.
void MeasureLimits(const Stream& stream, DType dtype, int64_t sweep_bytes, MachineLimits* limits);

// "2 threads; limits: read 30.1 GB/s, matrix product 2.100 TFLOP/s", with the copy of a GPU.
std::string DescribeMachine(const Stream& stream, const MachineLimits& limits);

// An object: gigabytes and teraoperations per second.
void WriteLimits(const MachineLimits& limits, JsonWriter* json);
// Keys of the object that is open: what took `time` needs, and its share of the limits.
void WriteSpeed(const Timing& time, double bytes, double operations, const MachineLimits& limits,
                JsonWriter* json);

}  // namespace polystrate
