#include "engine/model_config.h"

#include <gtest/gtest.h>

#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/testing/config_text.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/golden.h"
#include "tests/testing/mutate.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

// Pythia-160M's config.json with `changes`.
std::string ConfigJson(const Keys& changes) {
  return JsonOf({{"model_type", "\"gpt_neox\""},
                 {"vocab_size", "50304"},
                 {"hidden_size", "768"},
                 {"num_hidden_layers", "12"},
                 {"num_attention_heads", "12"},
                 {"intermediate_size", "3072"},
                 {"max_position_embeddings", "2048"},
                 {"rotary_pct", "0.25"},
                 {"rotary_emb_base", "10000"},
                 {"layer_norm_eps", "1e-05"},
                 {"hidden_act", "\"gelu\""},
                 {"use_parallel_residual", "true"},
                 {"tie_word_embeddings", "false"},
                 {"bos_token_id", "0"},
                 {"eos_token_id", "0"},
                 {"torch_dtype", "\"float16\""}},
                changes);
}

ModelConfig Read(const Keys& changes, const ModelOverrides& overrides = {}) {
  const auto config = ReadConfigText(ConfigJson(changes), overrides);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig{};
}

TEST(ModelConfigTest, ReadsStockPythia) {
  const ModelConfig config = Read({});
  EXPECT_EQ(config.vocab_size, 50304);
  EXPECT_EQ(config.hidden_size, 768);
  EXPECT_EQ(config.num_layers, 12);
  EXPECT_EQ(config.num_heads, 12);
  EXPECT_EQ(config.num_kv_heads, 12);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.intermediate_size, 3072);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_EQ(config.rotary_dim, 16);
  EXPECT_EQ(config.rope_base, 10000.0);
  EXPECT_EQ(config.activation, Activation::kGelu);
  EXPECT_TRUE(config.use_parallel_residual);
  EXPECT_TRUE(config.qkv_bias && config.output_bias && config.mlp_bias);
  EXPECT_FALSE(config.use_key_value_mlp);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{0});
  EXPECT_FALSE(config.sharing.shares());
  EXPECT_EQ(config.warning, "");
  EXPECT_EQ(config.torch_dtype, DType::kFloat16);
}

// The MLKV paper's nine models, by table 1.6 of its published code's arithmetic.
struct Variant {
  const char* name;
  int m, g;
  std::vector<int> owners;
  int64_t intermediate_size, parameters, kv_bytes;
};

TEST(ModelConfigTest, PaperVariantsHaveTheirParametersAndBytes) {
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const std::vector<int> every_third = {0, 3, 6, 9};
  const Variant variants[] = {{"MHA-144", 12, 12, all, 3072, 162322944, 36864},
                              {"GQA-48", 12, 4, all, 3584, 162316800, 12288},
                              {"MLKV-48", 4, 12, every_third, 3584, 162316800, 12288},
                              {"MQA-12", 12, 1, all, 3777, 162332940, 3072},
                              {"MLKV-12", 4, 3, every_third, 3777, 162332940, 3072},
                              {"MLKV-6", 6, 1, {0, 2, 4, 6, 8, 10}, 3809, 162332556, 1536},
                              {"MLKV-4", 4, 1, every_third, 3819, 162320132, 1024},
                              {"MLKV-2", 2, 1, {0, 6}, 3830, 162326152, 512},
                              {"MLKV-1", 1, 1, {0}, 3835, 162319940, 256}};
  for (const Variant& v : variants) {
    SCOPED_TRACE(v.name);
    const ModelConfig config = Read({{"num_key_value_layers", absl::StrCat(v.m)},
                                     {"num_key_value_heads", absl::StrCat(v.g)},
                                     {"intermediate_size", absl::StrCat(v.intermediate_size)},
                                     {"kv_intermediate_size", "24576"}});
    EXPECT_EQ(config.sharing.owners(), v.owners);
    EXPECT_EQ(config.NumParameters(), v.parameters);
    EXPECT_EQ(config.KvBytesPerToken(DType::kBFloat16), v.kv_bytes);
    EXPECT_EQ(config.KvBytesPerToken(DType::kFloat32), 2 * v.kv_bytes);
  }
}

