// The conversions of tests/golden/convert/cases.json, whose results tools/make_convert_golden.py
// computed by other means.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/conversion_plan.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {

struct ConvertGolden {
  std::string name;
  TinyModelSpec model;  // values are those of the tensors' names (WriteConvertGoldenModel)
  ConversionOptions options;
  int64_t intermediate_size = 0;  // of the result
  int64_t num_tensors = 0;
  std::map<std::string, std::string> hashes;  // by part of a layer: query, key, value, mlp
};

std::vector<ConvertGolden> ReadConvertGoldens();
// Into `dir`, which exists. Fused projections too have values by their own name.
void WriteConvertGoldenModel(const std::string& dir, const ConvertGolden& golden);
// The hash of one part over all layers of a written model, as the golden has it.
std::string HashOfPart(const std::string& dir, const std::string& part, int num_layers);

}  // namespace polystrate
