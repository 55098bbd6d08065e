// What waits for a slow reader: in order, merged by output, and counted.

#include "rpc/event_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

#include "engine/tokenizer.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

TokenInfo Token(int32_t output, int32_t id, const std::string& text) {
  TokenInfo token;
  token.output_index = output;
  token.token_id = id;
  token.text = text;
  return token;
}

TEST(EventQueue, MergesTheTokensOfEachOutput) {
  EventQueue queue(/*tokenizer=*/nullptr);
  queue.SetRequestId("r");
  queue.AddToken(Token(0, 1, "a"));
  queue.AddToken(Token(1, 2, "b"));
  queue.AddToken(Token(0, 3, "c"));
  queue.AddToken(Token(1, 4, "e"));
  queue.AddText(1, "d");
  queue.Add().mutable_finished()->set_output_index(1);
  const pb::GenerateResponse first = queue.TakeFirst();
  EXPECT_EQ(first.request_id(), "r");
  EXPECT_EQ(first.token().output_index(), 0u);
  EXPECT_EQ(first.token().text(), "ac");
  EXPECT_EQ(first.token().tokens_size(), 2);
  queue.AddToken(Token(0, 5, "f"));  // the first delta is gone: a new one
  EXPECT_EQ(queue.TakeFirst().token().text(), "be");
  // What comes without a token is told by itself: who counts tokens can tell it apart.
  const pb::GenerateResponse last = queue.TakeFirst();
  EXPECT_EQ(last.token().output_index(), 1u);
  EXPECT_EQ(last.token().text(), "d");
  EXPECT_EQ(last.token().tokens_size(), 0);
  EXPECT_TRUE(queue.TakeFirst().has_finished());
  EXPECT_EQ(queue.TakeFirst().token().text(), "f");
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.token_bytes(), 0);
}

// The estimate is an upper bound, and a delta never gets much larger than the limit.
TEST(EventQueue, CountsBytesAndCutsLargeDeltas) {
  const auto tokenizer = Tokenizer::ReadFile(SourceFile("models/demo/tokenizer.json")).value();
  EventQueue queue(tokenizer.get());
  std::vector<TokenLogProb> candidates(20, TokenLogProb{0, -3.25f});
  TokenInfo token = Token(0, 100'000, std::string(40, 'x'));
  token.rank = 3;
  token.candidates = candidates;
  token.logprob = -1.5f;
  constexpr int kTokens = 1000;
  for (int i = 0; i < kTokens; ++i) queue.AddToken(token);
  const int64_t counted = queue.token_bytes();
  int64_t bytes = 0;
  int tokens = 0;
  int events = 0;
  while (!queue.empty()) {
    const pb::GenerateResponse event = queue.TakeFirst();
    EXPECT_LE(static_cast<int64_t>(event.ByteSizeLong()), EventQueue::kMaxDeltaBytes + 4096);
    bytes += static_cast<int64_t>(event.ByteSizeLong());
    tokens += event.token().tokens_size();
    ++events;
  }
  EXPECT_EQ(tokens, kTokens);
  EXPECT_GE(events, 2);
  EXPECT_LE(bytes, counted);
  EXPECT_GE(bytes, counted / 3);
  EXPECT_EQ(queue.token_bytes(), 0);
}

TEST(EventQueue, LosesNothingHoweverItIsRead) {
  std::mt19937 random(7);
  EventQueue queue(/*tokenizer=*/nullptr);
  std::map<int32_t, std::string> in, out;
  const auto take = [&] {
    const pb::GenerateResponse event = queue.TakeFirst();
    if (event.has_token()) {
      out[static_cast<int32_t>(event.token().output_index())] += event.token().text();
    }
  };
  for (int i = 0; i < 20000; ++i) {
    const auto output = static_cast<int32_t>(random() % 5);
    const std::string text(1, static_cast<char>('a' + random() % 26));
    in[output] += text;
    queue.AddToken(Token(output, i, text));
    if (random() % 3 == 0) queue.Add().mutable_prompt();
    if (random() % 2 == 0) take();
    if (random() % 5000 == 0) {
      while (!queue.empty()) take();
      EXPECT_EQ(in, out);
    }
  }
  while (!queue.empty()) take();
  EXPECT_EQ(in, out);
  EXPECT_EQ(queue.token_bytes(), 0);
  queue.AddToken(Token(0, 1, "a"));
  queue.Clear();
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.token_bytes(), 0);
}

}  // namespace
}  // namespace polystrate
