#include "engine/rope_scaling.h"

#include <gtest/gtest.h>

#include <ostream>

#include "engine/rope_keys.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

// What transformers 5.23 computes for these settings: the attention factor, and every
// (head_dim / 16)-th frequency.
struct Case {
  const char* name;
  int head_dim;
  std::string settings;  // config.json's, beside rope_type
  double attention_factor;
  float frequencies[8];
};

std::ostream& operator<<(std::ostream& out, const Case& param) { return out << param.name; }

const Case kCases[] = {
    {"Linear",
     16,
     R"("rope_theta": 10000.0, "max_position_embeddings": 256,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0})",
     1.0,
     {0.25f, 0.079056941f, 0.0250000004f, 0.00790569466f, 0.00249999994f, 0.000790569466f,
      0.000250000012f, 7.90569466e-05f}},
    {"Dynamic",
     16,
     R"("rope_theta": 10000.0, "max_position_embeddings": 256,
        "rope_scaling": {"type": "dynamic", "factor": 4.0})",
     1.0,
     {1.0f, 0.316227764f, 0.100000001f, 0.0316227786f, 0.00999999978f, 0.00316227786f,
      0.00100000005f, 0.000316227786f}},
    {"Llama3",
     64,
     R"("rope_theta": 500000.0, "max_position_embeddings": 131072,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})",
     1.0,
     {1.0f, 0.193922758f, 0.0376060307f, 0.00729266508f, 0.000429556705f, 8.57025589e-06f,
      1.66196742e-06f, 3.22293289e-07f}},
    // The factor follows from the two lengths.
    {"Yarn",
     128,
     R"("max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6,
                            "original_max_position_embeddings": 32768})",
     1.138629436111989,
     {1.0f, 0.177827939f, 0.0316227786f, 0.00537532149f, 0.000602941145f, 4.44569851e-05f,
      7.90569356e-06f, 1.40585337e-06f}},
    {"YarnInFull",
     32,
     R"("rope_theta": 10000.0, "max_position_embeddings": 256,
        "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32,
                         "beta_fast": 8.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.3,
                         "truncate": false})",
     0.9017839869787123,
     {1.0f, 0.0395284705f, 0.0125000002f, 0.00395284733f, 0.00124999997f, 0.000395284733f,
      0.000125000006f, 3.95284733e-05f}},
};

class RopeScalingTest : public ::testing::TestWithParam<Case> {};

TEST_P(RopeScalingTest, FrequenciesAreThoseOfTransformers) {
  const Case& c = GetParam();
  const TempDir dir;
  WriteFile(dir.File("config.json"),
            R"({"model_type": "llama", "vocab_size": 10, "hidden_size": 64,
                "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8,
                "head_dim": )" +
                std::to_string(c.head_dim) + ", " + c.settings + "}");
  const auto config = ReadModelConfig(dir.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_NEAR(config->rope_scaling.attention_factor, c.attention_factor, 1e-15);
  const std::vector<float> frequencies =
      ScaledFrequencies(config->rope_base, config->rotary_dim, config->rope_scaling);
  ASSERT_EQ(frequencies.size(), static_cast<size_t>(c.head_dim / 2));
  for (int i = 0; i < 8; ++i) {
    // Two libraries' powers may differ in the last bit or two.
    EXPECT_NEAR(frequencies[i * c.head_dim / 16] / c.frequencies[i], 1.0, 3e-7) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, RopeScalingTest, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace polystrate
