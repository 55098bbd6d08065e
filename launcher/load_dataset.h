// The prompts of a load: random token ids, random ids that share prefixes, or lines of a file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/flags.h"

namespace polystrate {

// One of text and token_ids.
struct LoadPrompt {
  std::string text;
  std::vector<uint32_t> token_ids;
  int64_t max_tokens = 0;
};

// Names and defaults are those of `vllm bench serve`.
struct DatasetFlags {
  std::string name;  // random, prefix_repetition, custom; empty: custom if there is a path
  std::string path;
  int64_t random_input_len = 1024;
  int64_t random_output_len = 128;
  double random_range_ratio = 0.0;
  int64_t prefix_len = 256;
  int64_t suffix_len = 256;
  int64_t num_prefixes = 10;
  int64_t prefix_output_len = 128;
  int64_t custom_output_len = 256;

  void AddTo(FlagSet* flags);
  // INVALID_ARGUMENT names the flag and its range; settles `name`.
  absl::Status Check();
  // Whether prompts are made from ids below the model's vocabulary size.
  bool random() const { return name != "custom"; }
  // Tokens of prompt and answer together at most; nothing when the file decides.
  std::optional<int64_t> LongestSequence() const;
};

// `n` prompts, the same for the same seed; the first are the same whatever n is.
//   random: input lengths uniform in [floor(L (1 - r)), ceil(L (1 + r))], at least 1, output
//   lengths
//     likewise, r = random_range_ratio; ids uniform in [0, vocab_size).
//   prefix_repetition: each of num_prefixes prefixes in turn, then a suffix of its own.
//   custom: the lines of `path` in order, over again when they are fewer than n: {"prompt": TEXT},
//     {"text": TEXT}, {"prompt_ids": [..]} or {"token_ids": [..]}, each with "max_tokens" if it
//     likes. Errors name file and line.
absl::StatusOr<std::vector<LoadPrompt>> MakeDataset(const DatasetFlags& flags, int64_t n,
                                                    uint64_t seed, int64_t vocab_size);

}  // namespace polystrate
