#include "engine/weights.h"

#include <gtest/gtest.h>

#include <functional>
#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/golden.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

using Weights = std::map<std::string, std::vector<float>>;

// A matrix by rows, and what of it a rank should hold.
std::vector<float> Slice(const std::vector<float>& matrix, int64_t columns, int64_t row_begin,
                         int64_t num_rows, int64_t column_begin, int64_t num_columns) {
  std::vector<float> slice;
  for (int64_t row = row_begin; row < row_begin + num_rows; ++row) {
    const auto begin = matrix.begin() + row * columns + column_begin;
    slice.insert(slice.end(), begin, begin + num_columns);
  }
  return slice;
}

float At(const Tensor& tensor, int64_t index) {
  return tensor.dtype() == DType::kFloat32 ? tensor.data<float>()[index]
                                           : tensor.data<BFloat16>()[index].ToFloat();
}

// Every element of `tensor` in its leading rows and columns equals `expected`, the rest is zero.
// bfloat16 tensors hold what the values round to.
void ExpectPadded(const Tensor& tensor, int64_t rows, int64_t columns,
                  const std::vector<float>& expected, const std::string& what) {
  ASSERT_FALSE(tensor.empty()) << what;
  ASSERT_EQ(static_cast<int64_t>(expected.size()), rows * columns) << what;
  const int64_t stored_columns = tensor.rank() == 2 ? tensor.dim(1) : 1;
  for (int64_t row = 0; row < tensor.dim(0); ++row) {
    for (int64_t column = 0; column < stored_columns; ++column) {
      float value = row < rows && column < columns ? expected[row * columns + column] : 0.0f;
      if (tensor.dtype() == DType::kBFloat16) value = BFloat16::FromFloat(value).ToFloat();
      ASSERT_EQ(At(tensor, row * stored_columns + column), value)
          << what << " [" << row << ", " << column << "]";
    }
  }
}

// Holds one rank's weights against the whole model's.
class RankChecker {
 public:
  RankChecker(const TinyModelSpec& spec, const Topology& topology, const StageWeights& weights)
      : spec_(spec),
        truth_(TinyModelWeights(spec)),
        topology_(topology),
        weights_(weights),
        heads_(ShardHeads(spec.num_heads, spec.kv_heads(), topology.config.tp_size,
                          topology.tp_rank())) {}

  void Check() {
    const int64_t hidden_size = spec_.hidden_size;
    const int tp_size = topology_.config.tp_size;
    const ShardRange vocab = Split(spec_.vocab_size, tp_size, topology_.tp_rank(), 1);
    const auto table = [&](const std::string& name) {
      return Slice(truth_.at(name), hidden_size, vocab.begin, vocab.count, 0, hidden_size);
    };
    const std::string embedding(names_.embedding);
    EXPECT_EQ(weights_.embedding.empty(), !topology_.first_stage());
    EXPECT_EQ(weights_.lm_head.empty(), !topology_.last_stage());
    if (topology_.first_stage())
      ExpectPadded(weights_.embedding, vocab.count, hidden_size, table(embedding), "embedding");
    if (topology_.last_stage()) {
      Norm(std::string(names_.final_norm), weights_.final_norm);
      ExpectPadded(weights_.lm_head, vocab.count, hidden_size,
                   table(spec_.tie_word_embeddings ? embedding : std::string(names_.lm_head)),
                   "lm_head");
    }
    for (const LayerWeights& layer : weights_.layers) Layer(layer);
  }

 private:
  void Norm(const std::string& name, const NormWeights& norm) {
    const int64_t size = spec_.hidden_size;
    ExpectPadded(norm.weight, size, 1, truth_.at(name + ".weight"), name);
    ASSERT_EQ(norm.bias.empty(), !spec_.norms_have_bias()) << name;
    if (spec_.norms_have_bias()) ExpectPadded(norm.bias, size, 1, truth_.at(name + ".bias"), name);
    EXPECT_EQ(norm.weight.dtype(), DType::kFloat32);
  }

  void HeadNorm(const std::string& name, const Tensor& norm, bool expected) {
    ASSERT_EQ(norm.empty(), !expected) << name;
    if (expected) ExpectPadded(norm, spec_.head_dim(), 1, truth_.at(name + ".weight"), name);
  }

