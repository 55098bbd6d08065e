// The sampling flags of generate and client. A flag that is not given leaves the choice to the
// engine, as an absent field on the wire does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/request.h"
#include "launcher/flags.h"

namespace openengine::v1 {
class GenerateRequest;
}

namespace polystrate {

struct SamplingFlags {
  int64_t max_tokens = 128;
  std::optional<int64_t> min_tokens;
  std::optional<int64_t> n;
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> frequency_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> repetition_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::optional<std::string> stop_token_ids;
  bool include_stop_in_output = false;
  bool ignore_eos = false;

  void AddTo(FlagSet* flags);

  // What is given, into a request. INVALID_ARGUMENT names a flag whose number the field cannot
  // hold; ranges are the engine's to check.
  absl::Status Fill(GenerationRequest* request) const;
  absl::Status Fill(openengine::v1::GenerateRequest* request) const;
};

}  // namespace polystrate
