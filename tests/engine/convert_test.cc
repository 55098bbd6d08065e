#include "engine/convert.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/checkpoint.h"
#include "kernels/core/check.h"
#include "parallel/kv_source_text.h"
#include "tests/testing/convert_golden.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {

void PrintTo(const ConvertGolden& golden, std::ostream* out) { *out << golden.name; }

namespace {

namespace fs = std::filesystem;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

absl::Status NoProgress(double) { return absl::OkStatus(); }

// A tensor of a written model: dtype, shape and bytes.
using Stored = std::map<std::string, std::string>;
Stored ReadTensors(const std::string& dir) {
  const Checkpoint checkpoint = Checkpoint::Open(dir).value();
  Stored tensors;
  for (const auto& [name, entry] : checkpoint.entries()) {
    std::string bytes(static_cast<size_t>(entry.info->end - entry.info->begin), '\0');
    CHECK(entry.file->ReadBytes(*entry.info, 0, static_cast<int64_t>(bytes.size()), bytes.data())
              .ok());
    tensors[name] = absl::StrCat(entry.info->dtype, ShapeString(entry.info->shape), bytes);
  }
  return tensors;
}

class ConvertTest : public testing::Test {
 protected:
  ConvertTest() { fs::create_directory(model_); }

  Conversion Make(const std::string& kv_source, int kv_heads,
                  Pooling pooling = Pooling::kSequential) const {
    const int num_layers = ReadModelConfig(model_).value().num_layers;
    return {model_, output_, {ParseKvSource(kv_source, num_layers).value(), kv_heads, pooling}};
  }
  absl::Status Run(const Conversion& conversion) const { return Convert(conversion, NoProgress); }
  // Nothing but the model lies in the folder.
  void ExpectNothingWritten() const {
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      EXPECT_EQ(entry.path().string(), model_);
  }

