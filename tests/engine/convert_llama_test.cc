// Conversions of the Llama family's golden models, all float32, by the definition of `sequential`
// written out once more. That GPT-NeoX comes out right bit by bit is convert_test's.

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/architecture.h"
#include "engine/checkpoint.h"
#include "engine/convert.h"
#include "kernels/core/check.h"
#include "tests/testing/golden.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

namespace fs = std::filesystem;

class ConvertLlamaTest : public testing::TestWithParam<const char*> {
 protected:
  ConvertLlamaTest() {
    const std::string path = SourceFile("tests/golden/");
    golden_ = ReadGolden(absl::StrCat(path, GetParam(), ".json"));
    fs::create_directory(model_);
    WriteGoldenModel(model_, golden_);
  }

  static std::vector<float> Values(const Checkpoint& checkpoint, const std::string& name) {
    const Checkpoint::Entry entry = checkpoint.Get(name).value();
    std::vector<float> values(static_cast<size_t>(entry.info->end - entry.info->begin) / 4);
    CHECK(entry.file
              ->ReadBytes(*entry.info, 0, static_cast<int64_t>(values.size()) * 4, values.data())
              .ok());
    return values;
  }
  // What becomes of a projection or bias of `layer`: heads pooled `group` by `group`.
  static std::vector<float> PoolHeads(const std::vector<float>& heads, int num_heads, int group) {
    const size_t size = heads.size() / num_heads;
    std::vector<float> pooled(heads.size() / group);
    for (size_t i = 0; i < pooled.size(); ++i) {
      for (int k = 0; k < group; ++k) pooled[i] += heads[(i / size * group + k) * size + i % size];
      pooled[i] /= static_cast<float>(group);
    }
    return pooled;
  }

  const TempDir dir_;
  const std::string model_ = dir_.File("model");
  const std::string output_ = dir_.File("output");
  Golden golden_;
};

TEST_P(ConvertLlamaTest, PoolsAndGrows) {
  const ModelConfig config = ReadModelConfig(model_).value();
  const TensorNames& names = config.architecture->tensors;
  Conversion conversion = {model_, output_, {KvSharing::Mlkv(config.num_layers, 1).value(), 1}};
  conversion.options.grow_mlp = true;
  const absl::Status status = Convert(conversion, [](double) { return absl::OkStatus(); });
  ASSERT_TRUE(status.ok()) << status;
  const ModelConfig converted = ReadModelConfig(output_).value();
  EXPECT_EQ(converted.num_kv_heads, 1);
  EXPECT_EQ(converted.head_dim, config.head_dim);
  EXPECT_EQ(converted.sharing.owners(), std::vector<int>{0});

  const Checkpoint before = Checkpoint::Open(model_).value();
  const Checkpoint after = Checkpoint::Open(output_).value();
  for (const absl::string_view stem : {names.key, names.value}) {
    for (const char* end : {".weight", ".bias"}) {
      const std::string name = names.InLayer(0, stem) + end;
      ASSERT_EQ(after.Find(name) != nullptr, before.Find(name) != nullptr) << name;
      if (before.Find(name) == nullptr) continue;
      std::vector<float> expected;
      for (int layer = 0; layer < config.num_layers; ++layer) {
        const std::vector<float> pooled =
            PoolHeads(Values(before, names.InLayer(layer, stem) + end), config.num_kv_heads,
                      config.num_kv_heads);
        if (layer == 0) expected = pooled;
        for (size_t i = 0; layer > 0 && i < pooled.size(); ++i)
          expected[i] = (pooled[i] + expected[i]) / 2;
      }
      EXPECT_EQ(Values(after, name), expected) << name;
    }
    EXPECT_EQ(after.Find(names.InLayer(1, stem) + ".weight"), nullptr);
  }
  const int64_t growth = MlpGrowth(config, conversion.options.sharing, 1);
  EXPECT_GT(growth, 0);
  EXPECT_EQ(converted.intermediate_size, config.intermediate_size + growth);
  std::vector<float> up = Values(before, names.InLayer(1, names.up) + ".weight");
  up.insert(up.end(), up.begin(), up.begin() + growth * config.hidden_size);
  EXPECT_EQ(Values(after, names.InLayer(1, names.up) + ".weight"), up);
  FullLogits(output_, golden_.token_ids);
}

TEST_P(ConvertLlamaTest, TheIdentityChangesNoLogit) {
  const ModelConfig config = ReadModelConfig(model_).value();
  const Conversion conversion = {
      model_, output_, {KvSharing::AllOwn(config.num_layers), config.num_kv_heads}};
  ASSERT_TRUE(Convert(conversion, [](double) { return absl::OkStatus(); }).ok());
  EXPECT_EQ(FullLogits(model_, golden_.token_ids), FullLogits(output_, golden_.token_ids));
}

INSTANTIATE_TEST_SUITE_P(Stock, ConvertLlamaTest,
                         testing::Values("llama_mha", "llama_gqa_biases_tied",
                                         "mistral_head_dim_24", "qwen2_tied", "qwen3_version5"));

}  // namespace
}  // namespace polystrate
