#include "tests/testing/convert_golden.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/checkpoint.h"
#include "engine/json.h"
#include "kernels/core/check.h"
#include "tests/testing/counter_weights.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

ConvertGolden ReadCase(const JsonView& json, uint64_t seed) {
  const auto integer = [&json](const char* key) {
    return static_cast<int>(json.GetInt(key).value());
  };
  ConvertGolden golden;
  golden.name = json.GetString("name").value();
  TinyModelSpec& model = golden.model;
  model.vocab_size = 31;
  model.num_layers = integer("layers");
  model.num_heads = integer("heads");
  model.fused_qkv = integer("stored_kv_heads") == model.num_heads;
  if (!model.fused_qkv) model.num_kv_heads = integer("stored_kv_heads");
  model.hidden_size = integer("hidden_size");
  model.intermediate_size = integer("intermediate_size");
  model.rotary_pct = 0.5;  // of 4 dimensions
  model.dtype = json.GetString("dtype").value();
  model.seed = seed;
  for (const JsonView& layer : json.GetArray("kv_source")->Elements())
    golden.options.sharing.kv_source.push_back(static_cast<int>(layer.AsInt("").value()));
  golden.options.num_kv_heads = integer("kv_heads");
  const bool mean = json.GetString("pool").value() == "mean";
  golden.options.pooling = mean ? Pooling::kMean : Pooling::kSequential;
  golden.options.grow_mlp = json.GetBool("grow_mlp").value();
  golden.intermediate_size = integer("new_intermediate_size");
  golden.num_tensors = integer("num_tensors");
  for (const auto& [part, hash] : json.GetObject("hashes")->Members())
    golden.hashes[std::string(part)] = std::string(hash.AsString("hash").value());
  return golden;
}

}  // namespace

std::vector<ConvertGolden> ReadConvertGoldens() {
  const std::string path = SourceFile("tests/golden/convert/cases.json");
  const Json json = Json::ReadFile(path, 1 << 20).value();
  const auto seed = static_cast<uint64_t>(json.root().GetInt("model_seed").value());
  std::vector<ConvertGolden> goldens;
  for (const JsonView& element : json.root().GetArray("cases")->Elements())
    goldens.push_back(ReadCase(element, seed));
  return goldens;
}

void WriteConvertGoldenModel(const std::string& dir, const ConvertGolden& golden) {
  TinyModelSpec spec = golden.model;
  spec.edit = [&spec](std::vector<StoredTensor>* tensors) {
    for (StoredTensor& tensor : *tensors) {
      tensor.bytes = EncodeFloats(CounterWeights(tensor.name, tensor.shape, spec.seed), spec.dtype);
    }
  };
  WriteTinyModel(dir, spec);
}

std::string HashOfPart(const std::string& dir, const std::string& part, int num_layers) {
  const Checkpoint checkpoint = Checkpoint::Open(dir).value();
  uint64_t hash = 0xCBF29CE484222325;  // FNV-1a
  for (int layer = 0; layer < num_layers; ++layer) {
    const std::string prefix =
        absl::StrCat("gpt_neox.layers.", layer, ".", part == "mlp" ? "" : "attention.", part, ".");
    for (const auto& [name, entry] : checkpoint.entries()) {
      if (!absl::StartsWith(name, prefix)) continue;
      std::string bytes(static_cast<size_t>(entry.info->end - entry.info->begin), '\0');
      CHECK(entry.file->ReadBytes(*entry.info, 0, static_cast<int64_t>(bytes.size()), bytes.data())
                .ok());
      for (const char byte : bytes) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001B3;
    }
  }
  return absl::StrFormat("%016x", hash);
}

}  // namespace polystrate