  void Columns(const std::string& name, int64_t in, int64_t begin, int64_t count,
               const LinearWeights& linear, bool bias) {
    ExpectPadded(linear.weight, count, in,
                 Slice(truth_.at(name + ".weight"), in, begin, count, 0, in), name);
    ASSERT_EQ(linear.bias.empty(), !bias) << name;
    if (bias)
      ExpectPadded(linear.bias, count, 1, Slice(truth_.at(name + ".bias"), 1, begin, count, 0, 1),
                   name);
  }

  void Rows(const std::string& name, int64_t in, int64_t begin, int64_t count,
            const LinearWeights& linear, bool bias) {
    const int64_t out = spec_.hidden_size;
    ExpectPadded(linear.weight, out, count,
                 Slice(truth_.at(name + ".weight"), in, 0, out, begin, count), name);
    // The bias is on tp_rank 0 alone.
    ASSERT_EQ(linear.bias.empty(), !bias || topology_.tp_rank() != 0) << name;
    if (!linear.bias.empty()) ExpectPadded(linear.bias, out, 1, truth_.at(name + ".bias"), name);
  }

  // Rows [row, row + count * head_dim) of qkv_proj are the heads of `name` from `begin` on.
  void Heads(const std::string& name, const LinearWeights& qkv, int64_t row, int begin, int count) {
    const int64_t rows = count * spec_.head_dim();
    const LinearWeights part = {qkv.weight.Rows(row, rows),
                                spec_.qkv_has_bias() ? qkv.bias.Rows(row, rows) : Tensor()};
    Columns(name, spec_.hidden_size, begin * spec_.head_dim(), rows, part, spec_.qkv_has_bias());
  }

  void KeyValueMlp(const std::string& name, const KeyValueMlpWeights& mlp) {
    const int64_t inner = spec_.kv_intermediate_size;
    Columns(name + ".dense_in", spec_.hidden_size, 0, inner, mlp.dense_in, spec_.qkv_has_bias());
    const int64_t rows = heads_.kv_count * spec_.head_dim();
    ExpectPadded(mlp.dense_out.weight, rows, inner,
                 Slice(truth_.at(name + ".dense_out.weight"), inner,
                       heads_.kv_begin * spec_.head_dim(), rows, 0, inner),
                 name);
    EXPECT_EQ(mlp.dense_out.weight.dim(0), rows);
    EXPECT_EQ(mlp.dense_in.weight.dim(0), mlp.dense_out.weight.dim(1));
  }

  void Layer(const LayerWeights& layer) {
    const auto name = [&](absl::string_view stem) { return names_.InLayer(layer.layer, stem); };
    const bool owner = spec_.sharing().owns(layer.layer);
    const bool plain = owner && !spec_.use_key_value_mlp;
    const int64_t head_dim = spec_.head_dim();
    const int64_t query_rows = heads_.query_count * head_dim;
    const int64_t kv_rows = heads_.kv_count * head_dim;
    EXPECT_EQ(layer.owner, owner);
    Norm(name(names_.input_norm), layer.input_layernorm);
    Norm(name(names_.post_attention_norm), layer.post_attention_layernorm);
    ASSERT_EQ(layer.kv_layernorm.weight.empty(), !owner || !spec_.separate_kv_norm);
    if (owner && spec_.separate_kv_norm) Norm(name(names_.kv_norm), layer.kv_layernorm);
    HeadNorm(name(names_.query_norm), layer.q_norm, spec_.qk_norm());
    HeadNorm(name(names_.key_norm), layer.k_norm, spec_.qk_norm() && owner);
    ASSERT_EQ(layer.qkv_proj.weight.dim(0), query_rows + (plain ? 2 * kv_rows : 0));
    Heads(name(names_.query), layer.qkv_proj, 0, heads_.query_begin, heads_.query_count);
    if (plain) {
      Heads(name(names_.key), layer.qkv_proj, query_rows, heads_.kv_begin, heads_.kv_count);
      Heads(name(names_.value), layer.qkv_proj, query_rows + kv_rows, heads_.kv_begin,
            heads_.kv_count);
    }
    ASSERT_EQ(layer.key_mlp.dense_in.weight.empty(), !owner || plain);
    if (owner && !plain) {
      KeyValueMlp(name(names_.key), layer.key_mlp);
      KeyValueMlp(name(names_.value), layer.value_mlp);
    }
    Rows(name(names_.output), spec_.num_heads * head_dim, heads_.query_begin * head_dim, query_rows,
         layer.o_proj, spec_.output_has_bias());
    Mlp(layer);
  }