  const TempDir dir_;
  const std::string model_ = dir_.File("model");
  const std::string output_ = dir_.File("output");
};

class ConvertGoldenTest : public testing::TestWithParam<ConvertGolden> {};

TEST_P(ConvertGoldenTest, EveryTensorBitByBit) {
  const ConvertGolden& golden = GetParam();
  const TempDir dir;
  const std::string model = dir.File("model");
  const std::string output = dir.File("output");
  fs::create_directory(model);
  WriteConvertGoldenModel(model, golden);
  const absl::Status status = Convert({model, output, golden.options}, NoProgress);
  ASSERT_TRUE(status.ok()) << status;

  for (const auto& [part, hash] : golden.hashes)
    EXPECT_EQ(HashOfPart(output, part, golden.model.num_layers), hash) << part;
  // The names, shapes and dtypes of a model of that sharing, and no others.
  TinyModelSpec spec = golden.model;
  spec.fused_qkv = false;
  spec.kv_source = golden.options.sharing.kv_source;
  spec.num_kv_heads = golden.options.num_kv_heads;
  spec.intermediate_size = golden.intermediate_size;
  const Checkpoint checkpoint = Checkpoint::Open(output).value();
  EXPECT_EQ(checkpoint.num_tensors(), golden.num_tensors);
  for (const StoredTensor& tensor : TinyModelTensors(spec)) {
    const Checkpoint::Entry* entry = checkpoint.Find(tensor.name);
    ASSERT_NE(entry, nullptr) << tensor.name;
    EXPECT_EQ(entry->info->shape, tensor.shape) << tensor.name;
    EXPECT_EQ(entry->info->dtype, tensor.dtype) << tensor.name;
  }
  // What the conversion does not touch stays as it is.
  const Stored before = ReadTensors(model);
  for (const auto& [name, value] : ReadTensors(output)) {
    if (!before.contains(name) || name.find("mlp.") != std::string::npos) continue;
    if (name.find(".key.") != std::string::npos || name.find(".value.") != std::string::npos)
      continue;
    EXPECT_TRUE(value == before.at(name)) << name;
  }

  const ModelConfig config = ReadModelConfig(output).value();
  EXPECT_EQ(config.sharing.kv_source, golden.options.sharing.kv_source);
  EXPECT_EQ(config.num_kv_heads, golden.options.num_kv_heads);
  EXPECT_EQ(config.intermediate_size, golden.intermediate_size);
  EXPECT_EQ(config.warning, "");
}

INSTANTIATE_TEST_SUITE_P(All, ConvertGoldenTest, testing::ValuesIn(ReadConvertGoldens()),
                         [](const auto& test) { return test.param.name; });

TEST_F(ConvertTest, TheIdentityChangesNoLogit) {
  TinyModelSpec spec;
  spec.fused_qkv = true;
  spec.mixed_dtypes = true;
  WriteTinyModel(model_, spec);
  ASSERT_TRUE(Run(Make("cla1", 6)).ok());
  const std::vector<int32_t> tokens = RandomTokens(40, spec.vocab_size, 1);
  EXPECT_EQ(FullLogits(model_, tokens), FullLogits(output_, tokens));
}

// Pooling what is equal gives the same model: each query head then reads what it read before.
TEST_F(ConvertTest, PoolingEqualHeadsAndLayersChangesNoLogit) {
  TinyModelSpec spec;
  spec.num_layers = 6;
  spec.rotary_pct = 0.5;
  spec.edit = [](std::vector<StoredTensor>* tensors) {
    std::map<std::string, std::string> first;
    for (StoredTensor& tensor : *tensors) {
      const size_t at = tensor.name.find("attention.");
      if (tensor.name.find(".key.") == std::string::npos &&
          tensor.name.find(".value.") == std::string::npos)
        continue;
      // Head 0 of the first such tensor, in all heads of all layers.
      std::string& head = first[tensor.name.substr(at)];
      if (head.empty()) head = tensor.bytes.substr(0, tensor.bytes.size() / 6);
      tensor.bytes = absl::StrCat(head, head, head, head, head, head);
    }
  };
  WriteTinyModel(model_, spec);
  const std::vector<int32_t> tokens = RandomTokens(30, spec.vocab_size, 2);
  const auto expected = FullLogits(model_, tokens);
  for (const Pooling pooling : {Pooling::kSequential, Pooling::kMean}) {
    const Conversion conversion = Make("cla1", 2, pooling);  // layers differ in their inputs
    ASSERT_TRUE(Run(conversion).ok());
    const auto logits = FullLogits(output_, tokens);
    for (size_t i = 0; i < logits.size(); ++i) {
      for (size_t j = 0; j < logits[i].size(); ++j)
        ASSERT_NEAR(logits[i][j], expected[i][j], 2e-5) << i << " " << j;
    }
    fs::remove_all(output_);
  }
}

TEST_F(ConvertTest, AConvertedModelRunsUnderBothKeyRules) {
  TinyModelSpec spec;
  spec.fused_qkv = true;
  WriteTinyModel(model_, spec);
  const std::vector<int32_t> tokens = RandomTokens(20, spec.vocab_size, 3);
  std::vector<std::vector<float>> logits[2];
  for (const ReuseKeys rule : {ReuseKeys::kPostRope, ReuseKeys::kPreRope}) {
    Conversion conversion = Make("cla3", 2);
    conversion.reuse_keys = rule;
    ASSERT_TRUE(Run(conversion).ok());
    EXPECT_EQ(ReadModelConfig(output_)->reuse_keys, rule);
    logits[rule == ReuseKeys::kPreRope] = FullLogits(output_, tokens);
    fs::remove_all(output_);
  }
  EXPECT_NE(logits[0], logits[1]);
}

TEST_F(ConvertTest, ShardsBecomeShardsWithTheSameTensors) {
  TinyModelSpec spec;
  spec.fused_qkv = true;
  spec.mixed_dtypes = true;
  WriteTinyModel(model_, spec);
  ASSERT_TRUE(Run(Make("cla2", 3)).ok());
  const Stored whole = ReadTensors(output_);
  fs::remove_all(output_);
  fs::remove(model_ + "/model.safetensors");
  spec.num_shards = 3;
  WriteTinyModel(model_, spec);
  ASSERT_TRUE(Run(Make("cla2", 3)).ok());
  EXPECT_EQ(ReadTensors(output_), whole);
  EXPECT_TRUE(fs::exists(output_ + "/model-00003-of-00003.safetensors"));
  EXPECT_FALSE(fs::exists(output_ + "/model.safetensors"));
  int64_t bytes = 0;
  const Checkpoint checkpoint = Checkpoint::Open(output_).value();
  for (const auto& [name, entry] : checkpoint.entries())
    bytes += entry.info->end - entry.info->begin;
  EXPECT_NE(ReadFile(output_ + "/model.safetensors.index.json")
                .find(absl::StrCat("\"total_size\":", bytes)),
            std::string::npos);
}

TEST_F(ConvertTest, ConfigKeepsItsTextAndCompanionsAreCopied) {
  WriteTinyModel(model_, TinyModelSpec());
  const std::string config =
      absl::StrReplaceAll(ReadFile(model_ + "/config.json"),
                          {{"}\n", ",\n  \"of_others\": {\"kv_source\": [1e-07, 10000.0]}\n}\n"}});
  WriteFile(model_ + "/config.json", config);
  WriteFile(model_ + "/tokenizer.json", "{\"tokens\": 1}");
  WriteFile(model_ + "/generation_config.json", "{}");
  WriteFile(model_ + "/README.md", "what the model was");
  WriteFile(model_ + "/pytorch_model.bin", "a pickle");
  ASSERT_TRUE(Run(Make("mlkv2", 2)).ok());
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(output_))
    files.push_back(entry.path().filename().string());
  std::sort(files.begin(), files.end());
  EXPECT_EQ(files, (std::vector<std::string>{"config.json", "generation_config.json",
                                             "model.safetensors", "tokenizer.json"}));
  EXPECT_EQ(ReadFile(output_ + "/tokenizer.json"), "{\"tokens\": 1}");
  // All that was there, and the new keys behind it.
  const std::string converted = ReadFile(output_ + "/config.json");
  const std::string body = config.substr(0, config.rfind('}') - 1);
  EXPECT_EQ(converted.substr(0, body.size()), body);
  EXPECT_EQ(converted.substr(body.size()),
            ", \"num_key_value_heads\": 2, \"num_key_value_layers\": 2, \"kv_source\": [0, 0, 2, "
            "2], \"reuse_keys\": \"post_rope\"\n}\n");
}

