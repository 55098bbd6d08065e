// Rank 0's contract: what is refused and how, and that one request never harms another.

#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/testing/expect_status.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

class NullSink : public TokenSink {
 public:
  void OnPrompt(const std::vector<PromptScore>&) override {}
  void OnToken(const TokenInfo&) override {}
  void OnFinished(const Finished&) override {}
  void OnError(const absl::Status&) override {}
};

EngineOptions SmallEngine() {
  EngineOptions options;
  options.vocab_size = 96;
  options.eos_token_ids = {0};
  options.max_model_len = 100;
  options.block_size = 4;
  options.num_blocks = 10;
  return options;
}

GenerationRequest Request(std::vector<int32_t> prompt, std::optional<int64_t> max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0.0;
  request.ignore_eos = true;
  return request;
}

TEST(EngineSubmit, NamesTheFieldAndItsRange) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  Engine engine(SmallEngine(), nullptr);
  NullSink sink;
  auto submit = [&](const GenerationRequest& request) { return engine.Submit(request, &sink); };
  EXPECT_TRUE(Fails(submit(Request({}, 1)), kInvalid, "prompt is empty"));
  EXPECT_TRUE(Fails(submit(Request({1, 96}, 1)), kInvalid,
                    "token id 96 is not in the vocabulary, [0, 96)"));
  EXPECT_TRUE(Fails(submit(Request({-1}, 1)), kInvalid, "token id -1"));
  EXPECT_TRUE(Fails(submit(Request({1}, 0)), kInvalid, "max_tokens is 0; it must be at least 1"));
  EXPECT_TRUE(Fails(submit(Request({1}, -5)), kInvalid, "max_tokens is -5"));
  for (double temperature : {-0.1, 2.1, double{NAN}, double{INFINITY}}) {
    GenerationRequest request = Request({1}, 1);
    request.sampling.temperature = temperature;
    EXPECT_TRUE(Fails(submit(request), kInvalid, "it must be in [0, 2]")) << temperature;
  }
  for (double top_p : {0.0, -1.0, 1.01, double{NAN}}) {
    GenerationRequest request = Request({1}, 1);
    request.sampling.top_p = top_p;
    EXPECT_TRUE(Fails(submit(request), kInvalid, "it must be in (0, 1]")) << top_p;
  }
  GenerationRequest request = Request({1}, 1);
  request.sampling.top_k = -2;
  EXPECT_TRUE(Fails(submit(request), kInvalid, "top_k is -2"));
  request = Request({1, 2, 3}, 0);
  request.prompt_logprobs = true;
  for (int64_t start : {-1, 3, 4}) {
    request.prompt_logprob_start = start;
    EXPECT_TRUE(
        Fails(submit(request), kInvalid, "the prompt has 3 tokens, so it must be in [0, 3)"))
        << start;
  }
  request.prompt_logprob_start = 2;
  for (int64_t candidates : {-1, 21}) {
    request.prompt_candidates = candidates;
    EXPECT_TRUE(Fails(submit(request), kInvalid, "it must be in [0, 20]")) << candidates;
  }
  request = Request({1, 2, 3}, 1);
  request.prompt_candidates = 1;
  EXPECT_TRUE(Fails(submit(request), kInvalid, "prompt_candidates is set without"));
  request.prompt_logprob_start = 1;
  EXPECT_TRUE(Fails(submit(request), kInvalid, "prompt_logprob_start is set without"));
  EXPECT_EQ(engine.load().queued_requests, 0);
}

