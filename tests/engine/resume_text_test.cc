// A request that is resumed after every one of its tokens, without a model: the test plays the
// sampler. What is told before the cut and after it is what an undisturbed request tells.

#include <gtest/gtest.h>

#include <random>

#include "engine/live_request.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

constexpr int32_t kEos = 0;
const std::vector<int32_t> kEosIds = {kEos};

struct Told : TokenSink {
  void OnPrompt(const std::vector<PromptScore>&) override { ++num_prompts; }
  void OnToken(const TokenInfo& token) override {
    ids.push_back(token.token_id);
    texts.push_back(token.text);
  }
  void OnFinished(const Finished&) override {}
  void OnError(const absl::Status&) override {}

  int num_prompts = 0;
  std::vector<int32_t> ids;
  std::vector<std::string> texts;  // of ids
  std::optional<Finished> end;
};

// What is told when the sampler draws `ids`, one after the other, until the output ends.
Told Play(const GenerationRequest& request, const Tokenizer& tokenizer, int64_t max_tokens,
          std::span<const int32_t> ids) {
  Told told;
  LiveRequest live(1, request, max_tokens, &told, &tokenizer, kEosIds);
  EXPECT_TRUE(live.Resume().ok());
  for (Finished& end : live.TakeKnownEnds()) told.end = live.End(0, std::move(end));
  for (const int32_t id : ids) {
    if (told.end.has_value()) break;
    if (auto end = live.AddToken(0, {.token_id = id}, {})) told.end = live.End(0, *std::move(end));
  }
  return told;
}

// The output's ids and `max_tokens` as for Play. Returns at how many tokens it ended.
size_t ExpectSameFromEveryCut(const GenerationRequest& request, const Tokenizer& tokenizer,
                              int64_t max_tokens, const std::vector<int32_t>& ids) {
  const Told whole = Play(request, tokenizer, max_tokens, ids);
  EXPECT_TRUE(whole.end.has_value());
  for (size_t cut = 0; cut <= whole.ids.size(); ++cut) {
    SCOPED_TRACE(testing::Message() << "cut after " << cut << " of " << whole.ids.size());
    GenerationRequest resumed = request;
    resumed.resumed = {{{ids.begin(), ids.begin() + static_cast<ptrdiff_t>(cut)}, false}};
    const Told rest = Play(resumed, tokenizer, max_tokens, std::span(ids).subspan(cut));
    const auto from = static_cast<ptrdiff_t>(cut);
    EXPECT_EQ(rest.ids, std::vector<int32_t>(whole.ids.begin() + from, whole.ids.end()));
    EXPECT_EQ(rest.texts, std::vector<std::string>(whole.texts.begin() + from, whole.texts.end()));
    EXPECT_TRUE(rest.end.has_value());
    if (!rest.end.has_value()) continue;
    EXPECT_EQ(rest.end->reason, whole.end->reason);
    EXPECT_EQ(rest.end->stop_token_id, whole.end->stop_token_id);
    EXPECT_EQ(rest.end->stopped_by_eos, whole.end->stopped_by_eos);
    EXPECT_EQ(rest.end->stop_text, whole.end->stop_text);
    EXPECT_EQ(rest.end->text, whole.end->text);
    EXPECT_EQ(rest.end->usage->completion_tokens, static_cast<int64_t>(whole.ids.size()));
  }
  return whole.ids.size();
}

class ResumeText : public testing::TestWithParam<std::string> {
 protected:
  ResumeText() { request_.prompt = {11, 7, 30}; }
  std::vector<int32_t> Ids(const std::string& text) {
    return *tokenizer_->Encode(text, AddSpecialTokens::kNo);
  }

  // Over bytes, and over characters with a fallback to bytes.
  const std::unique_ptr<Tokenizer> tokenizer_ = *Tokenizer::ReadFile(SourceFile(GetParam()));
  GenerationRequest request_;
};

