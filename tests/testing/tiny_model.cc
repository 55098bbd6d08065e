#include "tests/testing/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/core/check.h"
#include "tests/testing/counter_weights.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

using Shape = std::vector<int64_t>;

struct NamedShape {
  std::string name;
  Shape shape;
};

void AddLinear(const std::string& name, int64_t out, int64_t in, bool bias,
               std::vector<NamedShape>* list) {
  list->push_back({name + ".weight", {out, in}});
  if (bias) list->push_back({name + ".bias", {out}});
}

void AddNorm(const std::string& name, const TinyModelSpec& spec, std::vector<NamedShape>* list) {
  list->push_back({name + ".weight", {spec.hidden_size}});
  if (spec.norms_have_bias()) list->push_back({name + ".bias", {spec.hidden_size}});
}

// What an owner has and a reuser has not; `key` and `value` are whole names.
void AddKeyAndValue(int layer, const TinyModelSpec& spec, std::vector<NamedShape>* list) {
  const int64_t out = spec.kv_heads() * spec.head_dim();
  const bool bias = spec.qkv_has_bias();
  for (const absl::string_view stem : {spec.names().key, spec.names().value}) {
    const std::string name = spec.names().InLayer(layer, stem);
    if (!spec.use_key_value_mlp) {
      AddLinear(name, out, spec.hidden_size, bias, list);
      continue;
    }
    AddLinear(name + ".dense_in", spec.kv_intermediate_size, spec.hidden_size, bias, list);
    AddLinear(name + ".dense_out", out, spec.kv_intermediate_size, bias, list);
  }
  if (spec.qk_norm()) {
    const std::string norm = spec.names().InLayer(layer, spec.names().key_norm);
    list->push_back({norm + ".weight", {spec.head_dim()}});
  }
  if (spec.separate_kv_norm) AddNorm(spec.names().InLayer(layer, spec.names().kv_norm), spec, list);
}

// The model's weights, query, key and value apart.
std::vector<NamedShape> SeparateShapes(const TinyModelSpec& spec) {
  const int64_t hidden_size = spec.hidden_size;
  const int64_t query_size = spec.num_heads * spec.head_dim();
  const KvSharing sharing = spec.sharing();
  const TensorNames& names = spec.names();
  std::vector<NamedShape> list = {{std::string(names.embedding), {spec.vocab_size, hidden_size}}};
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    const auto name = [&](absl::string_view stem) { return names.InLayer(layer, stem); };
    AddNorm(name(names.input_norm), spec, &list);
    AddNorm(name(names.post_attention_norm), spec, &list);
    AddLinear(name(names.query), query_size, hidden_size, spec.qkv_has_bias(), &list);
    if (sharing.owns(layer)) AddKeyAndValue(layer, spec, &list);
    if (spec.qk_norm()) list.push_back({name(names.query_norm) + ".weight", {spec.head_dim()}});
    AddLinear(name(names.output), hidden_size, query_size, spec.output_has_bias(), &list);
    const int64_t inner = spec.intermediate_size;
    if (!spec.neox()) AddLinear(name(names.gate), inner, hidden_size, spec.mlp_has_bias(), &list);
    AddLinear(name(names.up), inner, hidden_size, spec.mlp_has_bias(), &list);
    AddLinear(name(names.down), hidden_size, inner, spec.mlp_has_bias(), &list);
  }
  AddNorm(std::string(names.final_norm), spec, &list);
  if (!spec.tie_word_embeddings)
    list.push_back({std::string(names.lm_head), {spec.vocab_size, hidden_size}});
  return list;
}

// Query, key and value of one layer as [heads, {query, key, value}, head_dim] rows.
std::vector<float> Interleave(const std::vector<float> parts[3], int64_t num_heads) {
  const auto head_size = static_cast<int64_t>(parts[0].size()) / num_heads;
  std::vector<float> fused;
  fused.reserve(3 * parts[0].size());
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int part = 0; part < 3; ++part) {
      const auto begin = parts[part].begin() + head * head_size;
      fused.insert(fused.end(), begin, begin + head_size);
    }
  }
  return fused;
}

std::string DTypeOf(const TinyModelSpec& spec, size_t index) {
  constexpr const char* kMixed[] = {"F32", "F16", "BF16"};
  return spec.mixed_dtypes ? kMixed[index % 3] : spec.dtype;
}

