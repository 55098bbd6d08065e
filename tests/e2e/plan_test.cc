// `polystrate plan` as a user runs it: output, messages, exit codes.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "engine/json.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

// MLKV-12 of the paper: 4 of 12 layers own, 3 KV heads. It says nothing of weights or a tokenizer.
constexpr char kMlkv12[] = R"({
  "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 50304,
  "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
  "num_key_value_heads": 3, "num_key_value_layers": 4, "intermediate_size": 3777,
  "hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 10000,
  "max_position_embeddings": 2048, "layer_norm_eps": 1e-05, "use_parallel_residual": true,
  "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16",
  "reuse_keys": "pre_rope"})";

struct Outcome {
  int exit_code = -1;
  std::string output;
};

class PlanTest : public testing::Test {
 protected:
  PlanTest() { WriteFile(dir_.File("config.json"), kMlkv12); }

  // Standard output and error together; a command that succeeds has nothing to say on the latter.
  Outcome Plan(const std::string& flags) const {
    const std::string command =
        BuiltProgram("polystrate") + " plan --model " + dir_.path() + " " + flags + " 2>&1";
    Outcome outcome;
    std::FILE* pipe = popen(command.c_str(), "r");
    EXPECT_NE(pipe, nullptr);
    std::array<char, 4096> buffer;
    while (const size_t size = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
      outcome.output.append(buffer.data(), size);
    }
    const int status = pclose(pipe);
    if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
    return outcome;
  }

  void ExpectRefused(const std::string& flags, const std::string& message) const {
    SCOPED_TRACE(flags);
    const Outcome outcome = Plan(flags);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_TRUE(absl::StrContains(outcome.output, message)) << outcome.output;
  }

  TempDir dir_;
};

std::vector<int64_t> Ints(const JsonView& object, const std::string& key) {
  std::vector<int64_t> values;
  const JsonView array = object.GetArray(key).value();
  for (const JsonView& value : array.Elements()) values.push_back(value.AsInt(key).value());
  return values;
}

TEST_F(PlanTest, Json) {
  const Outcome outcome = Plan("--tp 2 --pp 2 --stages 0,6,12 --kv_memory=1000000 --json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const Json json = Json::Parse(outcome.output, "plan").value();
  const JsonView plan = json.root();
  EXPECT_EQ(Ints(plan, "kv_source"), (std::vector<int64_t>{0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9}));
  EXPECT_EQ(Ints(plan, "owners"), (std::vector<int64_t>{0, 3, 6, 9}));
  EXPECT_EQ(Ints(plan, "legal_cuts"), (std::vector<int64_t>{3, 6, 9}));
  EXPECT_EQ(plan.GetInt("kv_bytes_per_token").value(), 3072);
  EXPECT_EQ(plan.GetInt("num_parameters").value(), 162332940);
  EXPECT_EQ(plan.GetInt("copies").value(), 1);  // 3 heads on 2 ranks: {0, 1} and {1, 2}
  EXPECT_EQ(plan.GetString("dtype").value(), "bfloat16");

  const JsonView stages = plan.GetArray("stages").value();
  ASSERT_EQ(stages.size(), 2);
  const JsonView last = stages.at(1);
  EXPECT_EQ(last.GetInt("first_layer").value(), 6);
  EXPECT_EQ(last.GetInt("end_layer").value(), 12);
  EXPECT_EQ(Ints(last, "owners"), (std::vector<int64_t>{6, 9}));
  EXPECT_GT(last.GetDouble("cost").value(), stages.at(0).GetDouble("cost").value());
  // One rank of it: 2 owners, 2 heads.
  const int64_t bytes_per_token = 2 * 2 * 2 * 64 * 2;
  EXPECT_EQ(last.GetInt("kv_bytes_per_token").value(), bytes_per_token);

  const int64_t num_blocks = 1000000 / (16 * bytes_per_token);
  EXPECT_EQ(plan.GetInt("num_blocks").value(), num_blocks);
  EXPECT_EQ(plan.GetInt("max_tokens").value(), 16 * num_blocks);
  EXPECT_EQ(plan.GetInt("max_model_len").value(), 2048);
  EXPECT_EQ(plan.GetInt("max_sequences").value(), num_blocks / 128);
}

TEST_F(PlanTest, Text) {
  const Outcome outcome = Plan("--pp 2 --dtype float32 --max_model_len 100");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  for (const char* part :
       {"*0 1 2 | *3 4 5 || *6 7 8 | *9 10 11", "162,332,940 parameters", "3,6,9; --pp 1 to 4",
        "KV bytes per token, float32", "73,728", "sequences of 100"}) {
    EXPECT_TRUE(absl::StrContains(outcome.output, part)) << part << "\n" << outcome.output;
  }
}

TEST_F(PlanTest, Refusals) {
  ExpectRefused("--pp 2 --stages 0,5,12", "layer 5 (stage 1) reads the KV cache of layer 3");
  ExpectRefused("--pp 5", "the legal cuts are 3,6,9; expected 1 to 4");
  ExpectRefused("--tp 5", "--tp 5 does not divide");
  ExpectRefused("--kv_memory 100", "holds no KV block");
  ExpectRefused("--dtype int8", "float32, bfloat16 or, on GPUs, float16");
  ExpectRefused("--max_model_len 4096", "2048");
  ExpectRefused("--no_such_flag", "no_such_flag");
  ExpectRefused("--model /nonexistent", "config.json");
  WriteFile(dir_.File("config.json"), "{\"hidden_size\": ");
  ExpectRefused("", "config.json");
}

}  // namespace
}  // namespace polystrate