INSTANTIATE_TEST_SUITE_P(Tokenizers, ResumeText,
                         testing::Values("models/demo/tokenizer.json",
                                         "tests/golden/tokenizer/spm_llama.json"),
                         [](const auto& test) { return test.index == 0 ? "bytes" : "characters"; });

TEST_P(ResumeText, CharactersOfSeveralTokens) {
  const std::vector<int32_t> ids = Ids("na\xc3\xafve \xf0\x9f\x90\xab \xe6\xbc\xa2\xe5\xad\x97!");
  ExpectSameFromEveryCut(request_, *tokenizer_, static_cast<int64_t>(ids.size()), ids);
  // The last character is not complete: its end is told with the output's.
  ExpectSameFromEveryCut(request_, *tokenizer_, static_cast<int64_t>(ids.size()) - 2, ids);
}

TEST_P(ResumeText, AStopTextOverTheCut) {
  const std::vector<int32_t> ids = Ids("to be or not to be, that is the question");
  request_.stop_texts = {"that is not", "at is the qu"};
  for (const bool include : {false, true}) {
    request_.include_stop_in_output = include;
    EXPECT_LT(ExpectSameFromEveryCut(request_, *tokenizer_, 99, ids), ids.size());
  }
  // What only looked like a stop is told with the end.
  request_.stop_texts = {"question!"};
  ExpectSameFromEveryCut(request_, *tokenizer_, static_cast<int64_t>(ids.size()), ids);
  // A stop that is there too early does not count.
  request_.stop_texts = {"be"};
  request_.min_tokens = static_cast<int64_t>(Ids("to be or").size());
  EXPECT_GT(ExpectSameFromEveryCut(request_, *tokenizer_, 99, ids), Ids("to be or").size());
}

TEST_P(ResumeText, StopTokensAndTheEndOfSequence) {
  std::vector<int32_t> ids = Ids("to be or not to be");
  request_.stop_token_ids = {ids[0]};
  request_.min_tokens = 2;
  ids.insert(ids.begin() + 3, {ids[0], ids[1]});
  for (const bool include : {false, true}) {
    request_.include_stop_in_output = include;
    EXPECT_EQ(ExpectSameFromEveryCut(request_, *tokenizer_, 99, ids), 4u);
  }
  ids[2] = kEos;
  EXPECT_EQ(ExpectSameFromEveryCut(request_, *tokenizer_, 99, ids), 3u);
  request_.ignore_eos = true;
  EXPECT_EQ(ExpectSameFromEveryCut(request_, *tokenizer_, 99, ids), 4u);
}

// Tokens and stops of any kind.
TEST_P(ResumeText, WhateverComes) {
  std::minstd_rand random(20);
  for (int trial = 0; trial < 300; ++trial) {
    SCOPED_TRACE(testing::Message() << "trial " << trial);
    std::vector<int32_t> ids(24);
    // Few, so that stops come about; among them often the bytes of characters.
    for (int32_t& id : ids) id = static_cast<int32_t>(3 + random() % (trial % 2 == 0 ? 250 : 40));
    GenerationRequest request = request_;
    const std::string text = tokenizer_->Decode(std::span(ids).subspan(random() % 20, 4), true);
    if (!text.empty()) request.stop_texts = {text.substr(0, 64), "e"};
    if (trial % 3 == 0) request.stop_texts.resize(std::min<size_t>(request.stop_texts.size(), 1));
    request.include_stop_in_output = random() % 2 == 0;
    request.min_tokens = static_cast<int64_t>(random() % 12);
    if (random() % 2 == 0) request.stop_token_ids = {ids[random() % ids.size()]};
    const auto max_tokens = static_cast<int64_t>(12 + random() % 12);
    ExpectSameFromEveryCut(request, *tokenizer_, max_tokens, ids);
  }
}

