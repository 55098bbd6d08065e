// `polystrate convert` as a user runs it: convert, then plan and generate; what it refuses; what a
// signal leaves.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "engine/json.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

namespace fs = std::filesystem;

class ConvertTest : public testing::Test {
 protected:
  ConvertTest() { fs::create_directory(model_); }

  // The last of a flag counts.
  CommandLine Convert(const CommandLine& flags) const {
    CommandLine command = {"convert", "--model", model_, "--output", output_};
    command.insert(command.end(), flags.begin(), flags.end());
    return Polystrate(command);
  }
  size_t NumFolders() const {
    const auto entries = fs::directory_iterator(dir_.path());
    return static_cast<size_t>(std::distance(begin(entries), end(entries)));
  }
  void ExpectRefused(const CommandLine& flags, const std::string& message) const {
    SCOPED_TRACE(absl::StrJoin(flags, " "));
    const CommandResult result = RunCommand(Convert(flags));
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.out, "");
    EXPECT_TRUE(absl::StrContains(result.err, message)) << result.err;
    EXPECT_EQ(NumFolders(), 1u);
  }

  const TempDir dir_;
  const std::string model_ = dir_.File("model");
  const std::string output_ = dir_.File("output");
};

TEST_F(ConvertTest, ConvertPlanGenerate) {
  TinyModelSpec spec;
  spec.fused_qkv = true;
  spec.num_layers = 8;
  WriteTinyModel(model_, spec);
  const CommandResult converted =
      RunCommand(Convert({"--kv-layers", "2", "--kv-heads=3", "--pool", "sequential", "--grow_mlp",
                          "--reuse_keys", "pre_rope"}));
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  EXPECT_EQ(converted.out, "");
  EXPECT_TRUE(absl::StrContains(converted.err,
                                "2 of 8 layers own, 3 KV heads each; KV cache 3072 "
                                "-> 384 bytes a token in float32"))
      << converted.err;
  EXPECT_EQ(NumFolders(), 2u);

  const CommandResult plan =
      RunCommand(Polystrate({"plan", "--model", output_, "--pp", "2", "--json"}));
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  const Json json = Json::Parse(plan.out, "plan").value();
  EXPECT_EQ(json.root().GetInt("kv_bytes_per_token").value(), 2 * 2 * 3 * 8 * 4);
  EXPECT_EQ(json.root().GetArray("kv_source")->size(), 8);

  const CommandResult generated = RunCommand(
      Polystrate({"generate", "--model", output_, "--prompt_ids", "5,6,7", "--max_tokens", "4",
                  "--ignore_eos", "--temperature", "0", "--threads", "1", "--json"}));
  ASSERT_EQ(generated.exit_code, 0) << generated.err;
  EXPECT_EQ(generated.err.find("warning"), std::string::npos)
      << generated.err;  // it names its rule
  const Json tokens = Json::Parse(generated.out, "generate").value();
  EXPECT_EQ(tokens.root().GetArray("token_ids")->size(), 4);
}

TEST_F(ConvertTest, RefusesFlagsThatMakeNoConversion) {
  WriteTinyModel(model_, TinyModelSpec());
  const std::string pool = "--pool=mean";
  ExpectRefused({pool}, "give --kv_layers and --kv_heads, or --kv_source");
  ExpectRefused({pool, "--kv_heads", "2"}, "give --kv_layers and --kv_heads, or --kv_source");
  ExpectRefused({pool, "--kv_layers", "2"}, "--kv_layers needs --kv_heads");
  ExpectRefused({pool, "--kv_layers", "2", "--kv_heads", "2", "--kv_source", "cla2"},
                "--kv_layers and --kv_source both say which layers own");
  ExpectRefused({"--kv_source", "cla2"}, "--pool is required");
  ExpectRefused({"--kv_source", "cla2", "--pool", "max"}, "--pool is \"max\"");
  ExpectRefused({pool, "--kv_layers", "0", "--kv_heads", "2"},
                "expected 1 to the number of layers");
  ExpectRefused({pool, "--kv_layers", "5", "--kv_heads", "2"}, "--kv_layers is 5; expected 1 to");
  ExpectRefused({pool, "--kv_layers", "2", "--kv_heads", "0"}, "--kv_heads is 0; expected 1 to");
  ExpectRefused({pool, "--kv_layers", "2", "--kv_heads", "7"}, "the model's KV heads, 6");
  ExpectRefused({pool, "--kv_layers", "2", "--kv_heads", "4"}, "expected a divisor of 6");
  ExpectRefused({pool, "--kv_source", "0,0,2"}, "has 3 entries; expected one for each of the 4");
  ExpectRefused({pool, "--kv_source", "0,2,2,2"}, "reads upward");
  ExpectRefused({pool, "--kv_source", "0,0,1,1"}, "layer 1 has no KV cache");
  ExpectRefused({pool, "--kv_source", "cla"}, "is no sharing map");
  ExpectRefused({pool, "--kv_source", "cla2", "--reuse_keys", "rope"}, "--reuse_keys is \"rope\"");
  ExpectRefused({pool, "--kv_source", "cla1", "--reuse_keys", "pre_rope"}, "no layer would reuse");
  ExpectRefused({pool, "--kv_source", "cla2", "--output", ""}, "--output takes a text");
  ExpectRefused({pool, "--kv_source", "cla2", "--output", model_}, "exists; remove it");
  ExpectRefused({pool, "--kv_source", "cla2", "--model", dir_.File("none")}, "config.json");
}

TEST_F(ConvertTest, RefusesAModelThatShares) {
  TinyModelSpec spec;
  spec.num_kv_layers = 2;
  WriteTinyModel(model_, spec);
  ExpectRefused({"--kv_source", "cla4", "--pool", "mean"}, "the model shares KV already");
}

// Whenever the signal comes: all of the output or nothing at all.
TEST_F(ConvertTest, ASignalLeavesAllOrNothing) {
  TinyModelSpec spec;
  spec.num_layers = 6;
  spec.hidden_size = 768;
  spec.intermediate_size = 3072;
  WriteTinyModel(model_, spec);
  const CommandLine command = Convert({"--kv_source", "cla2", "--kv_heads", "2", "--pool", "mean"});
  int stopped = 0;
  for (const int milliseconds : {0, 20, 40, 60, 80, 120, 200, 400}) {
    Process process(command);
    absl::SleepFor(absl::Milliseconds(milliseconds));
    process.Signal(milliseconds % 40 == 0 ? SIGINT : SIGTERM);
    const std::optional<int> exit_code = process.Wait(absl::Seconds(60));
    ASSERT_TRUE(exit_code.has_value());
    if (*exit_code == 0) {
      EXPECT_TRUE(fs::exists(output_ + "/model.safetensors"));
      fs::remove_all(output_);
    } else {
      ++stopped;
    }
    EXPECT_EQ(NumFolders(), 1u) << milliseconds << " ms, exit code " << *exit_code;
  }
  EXPECT_GT(stopped, 0);
}

}  // namespace
}  // namespace polystrate