StoredTensor Store(const TinyModelSpec& spec, size_t index, const NamedShape& tensor) {
  const std::string dtype = DTypeOf(spec, index);
  const auto make = [&spec](const std::string& name, const Shape& shape) {
    return CounterWeights(name, shape, spec.seed, spec.gain);
  };
  const size_t at = tensor.name.find("query_key_value");
  if (at == std::string::npos) {
    return {tensor.name, dtype, tensor.shape, EncodeFloats(make(tensor.name, tensor.shape), dtype)};
  }
  Shape part_shape = tensor.shape;
  part_shape[0] /= 3;
  std::vector<float> parts[3];
  constexpr const char* kParts[] = {"query", "key", "value"};
  for (int part = 0; part < 3; ++part) {
    std::string name = tensor.name;
    name.replace(at, std::string("query_key_value").size(), kParts[part]);
    parts[part] = make(name, part_shape);
  }
  return {tensor.name, dtype, tensor.shape, EncodeFloats(Interleave(parts, spec.num_heads), dtype)};
}

// The shapes as they are stored: query, then key and value right after it, become one tensor.
std::vector<NamedShape> StoredShapes(const TinyModelSpec& spec) {
  std::vector<NamedShape> list = SeparateShapes(spec);
  if (!spec.fused_qkv) return list;
  CHECK(!spec.sharing().shares() && spec.kv_heads() == spec.num_heads && !spec.use_key_value_mlp);
  std::erase_if(list, [](const NamedShape& tensor) {
    return absl::StrContains(tensor.name, ".key.") || absl::StrContains(tensor.name, ".value.");
  });
  for (NamedShape& tensor : list) {
    const size_t at = tensor.name.find("query.");
    if (at == std::string::npos) continue;
    tensor.name.replace(at, 5, "query_key_value");
    tensor.shape[0] *= 3;
  }
  return list;
}

void AddDeadTensors(const TinyModelSpec& spec, std::vector<StoredTensor>* tensors) {
  const KvSharing sharing = spec.sharing();
  const bool wrong_shape = spec.dead_kv == TinyModelSpec::DeadTensors::kWrongShape;
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    if (sharing.owns(layer)) continue;
    std::vector<NamedShape> dead;
    AddKeyAndValue(layer, spec, &dead);
    for (NamedShape& tensor : dead) {
      if (wrong_shape) tensor.shape = {3, 1, 2};
      int64_t count = 1;
      for (const int64_t dim : tensor.shape) count *= dim;
      const std::vector<float> values(static_cast<size_t>(count), NAN);
      tensors->push_back({tensor.name, "F32", tensor.shape, EncodeFloats(values, "F32")});
    }
  }
}

void AddBuffers(const TinyModelSpec& spec, std::vector<StoredTensor>* tensors) {
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    const std::string name = spec.names().InLayer(layer, spec.neox() ? "attention." : "self_attn.");
    tensors->push_back({name + "bias", "BOOL", {1, 1, 16, 16}, std::string(256, '\1')});
    tensors->push_back({name + "masked_bias", "F32", {}, EncodeFloats({-1e9f}, "F32")});
    tensors->push_back(
        {name + "rotary_emb.inv_freq", "F32", {2}, EncodeFloats({1.0f, 0.01f}, "F32")});
  }
}

// The settings by which the families differ, each followed by a comma.
std::string FamilyJson(const TinyModelSpec& spec) {
  const auto boolean = [](bool value) { return value ? "true" : "false"; };
  if (spec.neox()) {
    return absl::StrFormat(
        R"("architectures": ["GPTNeoXForCausalLM"], "rotary_pct": %.17g, "rotary_emb_base": %.17g, )"
        R"("layer_norm_eps": %.17g, "use_parallel_residual": %s, "use_key_value_mlp": %s, )"
        R"("kv_intermediate_size": %d, )",
        spec.rotary_pct, spec.rotary_emb_base, spec.layer_norm_eps,
        boolean(spec.use_parallel_residual), boolean(spec.use_key_value_mlp),
        spec.kv_intermediate_size);
  }
  std::string json = absl::StrFormat(
      R"("rope_theta": %.17g, "rms_norm_eps": %.17g, "layer_norm_eps": %.17g, "mlp_bias": %s, )"
      R"("separate_kv_norm": %s, "norm_type": "%s", "sliding_window": null, )",
      spec.rotary_emb_base, spec.layer_norm_eps, spec.layer_norm_eps, boolean(spec.mlp_bias),
      boolean(spec.separate_kv_norm), spec.norm_type);
  if (!spec.rope_scaling.empty())
    absl::StrAppend(&json, "\"rope_scaling\": ", spec.rope_scaling, ", ");
  return json;
}

}  // namespace

KvSharing TinyModelSpec::sharing() const {
  if (!kv_source.empty()) return {kv_source};
  if (num_kv_layers == 0) return KvSharing::AllOwn(num_layers);
  return KvSharing::Mlkv(num_layers, num_kv_layers).value();
}

const TensorNames& TinyModelSpec::names() const { return ArchitectureOf(model_type)->tensors; }

bool TinyModelSpec::qkv_has_bias() const {
  return model_type == "qwen2" || (model_type != "mistral" && attention_bias);
}

