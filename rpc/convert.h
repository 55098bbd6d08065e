// Between the wire (openengine.v1) and the engine's own words. Pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "openengine_control.pb.h"
#include "openengine_generate.pb.h"

namespace polystrate {

class Tokenizer;
namespace pb = openengine::v1;

// INVALID_ARGUMENT unless it is at most 256 visible ASCII characters: it is echoed as metadata,
// which takes no others.
absl::Status CheckRequestId(const std::string& id);

// UNIMPLEMENTED names a field that is set and not supported (one that is set to what its absence
// means is fine), INVALID_ARGUMENT one that is out of range, NOT_FOUND a model that is not served
// here. Ranges that only the engine knows are left to Engine::Submit. `tokenizer` may be null: text
// prompts are refused then.
absl::StatusOr<GenerationRequest> FromWire(const pb::GenerateRequest& wire,
                                           const std::string& model_id, const Tokenizer* tokenizer);
// OK when `model` is empty or the one that is served.
absl::Status CheckModel(const std::string& model, const std::string& model_id);

// Log-probability, rank and candidates where the request asked for them. An output's token has the
// text that came with it; tokens of a prompt and candidates have their own (Tokenizer::TokenText),
// none when `tokenizer` is null.
void ToWire(const TokenInfo& token, const Tokenizer* tokenizer, pb::TokenInfo* wire);
void ToWire(int32_t token_id, const PromptScore& score, const Tokenizer* tokenizer,
            pb::TokenInfo* wire);
void ToWire(const Finished& finished, pb::GenerationFinished* wire);
void ToWire(const RequestUsage& usage, pb::Usage* wire);
void ToWire(const absl::Status& status, pb::EngineError* wire);
absl::Status FromWire(const pb::EngineError& wire);
pb::HealthState ToWire(EngineState state);

}  // namespace polystrate
