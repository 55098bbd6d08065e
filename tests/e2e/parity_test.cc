// The equality matrix through real mpirun: one model, (tp, pp) in {1, 2, 3, 4} x {1, 2, 4}, both
// dtypes; and over NCCL, on emulated GPUs.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "absl/strings/str_split.h"
#include "engine/json.h"
#include "tests/testing/emulated.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

struct Line {
  std::vector<int64_t> token_ids;
  std::vector<double> logprobs;  // the first of a scored line is NaN
};

std::vector<Line> ParseLines(const std::string& text) {
  std::vector<Line> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const auto json = Json::Parse(std::string(line), "output");
    if (!json.ok()) return {};
    Line parsed;
    for (const JsonView& id : json->root().GetArray("token_ids")->Elements()) {
      parsed.token_ids.push_back(id.AsInt("id").value());
    }
    for (const JsonView& logprob : json->root().GetArray("logprobs")->Elements()) {
      parsed.logprobs.push_back(logprob.IsNull() ? NAN : logprob.AsDouble("logprob").value());
    }
    lines.push_back(parsed);
  }
  return lines;
}

// Twelve heads, so that 2, 3 and 4 divide them; two KV heads, so that 3 and 4 need copies; four
// groups, so that four stages can be cut; an intermediate size that nothing divides.
TinyModelSpec Spec() {
  TinyModelSpec spec;
  spec.num_heads = 12;
  spec.hidden_size = 96;
  spec.num_layers = 8;
  spec.num_kv_heads = 2;
  spec.num_kv_layers = 4;
  spec.intermediate_size = 93;
  spec.rotary_pct = 0.5;
  spec.reuse_keys = "post_rope";
  return spec;
}

TinyModelSpec QwenSpec() {
  TinyModelSpec spec = Spec();
  spec.model_type = "qwen3";
  spec.explicit_head_dim = 14;
  spec.separate_kv_norm = true;
  return spec;
}

class MpirunParity : public ::testing::TestWithParam<std::tuple<int, int>> {
 protected:
  explicit MpirunParity(const TinyModelSpec& spec = Spec()) {
    WriteTinyModel(dir_.path(), spec);
    std::ofstream many(Path("many.jsonl")), one(Path("one.jsonl"));
    for (int64_t length : {1, 11, 40}) {
      std::string ids;
      for (int32_t id : RandomTokens(length, 96, length)) {
        ids += (ids.empty() ? "" : ",") + std::to_string(id);
      }
      many << "{\"token_ids\":[" << ids << "]}\n";
      if (length == 40) one << "{\"token_ids\":[" << ids << "]}\n";
    }
  }
  std::string Path(const std::string& name) const { return dir_.path() + "/" + name; }

  std::string Run(int tp, int pp, const CommandLine& arguments) const {
    CommandLine command = Polystrate(arguments);
    for (const std::string& word : {std::string("--model"), dir_.path(), std::string("--tp"),
                                    std::to_string(tp), std::string("--pp"), std::to_string(pp)}) {
      command.push_back(word);
    }
    const CommandResult result =
        RunCommand(tp * pp == 1 ? command : Mpirun(tp * pp, command), absl::Seconds(120));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }
  std::string Generate(int tp, int pp, const std::string& dtype) const {
    return Run(tp, pp,
               {"generate", "--prompts", Path("many.jsonl"), "--max_tokens", "10", "--temperature",
                "0", "--ignore_eos", "--json", "--dtype", dtype});
  }
  std::string Score(int tp, int pp, const std::string& file, const std::string& dtype) const {
    return Run(tp, pp, {"score", "--input", Path(file), "--dtype", dtype});
  }
  static void ExpectNear(const std::string& got, const std::string& expected, double tolerance) {
    const std::vector<Line> a = ParseLines(got), b = ParseLines(expected);
    ASSERT_EQ(a.size(), b.size());
    ASSERT_FALSE(a.empty());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].token_ids, b[i].token_ids) << i;
      ASSERT_EQ(a[i].logprobs.size(), b[i].logprobs.size());
      for (size_t t = 0; t < b[i].logprobs.size(); ++t) {
        if (std::isnan(b[i].logprobs[t])) continue;
        EXPECT_NEAR(a[i].logprobs[t], b[i].logprobs[t], tolerance) << i << ", " << t;
      }
    }
  }

  TempDir dir_;
};

// float32: sums in another order, a few roundings of 6e-8 of logits of size ten.
constexpr double kFloat32 = 1e-4;
// bfloat16: an all-reduce adds parts that were rounded apart, each to 2^-9 of its size.
constexpr double kBFloat16 = 0.15;

TEST_P(MpirunParity, Float32TokensAndScoresDoNotDependOnTheCut) {
  const auto [tp, pp] = GetParam();
  ExpectNear(Generate(tp, pp, "float32"), Generate(1, 1, "float32"), kFloat32);
  ExpectNear(Score(tp, pp, "many.jsonl", "float32"), Score(1, 1, "many.jsonl", "float32"),
             kFloat32);
}

