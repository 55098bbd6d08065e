// `polystrate plan`: what would run where and how much fits, from config.json alone: no weights, no
// tokenizer, no MPI. It prints what SetUpModel decides, the same that serve and generate obey.
#pragma once

#include <string>

#include "launcher/engine_setup.h"

namespace polystrate {

// For people: a few aligned tables, ends with a line break.
std::string PlanText(const ModelSetup& setup);
// For programs: one line of JSON. kv_bytes_per_token is the whole model's, that of a stage is one
// rank's; legal_cuts are interior; max_sequences are of max_model_len tokens; copies are KV heads
// that the ranks of a stage hold beyond the model's own.
std::string PlanJson(const ModelSetup& setup);

}  // namespace polystrate
