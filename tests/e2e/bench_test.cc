// `polystrate bench` as a user runs it, quick: tables, JSON, plots, refusals.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/json.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(100);  // a busy machine; seconds on an idle one

class BenchTest : public testing::Test {
 protected:
  // Runs a bench with --json and --svg, and checks what all have in common.
  void Run(CommandLine arguments) {
    arguments.insert(arguments.begin(), "bench");
    for (const char* flag : {"json", "svg"}) {
      arguments.push_back(absl::StrCat("--", flag));
      arguments.push_back(dir_.File(absl::StrCat("report.", flag)));
    }
    result_ = RunCommand(Polystrate(arguments), kTimeout);
    ASSERT_EQ(result_.exit_code, 0) << result_.err;
    auto json = Json::Parse(ReadFile(dir_.File("report.json")), "report.json");
    ASSERT_TRUE(json.ok()) << json.status();
    json_.emplace(*std::move(json));
    const std::string svg = ReadFile(dir_.File("report.svg"));
    EXPECT_TRUE(absl::StartsWith(svg, "<svg ")) << svg.substr(0, 80);
    EXPECT_TRUE(absl::EndsWith(svg, "</svg>\n"));
  }

  TempDir dir_;
  CommandResult result_;
  std::optional<Json> json_;
};

