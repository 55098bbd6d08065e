#include "tests/testing/golden.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "engine/json.h"
#include "engine/json_writer.h"
#include "kernels/core/check.h"
#include "tests/testing/counter_weights.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxGoldenBytes = 16 << 20;

void Write(const JsonView& value, JsonWriter* out) {
  if (value.IsObject()) {
    out->BeginObject();
    for (const auto& [key, member] : value.Members()) {
      out->Key(key);
      Write(member, out);
    }
    out->EndObject();
  } else if (value.IsArray()) {
    out->BeginArray();
    for (const JsonView& element : value.Elements()) Write(element, out);
    out->EndArray();
  } else if (value.IsString()) {
    out->String(value.AsString("").value());
  } else if (value.IsNumber()) {
    out->Double(value.AsDouble("").value());
  } else if (value.IsBool()) {
    out->Bool(value.AsBool("").value());
  } else {
    out->Null();
  }
}

template <typename T>
std::vector<T> Integers(const JsonView& array) {
  std::vector<T> integers;
  for (const JsonView& element : array.Elements())
    integers.push_back(static_cast<T>(element.AsInt("element").value()));
  return integers;
}

std::vector<std::string> JsonFiles(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(SourceFile(folder), missing))
    if (entry.path().extension() == ".json") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::vector<std::string> GoldenFiles() { return JsonFiles("tests/golden"); }

std::vector<std::string> ReferenceDecodeFiles() {
  return JsonFiles("tests/golden/reference_decode");
}

Golden ReadGolden(const std::string& path) {
  const Json json = Json::ReadFile(path, kMaxGoldenBytes).value();
  const JsonView root = json.root();
  Golden golden;
  golden.name = root.GetString("name").value();
  golden.source = root.GetString("source").value();
  JsonWriter config;
  Write(root.GetObject("config").value(), &config);
  golden.config_json = config.text();
  for (const auto& [name, shape] : root.GetObject("tensors")->Members())
    golden.tensors.emplace(name, Integers<int64_t>(shape));
  const JsonView weights = root.GetObject("weights").value();
  golden.model_seed = static_cast<uint64_t>(weights.GetInt("model_seed").value());
  golden.gain = weights.GetDouble("gain").value();
  golden.token_ids = Integers<int32_t>(root.GetArray("token_ids").value());
  golden.positions = Integers<int64_t>(root.GetArray("positions").value());
  golden.vocab_ids = Integers<int32_t>(root.GetArray("vocab_ids").value());
  golden.argmax = Integers<int32_t>(root.GetArray("argmax").value());
  golden.logit_scale = root.GetDouble("logit_scale").value();
  for (const JsonView& row : root.GetArray("logits")->Elements()) {
    std::vector<double>& logits = golden.logits.emplace_back();
    for (const JsonView& logit : row.Elements()) logits.push_back(logit.AsDouble("logits").value());
    CHECK_EQ(logits.size(), golden.vocab_ids.size());
  }
  CHECK_EQ(golden.logits.size(), golden.positions.size());
  CHECK_EQ(golden.argmax.size(), golden.positions.size());
  return golden;
}

void WriteGoldenModel(const std::string& dir, const Golden& golden) {
  WriteFile(dir + "/config.json", golden.config_json);
  std::vector<StoredTensor> tensors;
  for (const auto& [name, shape] : golden.tensors) {
    const std::vector<float> values = CounterWeights(name, shape, golden.model_seed, golden.gain);
    tensors.push_back({name, "F32", shape, EncodeFloats(values, "F32")});
  }
  WriteCheckpoint(dir, tensors, /*num_shards=*/1);
}

}  // namespace polystrate
