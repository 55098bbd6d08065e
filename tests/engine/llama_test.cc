// What engine/llama.cc makes of config.json.

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "engine/model_config.h"
#include "tests/testing/config_text.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/mutate.h"

namespace polystrate {
namespace {

// Llama-3.2-1B's config.json with `changes`, shortened to four layers.
std::string LlamaJson(const Keys& changes) {
  return JsonOf(
      {{"model_type", "\"llama\""},
       {"vocab_size", "128256"},
       {"hidden_size", "2048"},
       {"num_hidden_layers", "4"},
       {"num_attention_heads", "32"},
       {"num_key_value_heads", "8"},
       {"head_dim", "64"},
       {"intermediate_size", "8192"},
       {"max_position_embeddings", "131072"},
       {"rope_theta", "500000.0"},
       {"rope_scaling", R"({"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                  "original_max_position_embeddings": 8192, "rope_type": "llama3"})"},
       {"rms_norm_eps", "1e-05"},
       {"hidden_act", "\"silu\""},
       {"attention_bias", "false"},
       {"mlp_bias", "false"},
       {"tie_word_embeddings", "true"},
       {"eos_token_id", "[128001, 128008, 128009]"},
       {"torch_dtype", "\"bfloat16\""}},
      changes);
}

ModelConfig ReadLlama(const Keys& changes, const ModelOverrides& overrides = {}) {
  const auto config = ReadConfigText(LlamaJson(changes), overrides);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig{};
}

TEST(LlamaTest, ReadsLlama) {
  const ModelConfig config = ReadLlama({});
  EXPECT_EQ(config.num_kv_heads, 8);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.rotary_dim, 64);
  EXPECT_EQ(config.rope_base, 500000.0);
  EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(config.norm, NormKind::kRmsNorm);
  EXPECT_FALSE(config.norm_bias);
  EXPECT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_EQ(config.activation, Activation::kSilu);
  EXPECT_TRUE(config.gated_mlp && config.tie_word_embeddings);
  EXPECT_FALSE(config.use_parallel_residual || config.qk_norm || config.separate_kv_norm);
  EXPECT_FALSE(config.qkv_bias || config.output_bias || config.mlp_bias);
  EXPECT_EQ(config.eos_token_ids.size(), 3u);
  EXPECT_EQ(config.torch_dtype, DType::kBFloat16);
  EXPECT_EQ(config.sliding_window, 0);
}

TEST(LlamaTest, FamiliesDifferInBiasesAndNorms) {
  const Keys biased = {{"attention_bias", "true"}, {"mlp_bias", "true"}};
  const auto read = [&](const std::string& type) {
    Keys keys = biased;
    keys["model_type"] = "\"" + type + "\"";
    keys["sliding_window"] = "null";
    return ReadLlama(keys);
  };
  const ModelConfig llama = read("llama"), mistral = read("mistral");
  const ModelConfig qwen2 = read("qwen2"), qwen3 = read("qwen3");
  EXPECT_TRUE(llama.qkv_bias && llama.output_bias && llama.mlp_bias);
  EXPECT_FALSE(mistral.qkv_bias || mistral.output_bias || mistral.mlp_bias);
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.mlp_bias);
  EXPECT_TRUE(qwen3.qkv_bias && qwen3.output_bias && !qwen3.mlp_bias);
  EXPECT_TRUE(qwen3.qk_norm && !qwen2.qk_norm && !llama.qk_norm);
  EXPECT_TRUE(ReadLlama({{"model_type", "\"qwen2\""}}).qkv_bias);
  // Qwen3's own default, not hidden_size / num_attention_heads.
  EXPECT_EQ(ReadLlama({{"model_type", "\"qwen3\""}, {"head_dim", ""}}).head_dim, 128);
}

TEST(LlamaTest, HeadsNeedNotFillTheHiddenSize) {
  const ModelConfig h46 =
      ReadLlama({{"num_attention_heads", "45"}, {"num_key_value_heads", "1"}, {"head_dim", "46"}});
  EXPECT_EQ(h46.num_heads * h46.head_dim, 2070);
  EXPECT_EQ(h46.hidden_size, 2048);
}