TEST(ModelConfigTest, KeyValueMlpVariantHasItsParameters) {
  const ModelConfig config = Read({{"num_key_value_layers", "2"},
                                   {"num_key_value_heads", "1"},
                                   {"use_key_value_mlp", "true"},
                                   {"kv_intermediate_size", "4259"}});
  EXPECT_EQ(config.NumParameters(), 162339980);
  EXPECT_EQ(Read({{"kv_intermediate_size", "4259"}}).kv_intermediate_size, 0);
}

TEST(ModelConfigTest, ParametersCountTheTensorsOfTheFile) {
  TinyModelSpec tied, plain, mlp;
  tied.tie_word_embeddings = true;
  plain.attention_bias = false;
  plain.num_kv_layers = 2;
  mlp.use_key_value_mlp = true;
  mlp.num_kv_heads = 2;
  TinyModelSpec llama, qwen2, qwen3, cla;
  llama.model_type = "llama";
  llama.mlp_bias = true;
  llama.num_kv_layers = 2;
  qwen2.model_type = "qwen2";
  qwen2.tie_word_embeddings = true;
  qwen3.model_type = "qwen3";
  qwen3.num_kv_heads = 2;
  qwen3.explicit_head_dim = 10;
  qwen3.kv_source = {0, 0, 2, 2};
  cla.model_type = "mistral";
  cla.separate_kv_norm = true;
  cla.kv_source = {0, 1, 0, 1};
  TinyModelSpec layer_norm = cla;
  layer_norm.norm_type = "layer_norm";
  for (const TinyModelSpec& spec :
       {TinyModelSpec(), tied, plain, mlp, llama, qwen2, qwen3, cla, layer_norm}) {
    int64_t stored = 0;
    for (const auto& [name, values] : TinyModelWeights(spec))
      stored += static_cast<int64_t>(values.size());
    const auto config = ReadConfigText(TinyModelConfigJson(spec));
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->NumParameters(), stored);
  }
}

