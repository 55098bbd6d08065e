// The sampling flags of generate and client. A flag that is not given leaves the choice to the
// engine, as an absent field on the wire does.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "launcher/flags.h"

namespace polystrate {

struct SamplingFlags {
  int64_t max_tokens = 128;
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  std::optional<uint64_t> seed;
  bool ignore_eos = false;

  void AddTo(FlagSet* flags) {
    flags->Add("max_tokens", &max_tokens, "tokens to generate at most");
    flags->Add("temperature", &temperature, "0 is greedy (default: 1)");
    flags->Add("top_k", &top_k, "sample from the k most likely tokens (default: all)");
    flags->Add("top_p", &top_p, "sample from the most likely tokens that reach p (default: 1)");
    flags->Add("seed", &seed, "makes sampling repeatable (default: a new one each time)");
    flags->Add("ignore_eos", &ignore_eos, "do not stop at the end-of-sequence token");
  }
};

// --top_k as engine and wire have it, 32 bits; 0 when it is not given.
inline absl::StatusOr<int32_t> TopK(const SamplingFlags& flags) {
  const int64_t k = flags.top_k.value_or(0);
  if (k >= -1 && k <= std::numeric_limits<int32_t>::max()) return static_cast<int32_t>(k);
  return absl::InvalidArgumentError(absl::StrCat("--top_k is ", k,
                                                 "; it must be -1 or 0 (all tokens) or 1 to ",
                                                 std::numeric_limits<int32_t>::max()));
}

}  // namespace polystrate