TEST(EngineSubmit, RefusesWhatCanNeverFit) {
  Engine engine(SmallEngine(), nullptr);  // 40 tokens of cache, a context of 100
  NullSink sink;
  const std::vector<int32_t> prompt(30, 1);
  // The last token needs no place in the cache.
  EXPECT_TRUE(engine.Submit(Request(prompt, 11), &sink).ok());
  EXPECT_TRUE(Fails(engine.Submit(Request(prompt, 12), &sink), absl::StatusCode::kResourceExhausted,
                    "needs 41 tokens of KV cache at its end and the whole cache has 40"));
  EXPECT_TRUE(Fails(engine.Submit(Request(std::vector<int32_t>(41, 1), std::nullopt), &sink),
                    absl::StatusCode::kResourceExhausted, "can never run"));
  EXPECT_TRUE(Fails(engine.Submit(Request(std::vector<int32_t>(100, 1), 1), &sink),
                    absl::StatusCode::kInvalidArgument, "the context is 100"));
  GenerationRequest score = Request(std::vector<int32_t>(41, 1), 0);
  score.prompt_logprobs = true;
  EXPECT_TRUE(engine.Submit(score, &sink).ok());  // its last token is not computed
  score.prompt.push_back(1);
  EXPECT_TRUE(Fails(engine.Submit(score, &sink), absl::StatusCode::kResourceExhausted,
                    "needs 41 tokens of KV cache"));
  score.prompt.assign(102, 1);
  EXPECT_TRUE(Fails(engine.Submit(score, &sink), absl::StatusCode::kInvalidArgument,
                    "102 tokens; the context is 100; one more may be scored"));
  // Without a limit of its own a request gets what there is.
  EXPECT_TRUE(engine.Submit(Request(prompt, std::nullopt), &sink).ok());
}

TEST(EngineSubmit, RefusesALiveIdAndADrainingEngine) {
  Engine engine(SmallEngine(), nullptr);
  NullSink sink, other;
  GenerationRequest request = Request({1}, 1);
  request.request_id = "a";
  EXPECT_TRUE(engine.Submit(request, &sink).ok());
  EXPECT_TRUE(Fails(engine.Submit(request, &sink), absl::StatusCode::kAlreadyExists, "\"a\""));
  EXPECT_EQ(engine.load().queued_requests, 1);
  EXPECT_TRUE(engine.Cancel("a").ok());
  EXPECT_TRUE(Fails(engine.Cancel("a", &other), absl::StatusCode::kNotFound, "\"a\""));
  EXPECT_TRUE(Fails(engine.Cancel("b"), absl::StatusCode::kNotFound, "\"b\""));
  engine.BeginDrain(absl::InfiniteDuration());
  request.request_id = "c";
  EXPECT_TRUE(Fails(engine.Submit(request, &sink), absl::StatusCode::kUnavailable, "draining"));
}

// A prompt whose embedding is NaN ends alone, with INTERNAL; its blocks, full of NaN, then serve
// others.
TEST(Engine, NanLogitsEndOneRequestAndNoOther) {
  constexpr int32_t kPoison = 7;
  TinyModelSpec spec;
  spec.num_kv_layers = 2;
  spec.num_kv_heads = 2;
  spec.reuse_keys = "post_rope";
  spec.edit = [](std::vector<StoredTensor>* tensors) {
    for (StoredTensor& tensor : *tensors) {
      if (tensor.name != "gpt_neox.embed_in.weight") continue;
      const float nan = NAN;
      for (int column = 0; column < 48; ++column) {
        std::memcpy(tensor.bytes.data() + (kPoison * 48 + column) * sizeof(float), &nan,
                    sizeof(float));
      }
    }
  };
  TempDir dir;
  WriteTinyModel(dir.path(), spec);
  LocalEngineOptions options;
  options.block_size = 4;
  options.num_blocks = 12;
  std::vector<GenerationRequest> requests;
  for (int32_t i = 0; i < 9; ++i) {
    std::vector<int32_t> prompt = {20 + i, 21, 22, 23, 24, 25};
    if (i % 3 == 0) prompt[2] = kPoison;
    requests.push_back(Request(prompt, 6));
    requests.back().prompt_logprobs = i % 2 == 0;
  }
  for (const bool ahead : {false, true}) {
    options.async_anywhere = ahead;
    const LocalRun run = RunLocalEngine(dir.path(), options, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      if (i % 3 == 0) {
        EXPECT_TRUE(Fails(run.outputs[i].status, absl::StatusCode::kInternal, "not finite")) << i;
        continue;
      }
      const LocalOutput alone = RunLocalEngine(dir.path(), {}, {requests[i]}).outputs[0];
      EXPECT_TRUE(run.outputs[i].status.ok()) << i;
      EXPECT_EQ(run.outputs[i].token_ids, alone.token_ids) << i;
    }
  }
}