  void Mlp(const LayerWeights& layer) {
    const auto name = [&](absl::string_view stem) { return names_.InLayer(layer.layer, stem); };
    const ShardRange mlp =
        Split(spec_.intermediate_size, topology_.config.tp_size, topology_.tp_rank(), 32);
    const bool bias = spec_.mlp_has_bias();
    const bool gated = !spec_.neox();
    ASSERT_EQ(layer.gate_up_proj.weight.dim(0), (gated ? 2 : 1) * mlp.padded);
    const auto half = [&](int64_t row) {
      return LinearWeights{layer.gate_up_proj.weight.Rows(row, mlp.padded),
                           bias ? layer.gate_up_proj.bias.Rows(row, mlp.padded) : Tensor()};
    };
    if (gated) Columns(name(names_.gate), spec_.hidden_size, mlp.begin, mlp.count, half(0), bias);
    Columns(name(names_.up), spec_.hidden_size, mlp.begin, mlp.count, half(gated ? mlp.padded : 0),
            bias);
    Rows(name(names_.down), spec_.intermediate_size, mlp.begin, mlp.count, layer.down_proj, bias);
    EXPECT_EQ(layer.down_proj.weight.dim(1), mlp.padded);
  }

  const TinyModelSpec& spec_;
  const TensorNames& names_ = spec_.names();
  const Weights truth_;
  const Topology topology_;
  const StageWeights& weights_;
  const HeadShard heads_;
};

absl::StatusOr<StageWeights> Load(const std::string& dir, const Topology& topology, DType dtype) {
  auto config = ReadModelConfig(dir);
  if (!config.ok()) return config.status();
  const int pp_size = topology.config.pp_size;
  Stage stage;
  stage.first_layer = config->num_layers * topology.pp_rank() / pp_size;
  stage.end_layer = config->num_layers * (topology.pp_rank() + 1) / pp_size;
  return LoadStageWeights(dir, *config, topology, stage, dtype, Device{});
}

// Loads and checks every rank of a world.
void CheckWorld(const TinyModelSpec& spec, const ParallelConfig& parallel, DType dtype) {
  SCOPED_TRACE(absl::StrCat("tp ", parallel.tp_size, ", pp ", parallel.pp_size, ", ", Name(dtype)));
  const TempDir dir;
  WriteTinyModel(dir.path(), spec);
  for (int rank = 0; rank < parallel.world_size(); ++rank) {
    const Topology topology(parallel, rank);
    const auto weights = Load(dir.path(), topology, dtype);
    ASSERT_TRUE(weights.ok()) << weights.status();
    RankChecker(spec, topology, *weights).Check();
  }
}

struct StorageCase {
  const char* name;
  TinyModelSpec spec;
};

std::ostream& operator<<(std::ostream& out, const StorageCase& param) { return out << param.name; }

std::vector<StorageCase> StorageCases() {
  TinyModelSpec stock, fused, mlkv, mqa, mlp, source, plain, mixed, traps;
  fused.fused_qkv = true;
  fused.num_shards = 3;
  mlkv.num_kv_heads = 3;
  mlkv.num_kv_layers = 2;
  mlkv.intermediate_size = 97;
  mqa.num_kv_heads = 1;
  mqa.num_layers = 5;
  mqa.num_kv_layers = 3;
  mqa.dtype = "BF16";
  mlp.num_kv_heads = 2;
  mlp.num_kv_layers = 2;
  mlp.use_key_value_mlp = true;
  mlp.kv_intermediate_size = 37;
  source.kv_source = {0, 1, 0, 1};
  source.num_kv_heads = 2;
  source.num_shards = 2;
  plain.attention_bias = false;
  plain.tie_word_embeddings = true;
  plain.vocab_size = 101;
  plain.dtype = "F16";
  mixed.mixed_dtypes = true;
  mixed.fused_qkv = true;
  mixed.intermediate_size = 3;  // fewer rows than ranks times the padding
  traps.num_kv_heads = 1;
  traps.num_kv_layers = 1;
  traps.dead_kv = TinyModelSpec::DeadTensors::kNan;
  traps.buffers = true;
  traps.mixed_dtypes = true;
  TinyModelSpec llama, qwen2, qwen3, cla;
  llama.model_type = "llama";
  llama.num_kv_heads = 2;
  llama.mlp_bias = true;
  llama.num_kv_layers = 2;
  llama.dead_kv = TinyModelSpec::DeadTensors::kNan;
  llama.buffers = true;
  qwen2.model_type = "qwen2";
  qwen2.tie_word_embeddings = true;
  qwen2.num_shards = 2;
  qwen3.model_type = "qwen3";
  qwen3.num_kv_heads = 1;
  qwen3.explicit_head_dim = 10;
  qwen3.attention_bias = false;
  qwen3.intermediate_size = 3;
  cla.model_type = "llama";
  cla.attention_bias = false;
  cla.kv_source = {0, 0, 2, 2};
  cla.separate_kv_norm = true;
  cla.norm_type = "layer_norm";
  cla.mixed_dtypes = true;
  return {{"Llama", llama}, {"Qwen2", qwen2},     {"Qwen3", qwen3}, {"Cla", cla},
          {"Stock", stock}, {"Fused", fused},     {"Mlkv", mlkv},   {"Mqa", mqa},
          {"KvMlp", mlp},   {"KvSource", source}, {"Plain", plain}, {"Mixed", mixed},
          {"Traps", traps}};
}