TEST(LlamaTest, OurKeysForCla) {
  const ModelConfig cla = ReadLlama({{"norm_type", "\"layer_norm\""},
                                     {"layer_norm_eps", "1e-3"},
                                     {"separate_kv_norm", "true"},
                                     {"kv_source", "\"cla2\""}});
  EXPECT_EQ(cla.norm, NormKind::kLayerNorm);
  EXPECT_TRUE(cla.norm_bias && cla.separate_kv_norm);
  EXPECT_EQ(cla.norm_epsilon, 1e-3f);
  EXPECT_EQ(cla.sharing.kv_source, (std::vector<int>{0, 0, 2, 2}));
  EXPECT_EQ(cla.warning, "");  // no checkpoints of this family follow another key rule
  EXPECT_FALSE(ReadLlama({{"norm_type", "\"layer_norm\""}, {"norm_bias", "false"}}).norm_bias);
}

TEST(LlamaTest, SharingByFlagListAndString) {
  const Keys listed = {{"kv_source", "[0, 0, 0, 3]"}};
  EXPECT_EQ(ReadLlama(listed).sharing.owners(), (std::vector<int>{0, 3}));
  EXPECT_EQ(ReadLlama(listed, {.kv_source = "0,1,1,0"}).sharing.kv_source,
            (std::vector<int>{0, 1, 1, 0}));
  const Keys lckv = {{"model_type", "\"lckv-llama\""}, {"layer_types", "\"0_0_2_0\""}};
  EXPECT_EQ(ReadLlama(lckv).sharing.kv_source, (std::vector<int>{0, 0, 2, 0}));
  // transformers' own layer_types is a list and says nothing about sharing.
  const Keys list = {{"layer_types", R"(["full_attention", "full_attention"])"}};
  EXPECT_FALSE(ReadLlama(list).sharing.shares());
}

TEST(LlamaTest, SlidingWindows) {
  const auto window = [](const std::string& type, Keys keys) {
    keys["model_type"] = "\"" + type + "\"";
    return ReadLlama(keys).sliding_window;
  };
  EXPECT_EQ(window("llama", {{"sliding_window", "512"}}), 0);
  EXPECT_EQ(window("mistral", {{"sliding_window", "512"}}), 512);
  EXPECT_EQ(window("mistral", {{"sliding_window", "null"}}), 0);
  EXPECT_EQ(window("mistral", {}), 4096);  // transformers' default
  for (const char* qwen : {"qwen2", "qwen3"}) {
    EXPECT_EQ(window(qwen, {{"sliding_window", "512"}}), 0);
    const Keys used = {{"use_sliding_window", "true"}, {"sliding_window", "512"}};
    Keys from_two = used, from_four = used, full = used, mixed = used;
    from_two["max_window_layers"] = "2";
    from_four["max_window_layers"] = "4";
    full["layer_types"] = R"(["full_attention", "full_attention"])";
    mixed["layer_types"] = R"(["full_attention", "sliding_attention"])";
    EXPECT_EQ(window(qwen, from_two), 512);
    EXPECT_EQ(window(qwen, from_four), 0);
    EXPECT_EQ(window(qwen, full), 0);
    EXPECT_EQ(window(qwen, mixed), 512);
  }
  EXPECT_EQ(window("lckv-llama", {{"layer_types", "\"0_0s_2s_2\""}, {"sliding_window", "1024"}}),
            1024);
  EXPECT_EQ(window("lckv-llama", {{"layer_types", "\"0_0_2_2\""}, {"sliding_window", "1024"}}), 0);

  const ModelConfig config = ReadLlama({{"model_type", "\"mistral\""}, {"sliding_window", "4096"}});
  EXPECT_TRUE(CheckSlidingWindow(config, 4096).ok());
  EXPECT_TRUE(Fails(CheckSlidingWindow(config, 4097), absl::StatusCode::kInvalidArgument,
                    "Say --max_model_len 4096"));
}