TEST_F(ConvertTest, BuffersGoOtherTensorsStay) {
  TinyModelSpec spec;
  spec.buffers = true;
  spec.edit = [](std::vector<StoredTensor>* tensors) {
    tensors->push_back({"extra.state", "I64", {2}, std::string(16, '\7')});
    tensors->push_back({"extra.scalar", "F32", {}, std::string(4, '\7')});
    tensors->push_back({"extra.empty", "BF16", {0, 3}, ""});
  };
  WriteTinyModel(model_, spec);
  ASSERT_TRUE(Run(Make("cla2", 1)).ok());
  const Stored before = ReadTensors(model_);
  const Stored after = ReadTensors(output_);
  for (const char* name : {"extra.state", "extra.scalar", "extra.empty"})
    EXPECT_EQ(after.at(name), before.at(name));
  for (const auto& [name, value] : after) {
    EXPECT_EQ(name.find("attention.bias"), std::string::npos) << name;
    EXPECT_EQ(name.find("masked_bias"), std::string::npos) << name;
    EXPECT_EQ(name.find("inv_freq"), std::string::npos) << name;
  }
}

// The loader takes the three tensors that are apart; so does the conversion.
TEST_F(ConvertTest, AFusedRelicBesideTheThreeIsLeftOut) {
  WriteTinyModel(model_, TinyModelSpec());
  ASSERT_TRUE(Run(Make("cla2", 3)).ok());
  const Stored expected = ReadTensors(output_);
  fs::remove_all(output_);
  TinyModelSpec spec;
  spec.edit = [](std::vector<StoredTensor>* tensors) {
    tensors->push_back({"gpt_neox.layers.1.attention.query_key_value.weight",
                        "F32",
                        {144, 48},
                        std::string(144 * 48 * 4, '\7')});
  };
  WriteTinyModel(model_, spec);
  ASSERT_TRUE(Run(Make("cla2", 3)).ok());
  EXPECT_EQ(ReadTensors(output_), expected);
}

