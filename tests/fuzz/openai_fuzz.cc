// Input: the body of an OpenAI request. Whatever it holds, it is refused with a status and an
// answer that an HTTP client can read, or becomes calls of Generate which the engine's own reader
// takes or refuses.

#include <google/protobuf/stubs/logging.h>

#include <memory>
#include <string>

#include "engine/json.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "kernels/core/check.h"
#include "rpc/convert.h"
#include "rpc/http/openai_error.h"
#include "rpc/http/openai_request.h"
#include "tests/fuzz/json_mutator.h"

namespace polystrate {
namespace {

// A refusal is the client's to mend, and its own words in it do not spoil the answer.
void CheckRefusal(const absl::Status& status) {
  const HttpError error(status);
  CHECK(error.status >= 400 && error.status < 500);
  CHECK(!error.message.empty());
  const std::string body = error.ToJson();
  CHECK_EQ(FirstInvalidUtf8(body), body.size());
  const auto answer = Json::Parse(body, "the answer");
  CHECK(answer.ok());
  CHECK(answer->root().GetObject("error")->GetString("message").ok());
}

void CheckCalls(const OpenAiRequest& request, const Tokenizer& tokenizer) {
  CHECK(!request.calls.empty());
  CHECK_GE(request.num_choices, 1);
  CHECK(request.top_logprobs >= 0 && request.top_logprobs <= 20);
  CHECK(!request.include_usage || request.stream);
  for (const pb::GenerateRequest& call : request.calls) {
    // What goes to an engine is what protobuf takes for text.
    pb::GenerateRequest received;
    CHECK(received.ParseFromString(call.SerializeAsString()));
    const auto generation = FromWire(received, received.model(), &tokenizer);
    if (!generation.ok()) CheckRefusal(generation.status());
  }
}

void Check(const absl::StatusOr<OpenAiRequest>& request, const Tokenizer& tokenizer) {
  if (request.ok()) {
    CheckCalls(*request, tokenizer);
  } else {
    CHECK(request.status().code() == absl::StatusCode::kInvalidArgument);
    CheckRefusal(request.status());
  }
}

}  // namespace
}  // namespace polystrate

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return polystrate::MutateJsonInput(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polystrate;
  static const std::unique_ptr<Tokenizer> tokenizer =
      *Tokenizer::ReadFile(POLYSTRATE_SOURCE_DIR "/tests/golden/tokenizer/tiny.json");
  const JsonInput input = JsonInput::From(data, size);
  const auto body = Json::Parse(input.json, "the request");
  if (!body.ok()) {
    CheckRefusal(body.status());
    return 0;
  }
  if (!body->root().IsObject()) return 0;  // the handlers say so themselves
  Check(ReadCompletionRequest(body->root()), *tokenizer);
  Check(ReadChatRequest(body->root()), *tokenizer);
  return 0;
}
