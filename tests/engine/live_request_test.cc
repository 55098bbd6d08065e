// What ends an output, and what its sink is told, without a model: the test plays the sampler.

#include "engine/live_request.h"

#include <gtest/gtest.h>

#include "tests/testing/local_engine.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int32_t kEos = 0;

class RecordingSink : public TokenSink {
 public:
  void OnPrompt(const std::vector<PromptScore>&) override { ++num_prompts; }
  void OnToken(const TokenInfo& token) override {
    ids.push_back(token.token_id);
    text += token.text;
  }
  void OnFinished(const Finished&) override {}
  void OnError(const absl::Status&) override {}

  int num_prompts = 0;
  std::vector<int32_t> ids;
  std::string text;
};

class LiveRequestTest : public testing::Test {
 protected:
  LiveRequestTest() {
    request_.prompt = {11, 7, 301};
    request_.num_sequences = 1;
  }

  void Begin(int64_t max_tokens) {
    live_.emplace(5, request_, max_tokens, &sink_, tokenizer_.get(), eos_);
  }
  // Feeds the ids to an output until one ends it.
  std::optional<Finished> Feed(const std::vector<int32_t>& ids, int32_t output = 0) {
    for (const int32_t id : ids) {
      if (auto end = live_->AddToken(output, {.token_id = id}, {})) {
        return live_->End(output, *std::move(end));
      }
    }
    return std::nullopt;
  }
  std::vector<int32_t> Ids(const std::string& text) { return *tokenizer_->Encode(text); }

  const std::unique_ptr<Tokenizer> tokenizer_ =
      *Tokenizer::ReadFile(SourceFile("models/demo/tokenizer.json"));
  const std::vector<int32_t> eos_ = {kEos};
  GenerationRequest request_;
  RecordingSink sink_;
  std::optional<LiveRequest> live_;
};

TEST_F(LiveRequestTest, EndsAtTheEndOfSequenceOrTheLength) {
  Begin(3);
  const auto end = Feed({40, kEos, 41});
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->reason, FinishReason::kStop);
  EXPECT_EQ(end->stop_token_id, kEos);
  EXPECT_TRUE(end->stopped_by_eos);
  ASSERT_TRUE(end->usage.has_value());
  EXPECT_EQ(end->usage->prompt_tokens, 3);
  EXPECT_EQ(end->usage->completion_tokens, 2);
  EXPECT_TRUE(live_->done());

  request_.ignore_eos = true;
  Begin(3);
  EXPECT_EQ(Feed({40, kEos, 41})->reason, FinishReason::kLength);
}

TEST_F(LiveRequestTest, NoStopCountsBeforeMinTokens) {
  request_.min_tokens = 2;
  request_.stop_token_ids = {77};
  Begin(9);
  // The second token may be no stop yet, as only one came before it.
  const auto end = Feed({77, kEos, 77, 40});
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->usage->completion_tokens, 3);
  EXPECT_EQ(end->stop_token_id, 77);
  EXPECT_FALSE(end->stopped_by_eos);

  const std::vector<int32_t> ids = Ids("to be or not to be or not to be");
  request_.stop_texts = {"or"};
  request_.min_tokens = static_cast<int64_t>(Ids("to be or not to").size());
  Begin(99);
  sink_.text.clear();
  ASSERT_EQ(Feed(ids)->stop_text, "or");
  EXPECT_EQ(sink_.text, "to be or not to be ");
}

TEST_F(LiveRequestTest, AStopTextOverTokensDoesNotLeak) {
  const std::vector<int32_t> ids = Ids("What light through yonder window breaks?");
  for (const bool include : {false, true}) {
    request_.stop_texts = {"never", "yonder win"};
    request_.include_stop_in_output = include;
    Begin(99);
    sink_ = {};
    const auto end = Feed(ids);
    ASSERT_TRUE(end.has_value());
    EXPECT_EQ(end->reason, FinishReason::kStop);
    EXPECT_EQ(end->stop_text, "yonder win");
    EXPECT_FALSE(end->stop_token_id.has_value());
    EXPECT_EQ(sink_.text + end->text,
              include ? "What light through yonder win" : "What light through ");
    EXPECT_EQ(end->usage->completion_tokens, static_cast<int64_t>(sink_.ids.size()));
    EXPECT_LT(sink_.ids.size(), ids.size());
  }
}

