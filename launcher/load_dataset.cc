#include "launcher/load_dataset.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "launcher/bench_command.h"
#include "launcher/jsonl.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxLength = int64_t{1} << 24;
constexpr int64_t kMaxTokens = int64_t{1} << 30;  // of all prompts together: 4 GiB

struct Range {
  int64_t low;
  int64_t high;
};

Range Around(int64_t length, double ratio) {
  const auto exact = static_cast<double>(length);
  return {std::max<int64_t>(1, static_cast<int64_t>(std::floor(exact * (1.0 - ratio)))),
          static_cast<int64_t>(std::ceil(exact * (1.0 + ratio)))};
}

// Draws of its own, because the standard's distributions differ between libraries.
class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}
  // [low, high]; biased by less than 2^-32 for the spans that occur here.
  int64_t In(Range range) {
    const auto span = static_cast<uint64_t>(range.high - range.low) + 1;
    return range.low + static_cast<int64_t>(bits_() % span);
  }
  void Ids(int64_t n, int64_t vocab_size, std::vector<uint32_t>* ids) {
    for (int64_t i = 0; i < n; ++i) ids->push_back(static_cast<uint32_t>(In({0, vocab_size - 1})));
  }

 private:
  std::mt19937_64 bits_;
};

absl::Status CheckTotal(int64_t n, int64_t length) {
  if (length <= kMaxTokens / n) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(n, " prompts of up to ", length,
                                                 " tokens are more than ", kMaxTokens,
                                                 " tokens in all; ask for fewer or shorter ones"));
}

absl::StatusOr<std::vector<LoadPrompt>> RandomPrompts(const DatasetFlags& flags, int64_t n,
                                                      uint64_t seed, int64_t vocab_size) {
  const Range input = Around(flags.random_input_len, flags.random_range_ratio);
  const Range output = Around(flags.random_output_len, flags.random_range_ratio);
  RETURN_IF_ERROR(CheckTotal(n, input.high));
  Random random(seed);
  std::vector<LoadPrompt> prompts(static_cast<size_t>(n));
  for (LoadPrompt& prompt : prompts) {
    const int64_t length = random.In(input);
    prompt.max_tokens = random.In(output);
    random.Ids(length, vocab_size, &prompt.token_ids);
  }
  return prompts;
}

absl::StatusOr<std::vector<LoadPrompt>> SharedPrefixPrompts(const DatasetFlags& flags, int64_t n,
                                                            uint64_t seed, int64_t vocab_size) {
  RETURN_IF_ERROR(CheckTotal(n, flags.prefix_len + flags.suffix_len));
  RETURN_IF_ERROR(CheckTotal(flags.num_prefixes, flags.prefix_len));
  Random random(seed);
  std::vector<std::vector<uint32_t>> prefixes(static_cast<size_t>(flags.num_prefixes));
  for (auto& prefix : prefixes) random.Ids(flags.prefix_len, vocab_size, &prefix);
  std::vector<LoadPrompt> prompts(static_cast<size_t>(n));
  for (size_t i = 0; i < prompts.size(); ++i) {
    prompts[i].token_ids = prefixes[i % prefixes.size()];
    random.Ids(flags.suffix_len, vocab_size, &prompts[i].token_ids);
    prompts[i].max_tokens = flags.prefix_output_len;
  }
  return prompts;
}

absl::Status ReadIds(const JsonView& line, const char* key, std::vector<uint32_t>* ids) {
  ASSIGN_OR_RETURN(const JsonView array, line.GetArray(key));
  for (const JsonView& element : array.Elements()) {
    ASSIGN_OR_RETURN(const int64_t id, element.AsInt(key));
    if (id < 0 || id > INT32_MAX) return element.Unexpected(key, "a token id");
    ids->push_back(static_cast<uint32_t>(id));
  }
  return absl::OkStatus();
}

absl::StatusOr<LoadPrompt> ReadLine(const JsonView& line, int64_t max_tokens) {
  LoadPrompt prompt;
  int given = 0;
  if (line.IsObject()) {
    for (const char* key : {"token_ids", "prompt_ids"}) {
      if (!line.Has(key)) continue;
      ++given;
      RETURN_IF_ERROR(ReadIds(line, key, &prompt.token_ids));
    }
    for (const char* key : {"text", "prompt"}) {
      if (!line.Has(key)) continue;
      ++given;
      ASSIGN_OR_RETURN(prompt.text, line.GetString(key));
    }
  }
  if (given != 1 || (prompt.text.empty() && prompt.token_ids.empty())) {
    return absl::InvalidArgumentError(
        R"(expected one prompt that is not empty: {"prompt": TEXT}, {"text": TEXT}, )"
        R"({"prompt_ids": [..]} or {"token_ids": [..]})");
  }
  ASSIGN_OR_RETURN(prompt.max_tokens, line.GetIntOr("max_tokens", max_tokens));
  if (prompt.max_tokens < 1 || prompt.max_tokens > kMaxLength) {
    return absl::InvalidArgumentError(absl::StrCat("\"max_tokens\" is ", prompt.max_tokens,
                                                   "; it must be in [1, ", kMaxLength, "]"));
  }
  return prompt;
}