TEST(ModelConfigTest, RotarySettingsInEverySpelling) {
  const ModelConfig neox = Read({{"rotary_pct", "0.5"}, {"rotary_emb_base", "500"}});
  EXPECT_EQ(neox.rotary_dim, 32);
  EXPECT_EQ(neox.rope_base, 500);
  const Keys none = {{"rotary_pct", ""}, {"rotary_emb_base", ""}};
  EXPECT_EQ(Read(none).rotary_dim, 16);
  EXPECT_EQ(Read(none).rope_base, 10000);
  const Keys common = {{"rope_theta", "5e5"}, {"partial_rotary_factor", "1.0"}};
  EXPECT_EQ(Read(common).rotary_dim, 64);
  EXPECT_EQ(Read(common).rope_base, 5e5);
  const ModelConfig version5 = Read({{"rotary_pct", ""},
                                     {"rotary_emb_base", ""},
                                     {"rope_parameters",
                                      R"({"rope_theta": 20000.0, "partial_rotary_factor": 0.75,
                                          "rope_type": "default"})"}});
  EXPECT_EQ(version5.rotary_dim, 48);
  EXPECT_EQ(version5.rope_base, 20000);
  // What rope_parameters leaves out is still read where older files have it.
  EXPECT_EQ(Read({{"rope_parameters", R"({"rope_type": "default"})"}}).rotary_dim, 16);
  EXPECT_EQ(Read({{"rope_scaling", "null"}}).rotary_dim, 16);
  EXPECT_EQ(Read({{"rope_scaling", R"({"type": "default"})"}}).rotary_dim, 16);
  EXPECT_EQ(Read({{"rotary_pct", "0"}}).rotary_dim, 0);
}

TEST(ModelConfigTest, Activations) {
  EXPECT_EQ(Read({{"hidden_act", ""}}).activation, Activation::kGelu);
  for (const char* name : {"\"gelu_new\"", "\"gelu_fast\"", "\"gelu_pytorch_tanh\""})
    EXPECT_EQ(Read({{"hidden_act", name}}).activation, Activation::kGeluTanh);
  EXPECT_EQ(Read({{"hidden_act", "\"relu\""}}).activation, Activation::kRelu);
}

TEST(ModelConfigTest, SharingKeys) {
  const Keys null = {{"num_key_value_heads", "null"}, {"num_key_value_layers", "null"}};
  EXPECT_EQ(Read(null).num_kv_heads, 12);
  EXPECT_FALSE(Read(null).sharing.shares());
  EXPECT_EQ(Read({{"num_key_value_layers", "5"}}).sharing.owners(),
            (std::vector<int>{0, 2, 4, 7, 9}));
  // Not the integer rule: 14 * (30 / 22.) is just below 19.09, 11 * (30 / 22.) below 15.
  EXPECT_EQ(
      Read({{"num_hidden_layers", "30"}, {"num_key_value_layers", "22"}}).sharing.owners()[11], 14);
  const ModelConfig listed = Read({{"num_hidden_layers", "5"},
                                   {"num_key_value_layers", "1"},
                                   {"kv_source", "[0, 1, 0, 1, 4]"}});
  EXPECT_EQ(listed.sharing.kv_source, (std::vector<int>{0, 1, 0, 1, 4}));
}

TEST(ModelConfigTest, KeyRule) {
  const Keys shared = {{"num_key_value_layers", "4"}};
  EXPECT_EQ(Read(shared).reuse_keys, ReuseKeys::kPostRope);
  EXPECT_TRUE(absl::StrContains(Read(shared).warning, "pre_rope"));
  EXPECT_TRUE(absl::StrContains(Read(shared).warning, "--reuse_keys"));
  Keys named = shared;
  named["reuse_keys"] = "\"pre_rope\"";
  EXPECT_EQ(Read(named).reuse_keys, ReuseKeys::kPreRope);
  EXPECT_EQ(Read(named).warning, "");
  const ModelOverrides post = {.reuse_keys = ReuseKeys::kPostRope};
  EXPECT_EQ(Read(named, post).reuse_keys, ReuseKeys::kPostRope);
  EXPECT_EQ(Read(shared, post).warning, "");
  // Without rotary dimensions both rules are the same.
  Keys unrotated = shared;
  unrotated["rotary_pct"] = "0.0";
  EXPECT_EQ(Read(unrotated).warning, "");
}

TEST(ModelConfigTest, EndOfSequence) {
  EXPECT_TRUE(Read({{"eos_token_id", ""}}).eos_token_ids.empty());
  EXPECT_TRUE(Read({{"eos_token_id", "null"}}).eos_token_ids.empty());
  EXPECT_TRUE(Read({{"eos_token_id", "[]"}}).eos_token_ids.empty());
  const ModelConfig several = Read({{"eos_token_id", "[7, 50303]"}});
  EXPECT_EQ(several.eos_token_ids, (std::vector<int32_t>{7, 50303}));
}

TEST(ModelConfigTest, DTypeInBothSpellings) {
  EXPECT_EQ(Read({{"torch_dtype", ""}, {"dtype", "\"bfloat16\""}}).torch_dtype, DType::kBFloat16);
  EXPECT_EQ(Read({{"torch_dtype", "\"torch.float32\""}}).torch_dtype, DType::kFloat32);
  EXPECT_EQ(Read({{"torch_dtype", "\"auto\""}}).torch_dtype, std::nullopt);
  EXPECT_EQ(Read({{"torch_dtype", "null"}}).torch_dtype, std::nullopt);
}

TEST(ModelConfigTest, GoldenConfigsAreRead) {
  for (const std::string& file : GoldenFiles()) {
    const auto config = ReadConfigText(ReadGolden(file).config_json);
    EXPECT_TRUE(config.ok()) << file << ": " << config.status();
  }
}

TEST(ModelConfigTest, BadValuesAreNamed) {
  struct Case {
    Keys changes;
    std::string message;  // part of it
  };
  const std::string huge = "1e300";
  const Case cases[] = {
      {{{"model_type", ""}}, "\"model_type\" is missing"},
      {{{"model_type", "\"gpt2\""}},
       "\"gpt2\", expected a supported one: \"gpt_neox\" (GPT-NeoX, Pythia, MLKV), \"llama\", "
       "\"mistral\", \"qwen2\", \"qwen3\", \"lckv-llama\" (the Llama family)"},
      {{{"model_type", "3"}}, "\"model_type\" is 3"},
      {{{"vocab_size", ""}}, "\"vocab_size\" is missing"},
      {{{"vocab_size", "0"}}, "\"vocab_size\" is 0, expected an integer from 1 to 16777216"},
      {{{"vocab_size", "2147483648"}}, "\"vocab_size\" is 2147483648"},
      {{{"vocab_size", "-5"}}, "\"vocab_size\" is -5"},
      {{{"vocab_size", "10.5"}}, "\"vocab_size\" is 10.5"},
      {{{"vocab_size", "\"10\""}}, "\"vocab_size\" is the string \"10\""},
      {{{"vocab_size", huge}}, "\"vocab_size\" is 1"},
      {{{"hidden_size", "[768]"}}, "\"hidden_size\" is an array"},
      {{{"hidden_size", "4294967296"}}, "\"hidden_size\" is 4294967296"},
      {{{"num_hidden_layers", "0"}}, "\"num_hidden_layers\" is 0"},
      {{{"num_hidden_layers", "100000000"}}, "expected an integer from 1 to 4096"},
      {{{"num_attention_heads", "0"}}, "\"num_attention_heads\" is 0"},
      {{{"num_attention_heads", "7"}}, "is 7, expected a divisor of hidden_size, which is 768"},
      {{{"num_attention_heads", "769"}}, "expected an integer from 1 to 768"},
      {{{"head_dim", "32"}}, "\"head_dim\" is 32, expected 64"},
      {{{"intermediate_size", "-1"}}, "\"intermediate_size\" is -1"},
      {{{"max_position_embeddings", "0"}}, "\"max_position_embeddings\" is 0"},
      {{{"num_key_value_heads", "5"}}, "is 5, expected a divisor of num_attention_heads"},
      {{{"num_key_value_heads", "0"}}, "\"num_key_value_heads\" is 0"},
      {{{"num_key_value_heads", "24"}}, "expected an integer from 1 to 12"},
      {{{"num_key_value_layers", "0"}}, "\"num_key_value_layers\" is 0"},
      {{{"num_key_value_layers", "13"}}, "expected an integer from 1 to 12"},
      {{{"kv_source", "[0, 0]"}}, "\"kv_source\" is an array of 2, expected one layer for each"},
      {{{"kv_source", "\"0_0_2_2\""}}, "has 4 entries; expected one for each of the 12 layers"},
      {{{"kv_source", "\"cla\""}}, "\"cla\" is no sharing map; expected the layer that each layer"},
      {{{"kv_source", "[0,0,0,0,0,0,0,0,0,0,0,11.5]"}}, "\"kv_source\" is 11.5"},
      {{{"kv_source", "[0,0,0,0,0,0,0,0,0,0,0,12]"}}, "\"kv_source\" is 12"},
      {{{"kv_source", "[0,5,0,0,0,5,0,0,0,0,0,0]"}}, "kv_source: "},
      {{{"use_key_value_mlp", "true"}}, "\"kv_intermediate_size\" is missing"},
      {{{"use_key_value_mlp", "1"}}, "\"use_key_value_mlp\" is 1, expected true or false"},
      {{{"layer_norm_eps", "0"}}, "\"layer_norm_eps\" is 0"},
      {{{"layer_norm_eps", "-1e-5"}}, "\"layer_norm_eps\" is -1"},
      {{{"layer_norm_eps", "NaN"}}, "config.json"},
      {{{"rotary_emb_base", "0"}}, "the rotary base (rope_theta or rotary_emb_base) is 0"},
      {{{"rotary_emb_base", "-2"}}, "is -2"},
      {{{"rotary_emb_base", "1e999"}}, "config.json"},
      {{{"rotary_emb_base", "1e300"}}, "expected a number above 0 and at most 1e30"},
      {{{"rotary_pct", "1.5"}}, "the rotary share (partial_rotary_factor or rotary_pct) is 1.5"},
      {{{"rotary_pct", "-0.5"}}, "expected a number from 0 to 1"},
      {{{"rotary_pct", "0.05"}}, "even number of the 64 dimensions of a head, not 3"},
      {{{"rope_scaling", R"({"type": "longrope", "factor": 2.0})"}},
       "\"longrope\", expected a supported rotary scaling: default, linear, dynamic, yarn or "
       "llama3"},
      {{{"rope_scaling", R"({"type": "linear"})"}}, "\"factor\" is missing"},
      {{{"rope_scaling", R"({"type": "linear", "factor": 0.5})"}},
       "\"factor\" is 0.5, expected a number from 1 to 1e9"},
      {{{"rope_scaling", R"({"type": "dynamic"})"}}, "\"factor\" is missing"},
      {{{"rope_scaling", R"({"rope_type": "yarn", "factor": 2, "beta_fast": 0})"}},
       "\"beta_fast\" is 0"},
      {{{"rope_scaling",
         R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4})"}},
       "\"high_freq_factor\" is 4, expected a number above low_freq_factor"},
      {{{"rope_scaling", R"({"rope_type": "llama3", "factor": 8})"}},
       "\"low_freq_factor\" is missing"},
      {{{"rope_scaling", "2.0"}}, "\"rope_scaling\" is 2, expected an object"},
      {{{"rope_parameters", R"({"rope_type": 3})"}}, "\"rope_type\" is 3"},
      {{{"hidden_act", "\"mish\""}}, "\"mish\", expected one of gelu, gelu_new"},
      {{{"hidden_act", "3"}}, "\"hidden_act\" is 3"},
      {{{"reuse_keys", "\"rope\""}}, "expected \"post_rope\" or \"pre_rope\""},
      {{{"eos_token_id", "50304"}},
       "\"eos_token_id\" is 50304, expected an integer from 0 to 50303"},
      {{{"eos_token_id", "[0, -1]"}}, "\"eos_token_id\" is -1"},
      {{{"eos_token_id", "{}"}}, "\"eos_token_id\" is an object"},
      {{{"tie_word_embeddings", "\"no\""}}, "\"tie_word_embeddings\" is the string"},
  };
  for (const Case& c : cases) {
    const auto config = ReadConfigText(ConfigJson(c.changes));
    const std::string what =
        absl::StrCat(c.changes.begin()->first, ": ", c.changes.begin()->second);
    const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
    EXPECT_TRUE(Fails(config.status(), invalid, c.message)) << what;
    EXPECT_TRUE(Fails(config.status(), invalid, "config.json")) << what;
  }
}

TEST(ModelConfigTest, BadFiles) {
  const TempDir dir;
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  const absl::StatusCode not_found = absl::StatusCode::kNotFound;
  const std::string absent = dir.File("absent");
  EXPECT_TRUE(Fails(ReadModelConfig(dir.path()).status(), not_found, dir.File("config.json")));
  EXPECT_TRUE(Fails(ReadModelConfig(absent).status(), not_found, absent));
  for (const char* text : {"", "{", "[]", "3", "null", "\"gpt_neox\"", "{\"model_type\": }"})
    EXPECT_TRUE(Fails(ReadConfigText(text).status(), invalid, "config.json")) << text;
  const std::string twice = R"({"model_type": "gpt_neox", "model_type": "gpt_neox"})";
  EXPECT_TRUE(Fails(ReadConfigText(twice).status(), invalid, "duplicate key \"model_type\""));
  EXPECT_TRUE(Fails(ReadConfigText(std::string(2 << 20, ' ')).status(), invalid, "2097152 bytes"));
}

// Whatever the bytes, the answer is a config that keeps its own promises, or INVALID_ARGUMENT.
TEST(ModelConfigTest, MutatedFilesNeverCrash) {
  const TempDir dir;
  const std::string original = ConfigJson({{"num_key_value_layers", "4"},
                                           {"num_key_value_heads", "3"},
                                           {"kv_source", "[0,0,2,2,4,4,6,6,8,8,10,10]"},
                                           {"rope_parameters", R"({"rope_type": "default"})"}});
  std::mt19937 random(20261121);
  int accepted = 0;
  for (int round = 0; round < 1500; ++round) {
    const std::string text = Mutate(original, &random);
    WriteFile(dir.File("config.json"), text);
    const auto config = ReadModelConfig(dir.path());
    if (!config.ok()) {
      ASSERT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
      continue;
    }
    ++accepted;
    ASSERT_TRUE(config->sharing.Validate().ok()) << text;
    ASSERT_EQ(config->sharing.num_layers(), config->num_layers) << text;
    ASSERT_GE(config->head_dim, 1) << text;
    ASSERT_EQ(config->num_heads % config->num_kv_heads, 0) << text;
    ASSERT_LE(config->rotary_dim, config->head_dim) << text;
    ASSERT_GT(config->NumParameters(), 0) << text;
    ASSERT_GT(config->KvBytesPerToken(DType::kFloat32), 0) << text;
  }
  EXPECT_GT(accepted, 75);
  EXPECT_LT(accepted, 1400);
}

}  // namespace
}  // namespace polystrate
