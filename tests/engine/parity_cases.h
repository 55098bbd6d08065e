// What the equality matrix is made of: models of every kind of sharing map, requests, and what is
// equal. (The axes: parity_test.cc, lookahead_parity_test.cc, device_parity_test.cc.)
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {

struct Map {
  const char* name;
  std::vector<int> kv_source;
  int num_kv_heads;
  bool parallel_residual = true;
  bool key_value_mlp = false;
  std::string model_type = "gpt_neox";
  bool separate_kv_norm = false;
  std::string norm_type = "rms_norm";
  int64_t head_dim = 0;
  std::string rope_scaling;
};

// Every kind of sharing map, with heads that tp divides and heads that it does not.
inline const std::vector<Map>& Maps() {
  static const std::vector<Map> maps = {
      {"mha", {0, 1, 2, 3, 4, 5}, 12},
      {"gqa", {0, 1, 2, 3, 4, 5}, 4},
      {"mqa_sequential", {0, 1, 2, 3, 4, 5}, 1, false},
      {"mlkv_m3_g3", {0, 0, 2, 2, 4, 4}, 3},
      {"mlkv_m4_g1", {0, 1, 1, 3, 4, 4}, 1},
      {"cla3_short_first", {0, 1, 1, 1, 4, 4}, 2},
      {"keep_ends", {0, 1, 1, 3, 3, 5}, 6},
      {"dense_front_mlp", {0, 1, 2, 2, 2, 5}, 2, true, true},
      {"interleaved", {0, 1, 0, 1, 4, 4}, 2},
      {.name = "llama_gqa_yarn",
       .kv_source = {0, 1, 2, 3, 4, 5},
       .num_kv_heads = 4,
       .model_type = "llama",
       .rope_scaling =
           R"({"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 32})"},
      {.name = "llama_cla2_kv_norm",
       .kv_source = {0, 0, 2, 2, 4, 4},
       .num_kv_heads = 3,
       .model_type = "llama",
       .separate_kv_norm = true,
       .norm_type = "layer_norm",
       .head_dim = 10},
      {.name = "qwen2_mqa_keep_ends",
       .kv_source = {0, 1, 1, 3, 3, 5},
       .num_kv_heads = 1,
       .model_type = "qwen2"},
      {.name = "qwen3_interleaved",
       .kv_source = {0, 1, 0, 1, 4, 4},
       .num_kv_heads = 2,
       .model_type = "qwen3",
       .separate_kv_norm = true,
       .head_dim = 14},
  };
  return maps;
}

inline TinyModelSpec Spec(const Map& map) {
  TinyModelSpec spec;
  spec.num_heads = 12;
  spec.hidden_size = 96;
  spec.num_layers = static_cast<int>(map.kv_source.size());
  spec.num_kv_heads = map.num_kv_heads;
  spec.kv_source = map.kv_source;
  spec.use_parallel_residual = map.parallel_residual;
  spec.use_key_value_mlp = map.key_value_mlp;
  spec.model_type = map.model_type;
  spec.separate_kv_norm = map.separate_kv_norm;
  spec.norm_type = map.norm_type;
  spec.explicit_head_dim = map.head_dim;
  spec.rope_scaling = map.rope_scaling;
  spec.rotary_pct = 0.5;
  spec.intermediate_size = 93;
  return spec;
}

inline GenerationRequest Request(std::vector<int32_t> prompt, int64_t max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.prompt_logprobs = true;
  request.sampling.temperature = 0.0;
  return request;
}

using Case = std::tuple<Map, ReuseKeys>;

inline std::string CaseName(const ::testing::TestParamInfo<Case>& test) {
  return std::string(std::get<0>(test.param).name) +
         (std::get<1>(test.param) == ReuseKeys::kPreRope ? "_pre_rope" : "_post_rope");
}

class Parity : public ::testing::TestWithParam<Case> {
 protected:
  // Scored prompts, all of whose rows are wanted, among others that prefill skips.
  Parity() {
    WriteTinyModel(dir_.path(), Spec(std::get<0>(GetParam())));
    for (int64_t length : {1, 7, 26, 19, 33}) {
      requests_.push_back(Request(RandomTokens(length, 96, length), 9));
    }
    requests_[2].prompt_logprobs = requests_[4].prompt_logprobs = false;
  }

  LocalEngineOptions Options() const {
    LocalEngineOptions options;
    options.reuse_keys = std::get<1>(GetParam());
    options.block_size = 4;
    return options;
  }
  std::vector<LocalOutput> Run(const LocalEngineOptions& options) const {
    return RunLocalEngine(dir_.path(), options, requests_).outputs;
  }
  // Same tokens; log-probabilities within `tolerance` (0: the same bits).
  void ExpectSame(const std::vector<LocalOutput>& got, double tolerance) const {
    ExpectSame(got, Run(Options()), tolerance);
  }
  static void ExpectSame(const std::vector<LocalOutput>& got,
                         const std::vector<LocalOutput>& expected, double tolerance) {
    for (size_t i = 0; i < expected.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "request " << i);
      EXPECT_EQ(got[i].token_ids, expected[i].token_ids);
      ASSERT_EQ(got[i].prompt_logprobs.size(), expected[i].prompt_logprobs.size());
      for (size_t t = 1; t < expected[i].prompt_logprobs.size(); ++t) {
        EXPECT_NEAR(got[i].prompt_logprobs[t], expected[i].prompt_logprobs[t], tolerance);
      }
      for (size_t t = 0; t < expected[i].logprobs.size(); ++t) {
        EXPECT_NEAR(got[i].logprobs[t], expected[i].logprobs[t], tolerance);
      }
    }
  }

  TempDir dir_;
  std::vector<GenerationRequest> requests_;
};

inline constexpr double kFloat32Tolerance = 1e-4;

}  // namespace polystrate