TEST_P(ResumeText, NothingComesAfterAnEnd) {
  Told told;
  const auto resume = [&](std::vector<int32_t> ids, bool ended) {
    request_.resumed = {{std::move(ids), ended}};
    return LiveRequest(1, request_, 5, &told, tokenizer_.get(), kEosIds).Resume();
  };
  EXPECT_TRUE(resume({40, kEos}, false).ok());
  EXPECT_TRUE(Fails(resume({40, kEos, 41}, false), absl::StatusCode::kInvalidArgument,
                    "polystrate.resume: output 0 has 3 tokens and ends with number 2"));
  EXPECT_FALSE(resume({40, kEos, 41}, true).ok());
  EXPECT_FALSE(resume({40, 41, 42, 43, 44, 45}, false).ok());
  request_.ignore_eos = true;
  EXPECT_TRUE(resume({40, kEos, 41}, false).ok());
}

class ResumeOutputs : public testing::Test {
 protected:
  void Begin(const std::vector<ResumedOutput>& resumed, int64_t max_tokens = 3) {
    request_.prompt = {11, 7, 30};
    request_.num_sequences = static_cast<int32_t>(resumed.size());
    request_.resumed = resumed;
    live_.emplace(1, request_, max_tokens, &told_, /*tokenizer=*/nullptr, kEosIds);
    ASSERT_TRUE(live_->Resume().ok());
  }

  GenerationRequest request_;
  Told told_;
  std::optional<LiveRequest> live_;
};

TEST_F(ResumeOutputs, TheFirstThatHasNotEndedComputesThePrompt) {
  request_.prompt_logprobs = true;
  Begin({{{5, kEos}, true}, {{5, 6, 7}, false}, {{8}, false}, {{}, true}, {{8, 9}, false}});
  EXPECT_EQ(live_->first(), 2);
  const auto first = live_->MakeSequence(2);
  EXPECT_EQ(first->tokens, (std::vector<int32_t>{11, 7, 30, 8}));
  EXPECT_EQ(first->prompt_len, 3);
  EXPECT_EQ(first->score_begin, 1);
  EXPECT_GT(live_->MakeSequence(4)->score_begin, 3);  // not again

  // What waits: the prompt once, and what those that run have had.
  EXPECT_EQ(live_->queued().requests, 2);
  EXPECT_EQ(live_->queued().tokens, 3 + 1 + 2);
  EXPECT_EQ(live_->LeaveQueue(2).tokens, 3 + 1);
  EXPECT_EQ(live_->LeaveQueue(4).tokens, 2);
  EXPECT_EQ(live_->queued().tokens, 0);

  std::vector<Finished> ends = live_->TakeKnownEnds();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].output_index, 1);
  EXPECT_EQ(ends[0].reason, FinishReason::kLength);
  EXPECT_FALSE(live_->End(1, ends[0]).usage.has_value());
  EXPECT_TRUE(live_->TakeDue(4).empty());
  EXPECT_EQ(live_->TakeDue(2), std::vector<int32_t>{4});
  EXPECT_TRUE(live_->TakeDue(2).empty());
  EXPECT_FALSE(live_->End(2, {}).usage.has_value());
  EXPECT_EQ(live_->End(4, {}).usage->completion_tokens, 2 + 3 + 1 + 2);
}

TEST_F(ResumeOutputs, WhenAllHaveEndedTheLastTellsTheUsage) {
  for (const bool told : {false, true}) {
    Begin({{{5, kEos}, true}, {{5, 6, kEos}, told}});
    EXPECT_LT(live_->first(), 0);
    EXPECT_EQ(live_->queued().requests + live_->queued().tokens, 0);
    std::vector<Finished> ends = live_->TakeKnownEnds();
    ASSERT_EQ(ends.size(), 1u);
    EXPECT_EQ(ends[0].output_index, 1);
    EXPECT_TRUE(ends[0].stopped_by_eos);
    EXPECT_EQ(live_->End(1, ends[0]).usage->completion_tokens, 5);
    EXPECT_TRUE(live_->done());
  }
  // Ended by something else than its tokens.
  Begin({{{5}, true}});
  EXPECT_EQ(live_->TakeKnownEnds().at(0).reason, FinishReason::kCancelled);
}

}  // namespace
}  // namespace polystrate