// That a token stops its output is not known when the next step is planned; that it is the last one
// asked for, is.
TEST(Engine, LooksAheadByOneStepAndNotBeyondTheLargestLength) {
  TempDir dir;
  WriteTinyModel(dir.path(), TinyModelSpec());
  LocalEngineOptions ahead;
  ahead.async_anywhere = true;
  const LocalRun free = RunLocalEngine(dir.path(), ahead, {Request({5, 6, 7}, 20)});
  EXPECT_EQ(free.outputs[0].token_ids.size(), 20u);
  EXPECT_EQ(free.stats.steps, 20);

  GenerationRequest stopped = Request({5, 6, 7}, 20);
  stopped.stop_token_ids = {free.outputs[0].token_ids[4]};
  const LocalRun one_by_one = RunLocalEngine(dir.path(), {}, {stopped});
  const LocalRun in_vain = RunLocalEngine(dir.path(), ahead, {stopped});
  EXPECT_EQ(in_vain.outputs[0].token_ids, one_by_one.outputs[0].token_ids);
  EXPECT_EQ(in_vain.outputs[0].usage->completion_tokens,
            one_by_one.outputs[0].usage->completion_tokens);
  EXPECT_EQ(in_vain.stats.steps, one_by_one.stats.steps + 1);
}

TEST(Engine, StopsAtAStopTokenAndAtEndOfSequence) {
  TempDir dir;
  TinyModelSpec spec;
  WriteTinyModel(dir.path(), spec);
  const LocalOutput free = RunLocalEngine(dir.path(), {}, {Request({5, 6, 7}, 20)}).outputs[0];
  ASSERT_EQ(free.token_ids.size(), 20u);
  EXPECT_EQ(free.reason, FinishReason::kLength);

  GenerationRequest stopped = Request({5, 6, 7}, 20);
  stopped.stop_token_ids = {free.token_ids[4]};
  const LocalOutput early = RunLocalEngine(dir.path(), {}, {stopped}).outputs[0];
  EXPECT_EQ(early.reason, FinishReason::kStop);
  EXPECT_EQ(early.token_ids.back(), free.token_ids[4]);
  EXPECT_LE(early.token_ids.size(), 5u);

  spec.eos_token_id = free.token_ids[4];
  WriteTinyModel(dir.path(), spec);
  GenerationRequest until_eos = Request({5, 6, 7}, 20);
  until_eos.ignore_eos = false;
  EXPECT_EQ(RunLocalEngine(dir.path(), {}, {until_eos}).outputs[0].token_ids, early.token_ids);
  EXPECT_EQ(RunLocalEngine(dir.path(), {}, {Request({5, 6, 7}, 20)}).outputs[0].token_ids,
            free.token_ids);
}

TEST(Engine, FillsTheContextAndNoMore) {
  TempDir dir;
  TinyModelSpec spec;
  spec.max_position_embeddings = 32;
  WriteTinyModel(dir.path(), spec);
  const LocalOutput output =
      RunLocalEngine(dir.path(), {}, {Request(std::vector<int32_t>(20, 3), 1000)}).outputs[0];
  EXPECT_EQ(output.token_ids.size(), 12u);
  EXPECT_EQ(output.reason, FinishReason::kLength);
}

TEST(Engine, ScoresAPromptOfOneTokenAndOfTheWholeContext) {
  TempDir dir;
  TinyModelSpec spec;
  spec.max_position_embeddings = 32;
  WriteTinyModel(dir.path(), spec);
  std::vector<GenerationRequest> requests = {Request({3}, 0),
                                             Request(std::vector<int32_t>(32, 3), 0)};
  for (GenerationRequest& request : requests) request.prompt_logprobs = true;
  const auto outputs = RunLocalEngine(dir.path(), {}, requests).outputs;
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_TRUE(outputs[i].status.ok());
    ASSERT_EQ(outputs[i].prompt_logprobs.size(), requests[i].prompt.size());
    EXPECT_TRUE(std::isnan(outputs[i].prompt_logprobs[0]));
    for (size_t t = 1; t < requests[i].prompt.size(); ++t) {
      EXPECT_LT(outputs[i].prompt_logprobs[t], 0.0f);
    }
    EXPECT_TRUE(outputs[i].token_ids.empty());
  }
}

}  // namespace
}  // namespace polystrate