// And the fused one where query is missing: what lies apart beside it is not read.
TEST_F(ConvertTest, WhatTheLoaderDoesNotReadIsNoSource) {
  TinyModelSpec spec;
  spec.fused_qkv = true;
  WriteTinyModel(model_, spec);
  ASSERT_TRUE(Run(Make("cla2", 3)).ok());
  Stored expected = ReadTensors(output_);
  fs::remove_all(output_);
  spec.edit = [](std::vector<StoredTensor>* tensors) {
    for (const char* name : {"2.attention.key", "2.attention.value", "3.attention.key"}) {
      tensors->push_back({absl::StrCat("gpt_neox.layers.", name, ".weight"),
                          "F32",
                          {48, 48},
                          std::string(48 * 48 * 4, '\7')});
    }
    // A number that this program would not write names no layer.
    tensors->push_back({"gpt_neox.layers.02.attention.key.weight", "F32", {1}, "1234"});
  };
  WriteTinyModel(model_, spec);
  const absl::Status status = Run(Make("cla2", 3));
  ASSERT_TRUE(status.ok()) << status;
  Stored after = ReadTensors(output_);
  EXPECT_EQ(after.erase("gpt_neox.layers.02.attention.key.weight"), 1u);
  EXPECT_EQ(after, expected);
}

TEST_F(ConvertTest, RefusesByTheRuleThatIsBroken) {
  WriteTinyModel(model_, TinyModelSpec());
  EXPECT_TRUE(Fails(Run(Make("cla2", 4)), kInvalid,
                    "cannot pool 6 KV heads into 4; expected a divisor of 6"));
  EXPECT_TRUE(Fails(Run(Make("cla2", 12)), kInvalid, "cannot pool 6 KV heads into 12"));
  EXPECT_TRUE(Fails(Run(Make("cla2", 0)), kInvalid, "cannot pool 6 KV heads into 0"));
  Conversion upward = Make("cla2", 1);
  upward.options.sharing.kv_source = {0, 2, 2, 2};
  EXPECT_TRUE(Fails(Run(upward), kInvalid, "reads upward"));
  Conversion elsewhere = Make("cla2", 1);
  elsewhere.output_dir = dir_.File("no/such/output");
  EXPECT_TRUE(Fails(Run(elsewhere), absl::StatusCode::kNotFound, "cannot create"));
  ExpectNothingWritten();

  TinyModelSpec small;
  small.intermediate_size = 30;  // growth is 40
  WriteTinyModel(model_, small);
  Conversion grown = Make("mlkv1", 1);
  grown.options.grow_mlp = true;
  EXPECT_TRUE(Fails(Run(grown), kInvalid, "expected at most as many as there are to copy"));

  TinyModelSpec mlp;
  mlp.use_key_value_mlp = true;
  WriteTinyModel(model_, mlp);
  EXPECT_TRUE(Fails(Run(Make("cla2", 1)), kInvalid, "use_key_value_mlp"));

  TinyModelSpec shared;
  shared.num_kv_layers = 2;
  WriteTinyModel(model_, shared);
  EXPECT_TRUE(
      Fails(Run(Make("mlkv1", 1)), kInvalid, "the model shares KV already: 2 of its 4 layers own"));
  ExpectNothingWritten();
}

