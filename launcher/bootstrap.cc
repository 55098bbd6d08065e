#include "launcher/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace polystrate {
namespace {

constexpr int64_t kResamplesPerSeed = 1000;

// std::mt19937 but for its word: that of libstdc++ is 64 bits wide, at a third of the speed.
using Generator =
    std::mersenne_twister_engine<uint32_t, 32, 624, 397, 31, 0x9908b0dfu, 11, 0xffffffffu, 7,
                                 0x9d2c5680u, 15, 0xefc60000u, 18, 1812433253u>;

// A seed sequence that leaves the generator in the state of CPython's random.seed(number):
// init_by_array of Matsumoto and Nishimura's reference, with one word for a key.
class PythonSeed {
 public:
  using result_type = uint32_t;
  explicit PythonSeed(uint32_t number) : number_(number) {}

  template <typename Iterator>
  void generate(Iterator begin, Iterator end) const {
    const auto size = end - begin;  // the generator's 624 words
    begin[0] = 19650218u;
    for (auto i = 1; i < size; ++i) {
      begin[i] = Word(1812433253u * (begin[i - 1] ^ (begin[i - 1] >> 30)) + i);
    }
    auto i = 1;
    const auto step = [&](uint32_t factor, uint32_t sign, uint32_t addend) {
      begin[i] =
          Word((begin[i] ^ ((begin[i - 1] ^ (begin[i - 1] >> 30)) * factor)) + addend - sign * i);
      if (++i < size) return;
      begin[0] = begin[size - 1];
      i = 1;
    };
    for (auto left = size; left > 0; --left) step(1664525u, 0, number_);
    for (auto left = size - 1; left > 0; --left) step(1566083941u, 1, 0);
    begin[0] = 0x80000000u;
  }

 private:
  static uint32_t Word(uint64_t value) { return static_cast<uint32_t>(value); }
  const uint32_t number_;
};

// [0, 1) with 53 bits, from two words.
double Uniform(Generator& generator) {
  const uint32_t high = generator() >> 5;
  const uint32_t low = generator() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

}  // namespace

double Mean(absl::Span<const double> values) {
  double sum = 0.0;
  for (double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double StandardDeviation(absl::Span<const double> values) {
  const double mean = Mean(values);
  double sum = 0.0;
  for (double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double BootstrapStandardError(absl::Span<const double> values,
                              const std::function<double(double mean)>& statistic,
                              int64_t num_resamples) {
  const auto size = static_cast<double>(values.size());
  std::vector<double> statistics;
  statistics.reserve(num_resamples);
  for (uint32_t seed = 0; static_cast<int64_t>(statistics.size()) < num_resamples; ++seed) {
    PythonSeed sequence(seed);
    Generator generator(sequence);
    for (int64_t i = 0; i < kResamplesPerSeed; ++i) {
      double sum = 0.0;
      for (size_t j = 0; j < values.size(); ++j) {
        sum += values[static_cast<size_t>(Uniform(generator) * size)];
      }
      statistics.push_back(statistic(sum / size));
    }
  }
  return StandardDeviation(statistics);
}

}  // namespace polystrate