class WeightsStorageTest : public testing::TestWithParam<StorageCase> {};

TEST_P(WeightsStorageTest, EveryRankHoldsItsShare) {
  for (const int tp_size : {1, 2, 3, 6})
    CheckWorld(GetParam().spec, {tp_size, tp_size == 2 ? 2 : 1}, DType::kFloat32);
  CheckWorld(GetParam().spec, {1, 4}, DType::kBFloat16);
  CheckWorld(GetParam().spec, {2, 1}, DType::kBFloat16);
}

INSTANTIATE_TEST_SUITE_P(All, WeightsStorageTest, testing::ValuesIn(StorageCases()),
                         [](const auto& param) { return param.param.name; });

absl::StatusOr<StageWeights> LoadTiny(const TinyModelSpec& spec,
                                      const ParallelConfig& parallel = {},
                                      DType dtype = DType::kFloat32) {
  const TempDir dir;
  WriteTinyModel(dir.path(), spec);
  return Load(dir.path(), Topology(parallel, 0), dtype);
}

TinyModelSpec Mlkv() {
  TinyModelSpec spec;
  spec.num_kv_heads = 1;
  spec.num_kv_layers = 2;
  return spec;
}

TEST(WeightsTest, DeadTensorsOfAnyShapeMakeNoDifference) {
  for (const auto dead :
       {TinyModelSpec::DeadTensors::kNan, TinyModelSpec::DeadTensors::kWrongShape}) {
    TinyModelSpec spec = Mlkv();
    spec.dead_kv = dead;
    CheckWorld(spec, {2, 2}, DType::kFloat32);
  }
}

TEST(WeightsTest, TensorsOfOtherModelsMakeNoDifference) {
  TinyModelSpec spec = Mlkv();
  spec.edit = [](std::vector<StoredTensor>* tensors) {
    tensors->push_back({"gpt_neox.layers.0.attention.rotary_emb.cos", "F64", {1}, "12345678"});
    tensors->push_back({"gpt_neox.layers.99.mlp.dense_h_to_4h.weight", "U8", {0}, ""});
  };
  CheckWorld(spec, {1, 1}, DType::kFloat32);
}

TEST(WeightsTest, BytesAreThoseOfTheShare) {
  const auto weights = LoadTiny(Mlkv(), {2, 1}, DType::kBFloat16);
  ASSERT_TRUE(weights.ok()) << weights.status();
  // bfloat16 matrices: 48 of 96 rows twice; per layer query 24 x 48, dense 48 x 24, two of 64 x 48
  // for the MLP's 100 rows; K and V of one head in two owners. float32 norms and biases.
  const int64_t matrices = 2 * 48 * 48 + 4 * (2 * 24 * 48 + 2 * 64 * 48) + 2 * 2 * 8 * 48;
  const int64_t vectors = 9 * 2 * 48 + 4 * (24 + 48 + 64 + 48) + 2 * 2 * 8;
  const int64_t exact = 2 * matrices + 4 * vectors;
  EXPECT_GE(weights->num_bytes(), exact);
  EXPECT_LT(weights->num_bytes(), exact + 64 * 50);  // every tensor begins on a cache line
}

TEST(WeightsTest, GoldenCheckpointsLoad) {
  for (const std::string& file : GoldenFiles()) {
    const TempDir dir;
    const Golden golden = ReadGolden(file);
    if (absl::StrContains(file, "_shape")) continue;  // large, nothing else
    WriteGoldenModel(dir.path(), golden);
    const auto weights = Load(dir.path(), Topology({1, 2}, 1), DType::kFloat32);
    EXPECT_TRUE(weights.ok()) << file << ": " << weights.status();
  }
}