absl::StatusOr<std::vector<LoadPrompt>> FilePrompts(const DatasetFlags& flags, int64_t n) {
  std::vector<LoadPrompt> prompts;
  RETURN_IF_ERROR(ForEachJsonLine(flags.path, [&](const JsonView& line, const std::string&) {
    ASSIGN_OR_RETURN(LoadPrompt prompt, ReadLine(line, flags.custom_output_len));
    if (static_cast<int64_t>(prompts.size()) < n) prompts.push_back(std::move(prompt));
    return absl::OkStatus();
  }));
  if (prompts.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(flags.path, " has no prompts"));
  }
  const size_t lines = prompts.size();
  prompts.resize(static_cast<size_t>(n));
  for (size_t i = lines; i < prompts.size(); ++i) prompts[i] = prompts[i - lines];
  return prompts;
}

}  // namespace

void DatasetFlags::AddTo(FlagSet* flags) {
  flags->Add("dataset_name", &name,
             "random, prefix_repetition or custom (default: custom with --dataset_path, else "
             "random)");
  flags->Add("dataset_path", &path,
             "JSONL file of prompts: {\"prompt\": TEXT} or {\"token_ids\": [..]}, \"max_tokens\" "
             "if they like");
  flags->Add("random_input_len", &random_input_len, "random: tokens of a prompt");
  flags->Add("random_output_len", &random_output_len, "random: tokens to generate");
  flags->Add("random_range_ratio", &random_range_ratio,
             "random: lengths are uniform in [L (1 - r), L (1 + r)]");
  flags->Add("prefix_repetition_prefix_len", &prefix_len, "prefix_repetition: tokens of a prefix");
  flags->Add("prefix_repetition_suffix_len", &suffix_len,
             "prefix_repetition: tokens that follow it, new in each prompt");
  flags->Add("prefix_repetition_num_prefixes", &num_prefixes, "prefix_repetition: prefixes");
  flags->Add("prefix_repetition_output_len", &prefix_output_len,
             "prefix_repetition: tokens to generate");
  flags->Add("custom_output_len", &custom_output_len,
             "custom: tokens to generate where a line does not say");
}

absl::Status DatasetFlags::Check() {
  if (name.empty()) name = path.empty() ? "random" : "custom";
  if (name != "random" && name != "prefix_repetition" && name != "custom") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--dataset_name is \"", name, "\"; it takes random, prefix_repetition or custom"));
  }
  if (path.empty() == (name == "custom")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--dataset_path goes with --dataset_name custom; it is ",
                     path.empty() ? "missing" : "given", " and --dataset_name is ", name));
  }
  if (!(random_range_ratio >= 0.0 && random_range_ratio < 1.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--random_range_ratio is ", random_range_ratio, "; it must be in [0, 1)"));
  }
  RETURN_IF_ERROR(CheckBenchRange("random_input_len", random_input_len, 1, kMaxLength));
  RETURN_IF_ERROR(CheckBenchRange("random_output_len", random_output_len, 1, kMaxLength));
  RETURN_IF_ERROR(CheckBenchRange("prefix_repetition_prefix_len", prefix_len, 1, kMaxLength));
  RETURN_IF_ERROR(CheckBenchRange("prefix_repetition_suffix_len", suffix_len, 0, kMaxLength));
  RETURN_IF_ERROR(CheckBenchRange("prefix_repetition_num_prefixes", num_prefixes, 1, kMaxLength));
  RETURN_IF_ERROR(
      CheckBenchRange("prefix_repetition_output_len", prefix_output_len, 1, kMaxLength));
  return CheckBenchRange("custom_output_len", custom_output_len, 1, kMaxLength);
}

std::optional<int64_t> DatasetFlags::LongestSequence() const {
  if (name == "custom") return std::nullopt;
  if (name == "prefix_repetition") return prefix_len + suffix_len + prefix_output_len;
  return Around(random_input_len, random_range_ratio).high +
         Around(random_output_len, random_range_ratio).high;
}

absl::StatusOr<std::vector<LoadPrompt>> MakeDataset(const DatasetFlags& flags, int64_t n,
                                                    uint64_t seed, int64_t vocab_size) {
  if (flags.name == "custom") return FilePrompts(flags, n);
  CHECK_GE(vocab_size, 1);
  if (flags.name == "random") return RandomPrompts(flags, n, seed, vocab_size);
  return SharedPrefixPrompts(flags, n, seed, vocab_size);
}

}  // namespace polystrate