TEST_F(LiveRequestTest, WhatLookedLikeAStopComesAtTheEnd) {
  const std::vector<int32_t> ids = Ids("What light through yonder");
  request_.stop_texts = {"yonder window"};
  Begin(static_cast<int64_t>(ids.size()));
  const auto end = Feed(ids);
  EXPECT_EQ(end->reason, FinishReason::kLength);
  EXPECT_EQ(sink_.text, "What light through ");
  EXPECT_EQ(end->text, "yonder");
}

TEST_F(LiveRequestTest, AStopTokensTextIsThereOnlyWhenAskedFor) {
  const std::vector<int32_t> ids = Ids("What light");
  request_.stop_token_ids = {ids.back()};
  for (const bool include : {false, true}) {
    request_.include_stop_in_output = include;
    Begin(99);
    sink_ = {};
    const auto end = Feed(ids);
    ASSERT_TRUE(end.has_value());
    const std::string all = sink_.text + end->text;
    EXPECT_EQ(all == "What light", include) << all;
    EXPECT_EQ(sink_.ids, ids);
  }
}

TEST_F(LiveRequestTest, UsageComesWithTheOutputThatEndsLast) {
  request_.num_sequences = 3;
  Begin(2);
  EXPECT_EQ(OutputOf(live_->MakeSequence(2)->id), 2);
  EXPECT_EQ(RequestOf(live_->MakeSequence(2)->id), 5u);
  const auto second = Feed({kEos}, 1);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->output_index, 1);
  EXPECT_FALSE(second->usage.has_value());
  EXPECT_FALSE(Feed({40, 41}, 2)->usage.has_value());
  EXPECT_FALSE(live_->done());
  const auto first = Feed({40, 41}, 0);
  ASSERT_TRUE(first->usage.has_value());
  EXPECT_EQ(first->usage->completion_tokens, 5);
  EXPECT_EQ(first->usage->prompt_tokens, 3);
}

// Output i of a request is what a request with seed + i gets: siblings change nothing.
TEST(Outputs, AreTheRequestsOfTheNextSeeds) {
  const TempDir dir;
  TinyModelSpec spec;
  WriteTinyModel(dir.path(), spec);
  GenerationRequest request;
  request.prompt = RandomTokens(37, spec.vocab_size, 3);
  request.sampling.seed = 1234;
  request.max_tokens = 20;
  request.ignore_eos = true;
  std::vector<GenerationRequest> requests;
  for (uint64_t i = 0; i < 4; ++i) {
    requests.push_back(request);
    requests.back().sampling.seed = 1234 + i;
  }
  const auto alone = RunLocalEngine(dir.path(), {}, requests).outputs;
  request.num_sequences = 4;
  for (const int pp_size : {1, 2}) {
    // 6 blocks hold one sequence and a bit: siblings are preempted and come again.
    for (const int64_t num_blocks : {64, 6}) {
      LocalEngineOptions options;
      options.pp_size = pp_size;
      options.num_blocks = num_blocks;
      const LocalOutput got = RunLocalEngine(dir.path(), options, {request}).outputs[0];
      EXPECT_EQ(got.token_ids, alone[0].token_ids);
      ASSERT_EQ(got.others.size(), 3u);
      int usages = got.usage.has_value() ? 1 : 0;
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(got.others[i].token_ids, alone[i + 1].token_ids) << "output " << i + 1;
        usages += got.others[i].usage.has_value() ? 1 : 0;
      }
      EXPECT_EQ(usages, 1);
    }
  }
  EXPECT_NE(alone[0].token_ids, alone[1].token_ids);
}

}  // namespace
}  // namespace polystrate
