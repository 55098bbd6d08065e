// What a rank holds and reads while it loads: its share plus, at any moment, less than one tensor.
// Measured from outside, as the kernel counts it, in a process of its own for each measurement.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "engine/weights.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // shadow memory makes resident sizes meaningless
#else
constexpr bool kSanitized = false;
#endif

constexpr int64_t kMiB = 1 << 20;

// The number after "key:" in a file of /proc.
int64_t ProcNumber(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    int64_t number = 0;
    if (word == key + ":" && in >> number) return number;
  }
  return -1;
}

struct Usage {
  int64_t share_bytes = -1;  // StageWeights::num_bytes
  int64_t peak_bytes = 0;    // growth of the resident set, at its largest
  int64_t read_bytes = 0;    // through read and pread
};

Usage Measure(const std::string& dir, const Topology& topology, DType dtype) {
  const auto config = ReadModelConfig(dir);
  Stage stage;
  stage.end_layer = config->num_layers;
  const int64_t resident = ProcNumber("/proc/self/status", "VmRSS") * 1024;
  const int64_t read = ProcNumber("/proc/self/io", "rchar");
  const auto weights = LoadStageWeights(dir, *config, topology, stage, dtype, Device{});
  if (!weights.ok()) return {};
  return {weights->num_bytes(), ProcNumber("/proc/self/status", "VmHWM") * 1024 - resident,
          ProcNumber("/proc/self/io", "rchar") - read};
}

// Measure in a child, whose peak starts at what it has when it is forked.
Usage MeasureInChild(const std::string& dir, const Topology& topology, DType dtype) {
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const Usage usage = Measure(dir, topology, dtype);
    _exit(write(ends[1], &usage, sizeof(usage)) == sizeof(usage) ? 0 : 1);
  }
  close(ends[1]);
  Usage usage;
  CHECK_EQ(read(ends[0], &usage, sizeof(usage)), static_cast<ssize_t>(sizeof(usage)));
  close(ends[0]);
  CHECK_EQ(waitpid(child, nullptr, 0), child);
  return usage;
}

// 214 MB in float32, of which the two vocabularies have 66 MB each.
TinyModelSpec LargeSpec() {
  TinyModelSpec spec;
  spec.vocab_size = 16000;
  spec.hidden_size = 1024;
  spec.num_layers = 2;
  spec.num_heads = 16;
  spec.num_kv_heads = 4;
  spec.num_kv_layers = 1;
  spec.intermediate_size = 4096;
  spec.dead_kv = TinyModelSpec::DeadTensors::kNan;
  return spec;
}

TEST(WeightsMemoryTest, ARankHoldsItsShareAndReadsNoMore) {
  const TempDir dir;
  WriteTinyModel(dir.path(), LargeSpec());
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const Usage usage = MeasureInChild(dir.path(), Topology({4, 1}, 3), dtype);
    std::printf("%s: share %.1f MiB, peak %.1f MiB, read %.1f MiB\n", Name(dtype),
                static_cast<double>(usage.share_bytes) / kMiB,
                static_cast<double>(usage.peak_bytes) / kMiB,
                static_cast<double>(usage.read_bytes) / kMiB);
    const int64_t stored_share = usage.share_bytes * (dtype == DType::kFloat32 ? 1 : 2);
    EXPECT_GT(usage.share_bytes, 20 * kMiB);
    // Headers and biases apart, a rank reads the bytes of its share and none besides: not the rest
    // of its tensors, not the 8 MiB of the reuser's dead ones.
    EXPECT_LT(usage.read_bytes, stored_share + kMiB / 4);
    if (kSanitized) continue;
    // Far less than the promised share plus the largest tensor, 62 MiB: one staging buffer, and
    // what huge pages round up to.
    EXPECT_LT(usage.peak_bytes, usage.share_bytes + 8 * kMiB);
  }
}

}  // namespace
}  // namespace polystrate