bool TinyModelSpec::output_has_bias() const {
  return model_type != "qwen2" && model_type != "mistral" && attention_bias;
}

bool TinyModelSpec::mlp_has_bias() const { return neox() || (model_type == "llama" && mlp_bias); }

std::string TinyModelConfigJson(const TinyModelSpec& spec) {
  std::string json = absl::StrFormat(
      R"({"model_type": "%s", %s"vocab_size": %d, "hidden_size": %d, "num_hidden_layers": %d, )"
      R"("num_attention_heads": %d, "intermediate_size": %d, "max_position_embeddings": %d, )"
      R"("hidden_act": "%s", "attention_bias": %s, "tie_word_embeddings": %s, "eos_token_id": %d)",
      spec.model_type, FamilyJson(spec), spec.vocab_size, spec.hidden_size, spec.num_layers,
      spec.num_heads, spec.intermediate_size, spec.max_position_embeddings, spec.hidden_act,
      spec.attention_bias ? "true" : "false", spec.tie_word_embeddings ? "true" : "false",
      spec.eos_token_id);
  if (!spec.neox()) absl::StrAppend(&json, ", \"head_dim\": ", spec.head_dim());
  if (spec.num_kv_heads != 0)
    absl::StrAppend(&json, ", \"num_key_value_heads\": ", spec.num_kv_heads);
  if (spec.num_kv_layers != 0)
    absl::StrAppend(&json, ", \"num_key_value_layers\": ", spec.num_kv_layers);
  if (!spec.kv_source.empty())
    absl::StrAppend(&json, ", \"kv_source\": [", absl::StrJoin(spec.kv_source, ", "), "]");
  if (!spec.reuse_keys.empty())
    absl::StrAppend(&json, ", \"reuse_keys\": \"", spec.reuse_keys, "\"");
  return json + "}\n";
}

std::vector<StoredTensor> TinyModelTensors(const TinyModelSpec& spec) {
  std::vector<StoredTensor> tensors;
  for (const NamedShape& tensor : StoredShapes(spec))
    tensors.push_back(Store(spec, tensors.size(), tensor));
  if (spec.dead_kv != TinyModelSpec::DeadTensors::kNone) AddDeadTensors(spec, &tensors);
  if (spec.buffers) AddBuffers(spec, &tensors);
  return tensors;
}

void WriteTinyModel(const std::string& dir, const TinyModelSpec& spec) {
  WriteFile(dir + "/config.json", TinyModelConfigJson(spec));
  std::vector<StoredTensor> tensors = TinyModelTensors(spec);
  if (spec.edit) spec.edit(&tensors);
  WriteCheckpoint(dir, tensors, spec.num_shards);
}

void WriteCheckpoint(const std::string& dir, const std::vector<StoredTensor>& tensors,
                     int num_shards) {
  if (num_shards == 1) return WriteSafetensors(dir + "/model.safetensors", tensors);
  std::vector<std::string> weight_map;
  const size_t per_shard = (tensors.size() + num_shards - 1) / num_shards;
  for (int shard = 0; shard < num_shards; ++shard) {
    const std::string file =
        absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, num_shards);
    const auto begin = tensors.begin() + std::min(tensors.size(), shard * per_shard);
    const auto end = tensors.begin() + std::min(tensors.size(), (shard + 1) * per_shard);
    WriteSafetensors(absl::StrCat(dir, "/", file), {begin, end});
    for (auto it = begin; it != end; ++it)
      weight_map.push_back(absl::StrCat("\"", it->name, "\": \"", file, "\""));
  }
  WriteFile(dir + "/model.safetensors.index.json",
            absl::StrCat("{\"metadata\": {\"total_size\": 0},\n \"weight_map\": {\n  ",
                         absl::StrJoin(weight_map, ",\n  "), "}}\n"));
}

std::map<std::string, std::vector<float>> TinyModelWeights(const TinyModelSpec& spec) {
  std::map<std::string, std::vector<float>> weights;
  for (const StoredTensor& tensor : TinyModelTensors(spec)) {
    if (tensor.dtype == "BOOL") continue;
    std::vector<float> values = DecodeFloats(tensor.bytes, tensor.dtype);
    const size_t at = tensor.name.find("query_key_value");
    if (at == std::string::npos) {
      weights[tensor.name] = std::move(values);
      continue;
    }
    const size_t head_size = values.size() / (3 * spec.num_heads);
    constexpr const char* kParts[] = {"query", "key", "value"};
    for (size_t i = 0; i < values.size(); i += head_size) {
      std::string name = tensor.name;
      name.replace(at, std::string("query_key_value").size(), kParts[i / head_size % 3]);
      const auto begin = values.begin() + static_cast<int64_t>(i);
      weights[name].insert(weights[name].end(), begin, begin + static_cast<int64_t>(head_size));
    }
  }
  return weights;
}

}  // namespace polystrate
