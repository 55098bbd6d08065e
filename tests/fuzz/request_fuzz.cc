// Input: the bytes of a GenerateRequest. Whatever they hold, the request is refused with one of the
// statuses that clients know, or admitted; and then a life of made-up tokens ends every output
// once, in whole UTF-8 characters.

#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "engine/admission.h"
#include "engine/engine.h"
#include "engine/live_request.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "kernels/core/check.h"
#include "rpc/convert.h"
#include "tests/fuzz/json_mutator.h"
#include "tests/fuzz/message_mutator.h"

namespace polystrate {
namespace {

// All of what goes to a client.
class CheckingSink final : public TokenSink {
 public:
  void OnPrompt(const std::vector<PromptScore>& scores) override {
    for (const PromptScore& score : scores) {
      pb::TokenInfo wire;
      ToWire(0, score, nullptr, &wire);
    }
  }
  void OnToken(const TokenInfo& token) override {
    CHECK_EQ(FirstInvalidUtf8(token.text), token.text.size());
    pb::TokenInfo wire;
    ToWire(token, nullptr, &wire);
  }
  void OnFinished(const Finished& finished) override {
    CHECK_EQ(FirstInvalidUtf8(finished.text), finished.text.size());
    CHECK(ended_.insert(finished.output_index).second);
    pb::GenerationFinished wire;
    ToWire(finished, &wire);
  }
  void OnError(const absl::Status&) override { CHECK(false); }
  size_t num_ended() const { return ended_.size(); }

 private:
  std::set<int32_t> ended_;
};

void CheckRefusal(const absl::Status& status) {
  const std::set<absl::StatusCode> known = {
      absl::StatusCode::kInvalidArgument, absl::StatusCode::kUnimplemented,
      absl::StatusCode::kNotFound, absl::StatusCode::kResourceExhausted};
  CHECK(known.contains(status.code()));
  CHECK(!status.message().empty());
  pb::EngineError wire;
  ToWire(status, &wire);
  CHECK(FromWire(wire).code() == status.code());
}

// What engine/request.h promises of a request that runs.
void CheckAdmitted(const GenerationRequest& request, const EngineOptions& options) {
  const SamplingParams& sampling = request.sampling;
  CHECK(!request.prompt.empty());
  for (const int32_t id : request.prompt) CHECK(id >= 0 && id < options.vocab_size);
  CHECK(sampling.temperature >= 0.0 && sampling.temperature <= 2.0);
  CHECK(sampling.top_p > 0.0 && sampling.top_p <= 1.0 && sampling.top_k >= -1);
  CHECK(sampling.min_p >= 0.0 && sampling.min_p <= 1.0);
  CHECK(std::abs(sampling.frequency_penalty) <= 2.0 && std::abs(sampling.presence_penalty) <= 2.0);
  CHECK(sampling.repetition_penalty > 0.0 && std::isfinite(sampling.repetition_penalty));
  CHECK(request.num_sequences >= 1 && request.num_sequences <= options.max_num_seqs);
  CHECK(request.min_tokens >= 0 && request.min_tokens <= request.max_tokens.value_or(INT64_MAX));
  CHECK_LE(request.stop_texts.size(), kMaxStopTexts);
  for (const std::string& text : request.stop_texts) {
    CHECK(!text.empty() && text.size() <= kMaxStopTextBytes);
    CHECK_EQ(FirstInvalidUtf8(text), text.size());
  }
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  CHECK(request.prompt_logprob_start >= 0 && request.prompt_logprob_start < prompt);
  CHECK(request.prompt_candidates >= 0 && request.prompt_candidates <= kMaxCandidates);
  CHECK(request.output_candidates >= 0 && request.output_candidates <= kMaxCandidates);
  CHECK_LE(request.request_id.size(), size_t{256});
}

// Tokens drawn from the request's own bytes, so that they may be its stops.
void Live(GenerationRequest request, int64_t max_tokens, const Tokenizer& tokenizer) {
  const std::vector<int32_t> eos = {2};
  const int32_t num_sequences = request.num_sequences;
  const auto num_told = std::count_if(request.resumed.begin(), request.resumed.end(),
                                      [](const ResumedOutput& output) { return output.ended; });
  const auto num_to_tell = std::max<int64_t>(num_sequences - num_told, 1);  // one tells the usage
  std::minstd_rand random(static_cast<unsigned>(request.prompt.size() + max_tokens));
  CheckingSink sink;
  LiveRequest live(1, std::move(request), max_tokens, &sink, &tokenizer, eos);
  if (const absl::Status status = live.Resume(); !status.ok()) return CheckRefusal(status);
  live.TellKnownScores();
  for (Finished& end : live.TakeKnownEnds()) {
    sink.OnFinished(live.End(end.output_index, std::move(end)));
  }
  for (int32_t output = 0; output < num_sequences; ++output) {
    if (live.has_ended(output)) continue;
    const std::unique_ptr<Sequence> sequence = live.MakeSequence(output);
    CHECK_GE(sequence->num_needed(), 0);
    const float repetition = sequence->sampling.repetition_penalty;
    CHECK(repetition > 0.0f && std::isfinite(repetition));
    std::optional<Finished> end;
    if (max_tokens == 0) end = Finished{.reason = FinishReason::kLength};
    while (!end.has_value()) {
      SampledToken sample;
      sample.token_id = static_cast<int32_t>(random() % (tokenizer.vocab_size() + 1));
      end = live.AddToken(output, sample, {});
    }
    sink.OnFinished(live.End(output, *std::move(end)));
  }
  CHECK(live.done());
  CHECK_EQ(sink.num_ended(), static_cast<size_t>(num_to_tell));
}

EngineOptions SmallEngine(const Tokenizer& tokenizer) {
  EngineOptions options;
  options.model_id = "tiny";
  options.vocab_size = tokenizer.vocab_size() + 1;  // embeddings may have a row without a token
  options.eos_token_ids = {2};
  options.max_model_len = 256;
  options.num_blocks = 8;  // half of that
  return options;
}

}  // namespace
}  // namespace polystrate

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);  // it has a line for every text that is no UTF-8
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using namespace polystrate;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  pb::GenerateRequest request;
  if (seed % 4 == 0 || !request.ParseFromString(bytes)) {
    bytes = MutateBytes(std::move(bytes), max_size);
  } else {
    std::minstd_rand random(seed / 4);
    MutateMessage(&request, &random);
    bytes = request.SerializeAsString();
  }
  return bytes.copy(reinterpret_cast<char*>(data), max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polystrate;
  static const std::unique_ptr<Tokenizer> tokenizer =
      *Tokenizer::ReadFile(POLYSTRATE_SOURCE_DIR "/tests/golden/tokenizer/tiny.json");
  static const EngineOptions options = SmallEngine(*tokenizer);
  pb::GenerateRequest wire;
  if (!wire.ParseFromArray(data, static_cast<int>(size))) return 0;
  absl::StatusOr<GenerationRequest> request = FromWire(wire, options.model_id, tokenizer.get());
  if (!request.ok()) {
    CheckRefusal(request.status());
    return 0;
  }
  const absl::StatusOr<int64_t> max_tokens = Admit(*request, options, /*has_tokenizer=*/true);
  if (!max_tokens.ok()) {
    CheckRefusal(max_tokens.status());
    return 0;
  }
  CheckAdmitted(*request, options);
  CHECK_LT(*max_tokens, options.max_model_len);
  Live(std::move(*request), *max_tokens, *tokenizer);
  return 0;
}