TEST_P(MpirunParity, BFloat16ScoresStayWithinTheirBound) {
  const auto [tp, pp] = GetParam();
  ExpectNear(Score(tp, pp, "many.jsonl", "bfloat16"), Score(1, 1, "many.jsonl", "bfloat16"),
             kBFloat16);
}

// One prompt is one step plan whatever pp is: not a bit may differ.
TEST_P(MpirunParity, StagesChangeNoBit) {
  const auto [tp, pp] = GetParam();
  for (const char* dtype : {"float32", "bfloat16"}) {
    EXPECT_EQ(Score(tp, pp, "one.jsonl", dtype), Score(tp, 1, "one.jsonl", dtype)) << dtype;
  }
}

class MpirunQwenParity : public MpirunParity {
 protected:
  MpirunQwenParity() : MpirunParity(QwenSpec()) {}
};

TEST_P(MpirunQwenParity, TokensAndScoresDoNotDependOnTheCut) {
  const auto [tp, pp] = GetParam();
  ExpectNear(Generate(tp, pp, "float32"), Generate(1, 1, "float32"), kFloat32);
  ExpectNear(Score(tp, pp, "many.jsonl", "float32"), Score(1, 1, "many.jsonl", "float32"),
             kFloat32);
  EXPECT_EQ(Score(tp, pp, "one.jsonl", "bfloat16"), Score(tp, 1, "one.jsonl", "bfloat16"));
}

INSTANTIATE_TEST_SUITE_P(Cuts, MpirunQwenParity,
                         ::testing::Values(std::tuple(4, 1), std::tuple(2, 2), std::tuple(1, 4)));

class NcclParity : public MpirunParity {
 protected:
  void SetUp() override {
    if (!EmulatorIsBuilt()) GTEST_SKIP() << "not built";
  }
  // Each rank with a GPU of its own.
  std::string RunOverNccl(int tp, int pp, const CommandLine& arguments) const {
    CommandLine command = arguments;
    for (const std::string& word :
         {std::string("--model"), dir_.path(), std::string("--tp"), std::to_string(tp),
          std::string("--pp"), std::to_string(pp), std::string("--device"), std::string("cuda"),
          std::string("--comm"), std::string("nccl"), std::string("--kv_memory"),
          std::string("4194304"), std::string("--threads"), std::string("1")}) {
      command.push_back(word);
    }
    const CommandResult result =
        RunCommand(Mpirun(tp * pp, OnEmulatedGpus(tp * pp, "polystrate_emulated", command)),
                   absl::Seconds(120));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }
};

TEST_P(NcclParity, TokensAndScoresAreThoseOfOneRankOnTheCpu) {
  const auto [tp, pp] = GetParam();
  const CommandLine generate = {"generate",
                                "--prompts",
                                Path("many.jsonl"),
                                "--max_tokens",
                                "6",
                                "--temperature",
                                "0",
                                "--ignore_eos",
                                "--json",
                                "--max_num_batched_tokens",
                                "32",
                                "--dtype",
                                "float32"};
  ExpectNear(RunOverNccl(tp, pp, generate), Run(1, 1, generate), kFloat32);
  const CommandLine score = {"score", "--input", Path("many.jsonl"), "--dtype", "float32"};
  ExpectNear(RunOverNccl(tp, pp, score), Run(1, 1, score), kFloat32);
}

INSTANTIATE_TEST_SUITE_P(Cuts, NcclParity,
                         ::testing::Values(std::tuple(2, 1), std::tuple(1, 2), std::tuple(2, 2),
                                           std::tuple(1, 4)));

using MpirunPrefillSkip = MpirunParity;

// In chunks, so that stages see steps of which they want no row.
TEST_P(MpirunPrefillSkip, ChangesNothing) {
  const auto [tp, pp] = GetParam();
  const auto generate = [this](int tp_size, int pp_size, const std::string& skip) {
    return Run(tp_size, pp_size,
               {"generate", "--prompts", Path("many.jsonl"), "--max_tokens", "10", "--temperature",
                "0", "--ignore_eos", "--json", "--dtype", "float32", "--max_num_batched_tokens",
                "16", "--prefill_skip=" + skip});
  };
  const std::string on = generate(tp, pp, "true");
  ExpectNear(on, generate(tp, pp, "false"), kFloat32);
  ExpectNear(on, generate(1, 1, "false"), kFloat32);
}

INSTANTIATE_TEST_SUITE_P(Cut, MpirunPrefillSkip, ::testing::Values(std::tuple(2, 2)));

INSTANTIATE_TEST_SUITE_P(Cuts, MpirunParity,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4),
                                            ::testing::Values(1, 2, 4)),
                         [](const auto& test) {
                           return "tp" + std::to_string(std::get<0>(test.param)) + "_pp" +
                                  std::to_string(std::get<1>(test.param));
                         });

}  // namespace
}  // namespace polystrate
