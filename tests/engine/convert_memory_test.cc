// What a conversion holds does not depend on how many layers a model has or how large they are.
// Measured from outside, as the kernel counts it, in a process of its own for each measurement.

#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "engine/convert.h"
#include "kernels/core/check.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int64_t kMiB = 1 << 20;

// The number after "key:" in /proc/self/status, in bytes.
int64_t StatusBytes(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string word; in >> word;) {
    int64_t kibibytes = 0;
    if (word == key + ":" && in >> kibibytes) return kibibytes * 1024;
  }
  return -1;
}

// Growth of the resident set, at its largest, of a child that converts.
int64_t PeakBytes(const Conversion& conversion) {
  malloc_trim(0);  // or the child would use what making the model has left, unseen
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const int64_t resident = StatusBytes("VmRSS");
    const bool ok = Convert(conversion, [](double) { return absl::OkStatus(); }).ok();
    const int64_t peak = ok ? StatusBytes("VmHWM") - resident : -1;
    _exit(write(ends[1], &peak, sizeof(peak)) == sizeof(peak) ? 0 : 1);
  }
  close(ends[1]);
  int64_t peak = -1;
  CHECK_EQ(read(ends[0], &peak, sizeof(peak)), static_cast<ssize_t>(sizeof(peak)));
  close(ends[0]);
  CHECK_EQ(waitpid(child, nullptr, 0), child);
  return peak;
}

int64_t PeakOf(int num_layers, int64_t hidden_size) {
  const TempDir dir;
  TinyModelSpec spec;
  spec.num_layers = num_layers;
  spec.hidden_size = hidden_size;
  spec.intermediate_size = 4 * hidden_size;
  spec.num_heads = 8;
  spec.fused_qkv = true;
  spec.dtype = "BF16";
  const std::string model = dir.File("model");
  std::filesystem::create_directory(model);
  WriteTinyModel(model, spec);
  Conversion conversion = {model, dir.File("output")};
  conversion.options.sharing = KvSharing::Mlkv(num_layers, 1).value();
  conversion.options.num_kv_heads = 2;
  conversion.options.grow_mlp = true;
  const int64_t peak = PeakBytes(conversion);
  std::printf("%d layers of %lld: peak %.1f MiB\n", num_layers, static_cast<long long>(hidden_size),
              static_cast<double>(peak) / kMiB);
  return peak;
}

TEST(ConvertMemoryTest, DoesNotGrowWithTheModel) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "shadow memory makes resident sizes meaningless";
#endif
  const int64_t few = PeakOf(2, 512);    // 13 MB
  const int64_t many = PeakOf(16, 512);  // 101 MB
  const int64_t wide = PeakOf(2, 1024);  // 50 MB; matrices of 8 MB
  EXPECT_GT(few, 0);
  EXPECT_LT(few, 16 * kMiB);
  EXPECT_LT(many, few + 2 * kMiB);
  EXPECT_LT(wide, few + 2 * kMiB);
}

}  // namespace
}  // namespace polystrate
