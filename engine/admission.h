// Admission: may a request run here at all? Pure; what depends on the moment (queue, drain, live
// ids) is the engine's to ask.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/request.h"

namespace polystrate {

struct EngineOptions;

// GenerationRequest::num_sequences at most.
int64_t MaxNumSequences(const EngineOptions& options);

// How many tokens each of its outputs may have. INVALID_ARGUMENT names the field and its range;
// RESOURCE_EXHAUSTED: an output could never fit the KV cache.
absl::StatusOr<int64_t> Admit(const GenerationRequest& request, const EngineOptions& options,
                              bool has_tokenizer);

}  // namespace polystrate