// An edit that changes the one tensor whose name is given.
auto Edit(const std::string& name, const std::function<void(StoredTensor*)>& change) {
  return [=](std::vector<StoredTensor>* tensors) {
    int found = 0;
    for (StoredTensor& tensor : *tensors) {
      if (tensor.name != name) continue;
      change(&tensor);
      ++found;
    }
    ASSERT_EQ(found, 1) << name;
  };
}
auto Rename(const std::string& name) {
  return Edit(name, [](StoredTensor* tensor) { tensor->name += "_"; });
}
auto Reshape(const std::string& name, const std::vector<int64_t>& shape) {
  return Edit(name, [=](StoredTensor* tensor) { tensor->shape = shape; });
}
auto Retype(const std::string& name, const std::string& dtype) {
  return Edit(name, [=](StoredTensor* tensor) { tensor->dtype = dtype; });
}

TEST(WeightsTest, MissingTensorsAreNamed) {
  const std::string layer = "gpt_neox.layers.2.";
  for (const std::string& name :
       {std::string("gpt_neox.embed_in.weight"), layer + "input_layernorm.weight",
        layer + "post_attention_layernorm.bias", layer + "attention.query.weight",
        layer + "attention.key.bias", layer + "attention.value.weight",
        layer + "attention.dense.bias", layer + "mlp.dense_h_to_4h.bias",
        layer + "mlp.dense_4h_to_h.weight", std::string("gpt_neox.final_layer_norm.weight"),
        std::string("embed_out.weight")}) {
    TinyModelSpec spec = Mlkv();
    spec.edit = Rename(name);
    EXPECT_TRUE(Fails(LoadTiny(spec).status(), absl::StatusCode::kNotFound,
                      "tensor '" + name + "' is missing from "));
  }
}

TEST(WeightsTest, BadTensorsAreNamed) {
  TinyModelSpec fused;
  fused.fused_qkv = true;
  struct Case {
    TinyModelSpec spec;
    std::function<void(std::vector<StoredTensor>*)> edit;
    std::string message;
  };
  const std::string query = "gpt_neox.layers.0.attention.query.weight";
  const std::string value = "gpt_neox.layers.2.attention.value.weight";
  const std::string fused_name = "gpt_neox.layers.1.attention.query_key_value.weight";
  const Case cases[] = {
      {Mlkv(), Reshape(query, {24, 96}),
       "has shape [24, 96]; by config.json it should be [48, 48]"},
      {Mlkv(), Reshape(query, {48 * 48}), "has shape [2304]; by config.json it should be [48, 48]"},
      {Mlkv(), Reshape(value, {48, 8}), "tensor '" + value + "' in "},
      {Mlkv(), Reshape("gpt_neox.embed_in.weight", {48, 96}), "it should be [96, 48]"},
      {Mlkv(), Retype(value, "I32"), "is stored as I32; a weight must be F32, F16 or BF16"},
      {fused, Reshape(fused_name, {48, 144}), "has shape [48, 144]; by config.json it should be "},
      {Mlkv(),
       [](std::vector<StoredTensor>* tensors) {
         for (StoredTensor& t : *tensors)
           if (t.name.rfind("gpt_neox.", 0) == 0) t.name = t.name.substr(9);
       },
       "the bare model without its LM head"},
      {Mlkv(),
       [](std::vector<StoredTensor>* tensors) {
         for (StoredTensor& t : *tensors)
           t.name =
               absl::StrReplaceAll(t.name, {{"attention.query.", "attention.query_key_value."}});
       },
       "by config.json num_key_value_heads is 1"}};
  for (const Case& c : cases) {
    TinyModelSpec spec = c.spec;
    spec.edit = c.edit;
    EXPECT_TRUE(Fails(LoadTiny(spec).status(), absl::StatusCode::kInvalidArgument, c.message));
  }
}

TEST(WeightsTest, WhatCannotBeDoneIsRefused) {
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_TRUE(Fails(LoadTiny(Mlkv(), {4, 1}).status(), invalid, "--tp 4 does not divide"));
  EXPECT_TRUE(Fails(LoadTiny(Mlkv(), {}, DType::kFloat16).status(), invalid,
                    "weights cannot be held in float16"));
}

}  // namespace
}  // namespace polystrate