TEST_F(ConvertTest, RefusesACheckpointThatIsNotAsItsConfigSays) {
  const auto write = [this](const std::string& name, const std::vector<int64_t>& shape) {
    TinyModelSpec spec;
    spec.edit = [&](std::vector<StoredTensor>* tensors) {
      const auto it = std::find_if(tensors->begin(), tensors->end(),
                                   [&](const StoredTensor& tensor) { return tensor.name == name; });
      CHECK(it != tensors->end());
      if (shape.empty()) {
        tensors->erase(it);
        return;
      }
      it->shape = shape;
      it->bytes.assign(static_cast<size_t>(shape[0]) * 4, '\0');
    };
    WriteTinyModel(model_, spec);
  };
  for (const char* name : {"attention.key.weight", "attention.value.bias", "attention.dense.weight",
                           "mlp.dense_4h_to_h.bias"}) {
    const std::string tensor = absl::StrCat("gpt_neox.layers.3.", name);
    write(tensor, {});
    EXPECT_TRUE(Fails(Run(Make("cla2", 2)), absl::StatusCode::kNotFound, tensor));
    write(tensor, {5});
    EXPECT_TRUE(Fails(Run(Make("cla2", 2)), kInvalid, tensor));
  }
  ExpectNothingWritten();
}

TEST_F(ConvertTest, NeverOverwrites) {
  WriteTinyModel(model_, TinyModelSpec());
  const Conversion conversion = Make("cla2", 2);
  const auto refused = [&] {
    return Fails(Run(conversion), kInvalid, "exists; remove it, or name a folder");
  };
  fs::create_directory(output_);
  EXPECT_TRUE(refused());
  fs::remove(output_);
  WriteFile(output_, "a file");
  EXPECT_TRUE(refused());
  EXPECT_EQ(ReadFile(output_), "a file");
  fs::remove(output_);
  fs::create_symlink("nowhere", output_);
  EXPECT_TRUE(refused());
  fs::remove(output_);
  Conversion slash = conversion;
  slash.output_dir += "/";
  EXPECT_TRUE(Run(slash).ok());
  EXPECT_TRUE(fs::exists(output_ + "/config.json"));
  EXPECT_TRUE(refused());
}

TEST_F(ConvertTest, WhatStopsMidwayLeavesNothing) {
  WriteTinyModel(model_, TinyModelSpec());
  for (const int stop : {1, 10, 30}) {
    int calls = 0;
    double last = 0;
    const absl::Status status = Convert(Make("cla2", 2), [&](double done) -> absl::Status {
      EXPECT_GT(done, last);
      EXPECT_LE(done, 1.0);
      last = done;
      return ++calls < stop ? absl::OkStatus() : absl::CancelledError("enough");
    });
    EXPECT_TRUE(Fails(status, absl::StatusCode::kCancelled, "enough"));
    EXPECT_EQ(calls, stop);
    ExpectNothingWritten();
  }
}

// A file may not grow beyond a limit, as on a full disk; in a child, for the limit stays.
TEST_F(ConvertTest, AFullDiskLeavesNothing) {
  WriteTinyModel(model_, TinyModelSpec());
  const Conversion conversion = Make("cla2", 2);
  for (const rlim_t limit : {0, 100, 5000, 200000}) {
    const pid_t child = fork();
    if (child == 0) {
      const rlimit size = {limit, limit};
      if (setrlimit(RLIMIT_FSIZE, &size) != 0) _exit(2);
      std::signal(SIGXFSZ, SIG_IGN);
      const absl::Status status = Run(conversion);
      _exit(status.message().find("cannot write") != absl::string_view::npos ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << limit << " " << status;
    ExpectNothingWritten();
  }
}

}  // namespace
}  // namespace polystrate
