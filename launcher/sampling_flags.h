// The sampling flags of generate and client. A flag that is not given leaves the choice to the
// engine, as an absent field on the wire does.
#pragma once

#include <optional>

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

}  // namespace polystrate
