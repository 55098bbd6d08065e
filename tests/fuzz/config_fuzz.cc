// Input: config.json, and after a NUL byte, if there is one, what --kv_source says. Whatever they
// hold, the answer is a config that keeps its own promises and can be planned for, or
// INVALID_ARGUMENT.

#include "engine/model_config.h"
#include "engine/model_cost.h"
#include "kernels/core/check.h"
#include "parallel/kv_source_text.h"
#include "parallel/stage_plan.h"
#include "tests/fuzz/json_mutator.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

void CheckConfig(const ModelConfig& config) {
  CHECK(config.sharing.Validate().ok());
  CHECK_EQ(config.sharing.num_layers(), config.num_layers);
  CHECK_GE(config.head_dim, 1);
  CHECK_EQ(config.num_heads % config.num_kv_heads, 0);
  CHECK_LE(config.rotary_dim, config.head_dim);
  CHECK_GT(config.NumParameters(), 0);
  CHECK_GT(config.KvBytesPerToken(DType::kFloat32), 0);
  for (const int32_t id : config.eos_token_ids) CHECK(id >= 0 && id < config.vocab_size);
  if (config.num_layers > 64) return;  // planning takes their square
  for (const int pp_size : {1, 2, 4}) {
    const auto plan = PlanStages(config.sharing, StageCostsOf(config), pp_size);
    if (plan.ok()) CHECK_EQ(plan->stages.back().end_layer, config.num_layers);
  }
}

}  // namespace
}  // namespace polystrate

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return polystrate::MutateJsonInput(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polystrate;
  static const TempDir dir;
  const JsonInput input = JsonInput::From(data, size);
  ModelOverrides overrides;
  if (!input.rest.empty()) {
    overrides.kv_source = input.rest;
    for (const int num_layers : {1, 4, 27}) {
      const auto sharing = ParseKvSource(input.rest, num_layers);
      if (sharing.ok()) CHECK(sharing->Validate().ok());
    }
  }
  WriteFile(dir.File("config.json"), input.json);
  const auto config = ReadModelConfig(dir.path(), overrides);
  if (config.ok()) {
    CheckConfig(*config);
  } else {
    CHECK(config.status().code() == absl::StatusCode::kInvalidArgument);
  }
  return 0;
}