TEST(LlamaTest, BadValuesAreNamed) {
  struct Case {
    Keys changes;
    std::string message;  // part of it
  };
  const std::string lckv = "\"lckv-llama\"", qwen2 = "\"qwen2\"";
  const Case cases[] = {
      {{{"model_type", "\"gemma\""}}, "\"lckv-llama\" (the Llama family)"},
      {{{"head_dim", ""}, {"num_attention_heads", "24"}},
       "a divisor of hidden_size, which is 2048, or a head_dim beside it"},
      {{{"head_dim", "45"}, {"rope_scaling", ""}}, "an even number of the 45 dimensions"},
      {{{"head_dim", "0"}}, "\"head_dim\" is 0"},
      {{{"num_key_value_heads", "5"}}, "is 5, expected a divisor of num_attention_heads"},
      {{{"partial_rotary_factor", "0.5"}}, "leaves 32 of the 64 dimensions of a head"},
      {{{"hidden_act", "\"mish\""}}, "\"mish\", expected one of gelu"},
      {{{"norm_type", "\"group_norm\""}}, "\"group_norm\", expected \"rms_norm\" or"},
      {{{"rms_norm_eps", "0"}}, "\"rms_norm_eps\" is 0"},
      {{{"separate_kv_norm", "1"}}, "\"separate_kv_norm\" is 1"},
      {{{"kv_source", "[0, 2, 2, 2]"}}, "kv_source[1] is 2; expected 0 to 1"},
      {{{"kv_source", "[0, 0, 1, 1]"}}, "layer 1 has no KV cache: it reads layer 0"},
      {{{"layer_types", "\"0_3_3_3\""}}, "layer 1 reads layer 3 above it"},
      {{{"layer_types", "\"0_3_3_3\""}}, "computed several times over"},
      {{{"layer_types", "\"0_0_1_1\""}}, "layer_types: kv_source[2] is 1, but layer 1 has no"},
      {{{"layer_types", "\"0_0_x_2\""}}, "layer_types: "},
      {{{"layer_types", "\"0_0_2\""}}, "3 entries; expected one for each of the 4 layers"},
      {{{"model_type", lckv}, {"layer_types", "\"0_0s_2_2\""}}, "\"sliding_window\" is missing"},
      {{{"model_type", qwen2}, {"layer_types", "[\"chunked_attention\"]"}},
       "expected \"full_attention\" or \"sliding_attention\""},
      {{{"rope_scaling", R"({"rope_type": "longrope"})"}}, "default, linear, dynamic, yarn"},
      {{{"rope_scaling", R"({"rope_type": "yarn", "attention_factor": 0})"}},
       "\"attention_factor\" is 0"},
  };
  for (const Case& c : cases) {
    const auto config = ReadConfigText(LlamaJson(c.changes));
    EXPECT_TRUE(Fails(config.status(), absl::StatusCode::kInvalidArgument, c.message));
    EXPECT_TRUE(Fails(config.status(), absl::StatusCode::kInvalidArgument, "config.json"));
  }
  EXPECT_TRUE(Fails(ReadConfigText(LlamaJson({}), {.kv_source = "0,1"}).status(),
                    absl::StatusCode::kInvalidArgument, "--kv_source: "));
}

// Whatever the bytes, the answer is a config that keeps its own promises, or INVALID_ARGUMENT.
TEST(LlamaTest, MutatedFilesNeverCrash) {
  const std::string originals[] = {
      LlamaJson({{"layer_types", "\"0_0s_2_2\""}, {"sliding_window", "512"}}),
      LlamaJson({{"rope_scaling", R"({"rope_type": "yarn", "factor": 4.0, "mscale": 0.7,
                     "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096})"}})};
  std::mt19937 random(20261121);
  int accepted = 0;
  for (int round = 0; round < 1000; ++round) {
    const std::string text = Mutate(originals[round % 2], &random);
    const auto config = ReadConfigText(text);
    if (!config.ok()) {
      ASSERT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
      continue;
    }
    ++accepted;
    ASSERT_TRUE(config->sharing.Validate().ok()) << text;
    ASSERT_GE(config->head_dim, 1) << text;
    ASSERT_EQ(config->num_heads % config->num_kv_heads, 0) << text;
    ASSERT_GT(config->NumParameters(), 0) << text;
    for (const float f :
         ScaledFrequencies(config->rope_base, config->rotary_dim, config->rope_scaling)) {
      ASSERT_TRUE(std::isfinite(f)) << text;
    }
  }
  EXPECT_GT(accepted, 50);
  EXPECT_LT(accepted, 950);
}

}  // namespace
}  // namespace polystrate