void ExpectRefused(const CommandLine& arguments, const std::string& message) {
  CommandLine command = {"bench"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const CommandResult result = RunCommand(Polystrate(command), kTimeout);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(absl::StrContains(result.err, message)) << result.err;
}

TEST_F(BenchTest, CapacityReportsTheAllocatorsBytes) {
  Run({"capacity", "--quick", "--variants", "MHA-144,MLKV-1"});
  EXPECT_TRUE(absl::StrContains(result_.out, "MHA-144            12  12        36864"))
      << result_.out;
  EXPECT_TRUE(absl::StrContains(result_.out, "144.00")) << result_.out;
  const JsonView root = json_->root();
  EXPECT_EQ(*root.GetString("bench"), "capacity");
  EXPECT_EQ(*root.GetObject("linearity")->GetInt("expected_slope"), 256);
  const auto variants = root.GetArray("variants")->Elements();
  ASSERT_EQ(variants.size(), 2u);
  EXPECT_EQ(*variants[0].GetInt("bytes_per_token"), 36864);
  EXPECT_EQ(*variants[0].GetInt("max_sequences"), 99);
  EXPECT_EQ(*variants[1].GetString("name"), "MLKV-1");
  EXPECT_EQ(*variants[1].GetInt("bytes_per_token"), 256);
  EXPECT_EQ(*variants[1].GetInt("formula_bytes_per_token"), 256);
  EXPECT_EQ(*variants[1].GetInt("max_sequences"), 14336);
  EXPECT_GT(*variants[1].GetInt("resident_bytes"), 0);
}

// What does not depend on the machine: bytes and operations, the batches, the predicted order.
TEST_F(BenchTest, SharingCountsBytesAndOperations) {
  Run({"sharing", "--quick", "--threads", "1", "--variants", "MHA-144,MLKV-48,MLKV-1"});
  EXPECT_TRUE(absl::StrContains(result_.out, "At equal batch")) << result_.out;
  const JsonView root = json_->root();
  EXPECT_EQ(*root.GetString("bench"), "sharing");
  EXPECT_GT(*root.GetDouble("read_gb_per_s"), 0);
  struct Expected {
    const char* name;
    int64_t kept, read, written, projections, sequences;
  };
  // Written and projected falls by owners and heads; read, by heads alone.
  const Expected expected[] = {{"MHA-144", 36864, 36864, 36864, 12 * 2 * 2 * 768 * 768, 1},
                               {"MLKV-48", 12288, 36864, 12288, 4 * 2 * 2 * 768 * 768, 3},
                               {"MLKV-1", 256, 3072, 256, 1 * 2 * 2 * 64 * 768, 144}};
  const auto variants = root.GetArray("variants")->Elements();
  ASSERT_EQ(variants.size(), std::size(expected));
  for (size_t i = 0; i < variants.size(); ++i) {
    const JsonView& variant = variants[i];
    SCOPED_TRACE(expected[i].name);
    EXPECT_EQ(*variant.GetString("name"), expected[i].name);
    EXPECT_EQ(*variant.GetInt("kv_resident_bytes_per_token"), expected[i].kept);
    EXPECT_EQ(*variant.GetInt("kv_read_bytes_per_token"), expected[i].read);
    EXPECT_EQ(*variant.GetInt("kv_written_bytes_per_token"), expected[i].written);
    EXPECT_EQ(*variant.GetInt("kv_projection_operations_per_token"), expected[i].projections);
    EXPECT_EQ(*variant.GetObject("equal_batch")->GetInt("sequences"), 1);
    const JsonView largest = *variant.GetObject("largest_batch");
    EXPECT_EQ(*largest.GetInt("sequences"), expected[i].sequences);
    for (const char* key : {"tokens_per_s", "median_ms", "bytes_per_step", "operations_per_step",
                            "read_share", "matrix_share"}) {
      EXPECT_GT(*largest.GetDouble(key), 0) << key;
    }
    EXPECT_TRUE(variant.Has("scratch_bytes"));
    EXPECT_GT(*variant.GetObject("attention_from_memory")->GetDouble("owner_ms"), 0);
    EXPECT_EQ(variant.GetObject("attention_in_turn")->Has("reuser_ms"), i != 0);
  }
  const auto order = root.GetArray("predicted_order")->Elements();
  ASSERT_EQ(order.size(), 3u);
  EXPECT_EQ(*order[0].AsString("order"), "MHA-144");
  EXPECT_EQ(*order[2].AsString("order"), "MLKV-1");
}

// Bytes and operations do not depend on the machine either.
TEST(BenchAttention, CountsBytesAndOperations) {
  const TempDir dir;
  const std::string file = dir.File("report.json");
  const CommandResult result = RunCommand(
      Polystrate({"bench", "attention", "--quick", "--threads", "1", "--json", file}), kTimeout);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = *Json::Parse(ReadFile(file), "report.json");
  EXPECT_GT(*json.root().GetObject("limits")->GetDouble("read_gb_per_s"), 0);
  struct Expected {
    const char* phase;
    int64_t kv_heads, kv_elements, queries, pairs;
  };
  // Two sequences of 40 tokens decode, one of 48 prefills; 4 heads of 32.
  const Expected expected[] = {{"decode", 4, 2 * 2 * 40 * 4 * 32, 2, 2 * 40},
                               {"decode", 1, 2 * 2 * 40 * 1 * 32, 2, 2 * 40},
                               {"prefill", 4, 2 * 48 * 4 * 32, 48, 48 * 49 / 2},
                               {"prefill", 1, 2 * 48 * 1 * 32, 48, 48 * 49 / 2}};
  const auto rows = json.root().GetArray("rows")->Elements();
  ASSERT_EQ(rows.size(), std::size(expected));
  for (size_t i = 0; i < rows.size(); ++i) {
    const Expected& one = expected[i];
    EXPECT_EQ(*rows[i].GetString("phase"), one.phase);
    EXPECT_EQ(*rows[i].GetInt("kv_heads"), one.kv_heads);
    EXPECT_EQ(*rows[i].GetDouble("bytes"), 2.0 * (one.kv_elements + 2 * one.queries * 4 * 32));
    EXPECT_EQ(*rows[i].GetDouble("operations"), 4.0 * 4 * 32 * one.pairs);
    for (const char* key : {"predicted_ms", "median_ms", "read_share", "matrix_share"}) {
      EXPECT_GT(*rows[i].GetDouble(key), 0) << key;
    }
  }
}

TEST(BenchModel, CountsBytesAndOperations) {
  const TempDir dir;
  const std::string file = dir.File("report.json");
  const CommandResult result = RunCommand(
      Polystrate({"bench", "model", "--quick", "--shapes", "pythia-160m", "--json", file}),
      kTimeout);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = *Json::Parse(ReadFile(file), "report.json");
  const auto rows = json.root().GetArray("rows")->Elements();
  ASSERT_EQ(rows.size(), 2u);
  // Matrices of the layers and the head, and at least these weights are read.
  const double layers = 2.0 * 12 * (4.0 * 768 * 768 + 2.0 * 768 * 3072), head = 2.0 * 50304 * 768;
  const double pairs = 4.0 * 12 * 768;
  EXPECT_EQ(*rows[0].GetString("phase"), "decode");
  EXPECT_EQ(*rows[0].GetDouble("operations"), layers + head + pairs * 32.5);
  EXPECT_GT(*rows[0].GetDouble("bytes"), layers + head);
  EXPECT_LT(*rows[0].GetDouble("bytes"), (layers + head) * 1.05);
  EXPECT_EQ(*rows[1].GetString("phase"), "prefill");
  EXPECT_EQ(*rows[1].GetDouble("operations"), 2 * (16 * layers + head + 16 * 17 / 2 * pairs));
  for (const JsonView& row : rows) {
    EXPECT_EQ(*row.GetString("shape"), "pythia-160m");
    EXPECT_GT(*row.GetDouble("tokens_per_s"), 0);
    EXPECT_GT(*row.GetDouble("matrix_share"), 0);
  }
}

TEST(BenchBadInput, IsRefused) {
  ExpectRefused({}, "bench needs a kind: capacity");
  ExpectRefused({"capcity"}, "there is no bench \"capcity\"; the kinds are capacity, sharing");
  ExpectRefused({"capacity", "--variants", "MLKV-3"}, "no \"MLKV-3\"; the variants are MHA-144,");
  ExpectRefused({"capacity", "--kv_memory", "0"}, "--kv_memory is 0");
  ExpectRefused({"capacity", "--kv_memory", "1000"}, "--kv_memory 1000 holds no KV block");
  ExpectRefused({"capacity", "--sequence_len", "-1"}, "--sequence_len is -1");
  ExpectRefused({"capacity", "--quick", "--kv_memory", "600000", "--svg", "/dev/null"},
                "--kv_memory 600000 holds no sequence of 2048 tokens");
  // Written, 38 GB for each sequence.
  ExpectRefused({"capacity", "--sequence_len", "1048576", "--kv_memory", "100000000000"}, "bytes");
  ExpectRefused({"capacity", "--block_size", "0"}, "--block_size is 0");
  ExpectRefused({"sharing", "--steps", "3"}, "--steps is 3");
  ExpectRefused({"sharing", "--context", "2001"}, "--context is 2001; it must be in [1, 2000]");
  ExpectRefused({"sharing", "--threads", "0"}, "--threads is 0");
  ExpectRefused({"sharing", "--dtype", "float16"}, "--dtype float16 needs --device cuda");
  ExpectRefused({"sharing", "--kv_memory", "1000000000000000"}, "name fewer --variants");
  ExpectRefused({"sharing", "--quick", "--variants", "nonsense"}, "no \"nonsense\"");
  ExpectRefused({"model", "--shapes", "gpt-5"}, "no \"gpt-5\"; it has pythia-160m, pythia-6.9b,");
  ExpectRefused({"model", "--context", "2040", "--shapes", "pythia-160m"}, "has 2048 positions");
  ExpectRefused({"attention", "--kv_heads", "5"}, "--kv_heads has 5");
  ExpectRefused({"attention", "--phase", "both ways"}, "--phase is \"both ways\"");
  ExpectRefused({"attention", "--device", "tpu"}, "--device is \"tpu\"");
  ExpectRefused({"capacity", "--svg", "/no/such/folder/a.svg"}, "--svg: cannot write /no/such");
  const TempDir dir;
  ExpectRefused({"capacity", "--kv_memory", "1", "--json", dir.File("a.json")}, "no KV block");
  EXPECT_FALSE(std::filesystem::exists(dir.File("a.json")));
}

// What a cluster's throughput is tried with: a model of which there is but the config.json.
TEST(DummyWeights, NeedNoCheckpointAndAreTheSameOnEveryCut) {
  TempDir dir;
  WriteFile(dir.File("config.json"), TinyModelConfigJson({.num_kv_heads = 3, .num_kv_layers = 2}));
  const auto generate = [&dir](const CommandLine& more) {
    CommandLine command = {"generate", "--model",      dir.path(), "--temperature",
                           "0",        "--prompt_ids", "5,6,7",    "--threads",
                           "1",        "--kv_memory",  "1048576",  "--max_tokens",
                           "6",        "--ignore_eos"};
    command.insert(command.end(), more.begin(), more.end());
    return Polystrate(command);
  };
  const CommandResult refused = RunCommand(generate({}), kTimeout);
  EXPECT_EQ(refused.exit_code, 2);
  const CommandResult one = RunCommand(generate({"--load_format", "dummy"}), kTimeout);
  EXPECT_EQ(one.exit_code, 0) << one.err;
  const CommandResult four = RunCommand(
      Mpirun(4, generate({"--load_format", "dummy", "--tp", "2", "--pp", "2"})), kTimeout);
  EXPECT_EQ(four.exit_code, 0) << four.err;
  EXPECT_EQ(std::count(one.out.begin(), one.out.end(), ' '), 5) << one.out;
  EXPECT_EQ(four.out, one.out);
}

TEST(BenchHelp, NamesTheKindsAndTheirFlags) {
  CommandResult result = RunCommand(Polystrate({"bench", "--help"}), kTimeout);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(absl::StrContains(result.out, "capacity")) << result.out;
  result = RunCommand(Polystrate({"bench", "capacity", "--help"}), kTimeout);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(absl::StrContains(result.out, "--kv_memory")) << result.out;
}

}  // namespace
}  // namespace polystrate
