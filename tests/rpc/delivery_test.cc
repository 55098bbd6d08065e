#include "rpc/coordinator/delivery.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace polystrate {
namespace {

namespace pb = openengine::v1;

pb::GenerateResponse Tokens(uint32_t output, const std::vector<uint32_t>& ids) {
  pb::GenerateResponse event;
  event.mutable_token()->set_output_index(output);
  for (const uint32_t id : ids) {
    pb::TokenInfo& token = *event.mutable_token()->add_tokens();
    token.set_token_id(id);
    token.set_token(std::to_string(id));
    event.mutable_token()->mutable_text()->append(token.token());
  }
  return event;
}

pb::GenerateResponse Text(uint32_t output, const std::string& text) {
  pb::GenerateResponse event;
  event.mutable_token()->set_output_index(output);
  event.mutable_token()->set_text(text);
  return event;
}

pb::GenerateResponse End(uint32_t output, bool last) {
  pb::GenerateResponse event;
  event.mutable_finished()->set_output_index(output);
  if (last) event.mutable_usage()->set_prompt_tokens(1);
  return event;
}

std::vector<pb::GenerateResponse> Take(Delivery& delivery, pb::GenerateResponse event) {
  std::vector<pb::GenerateResponse> out;
  delivery.Take(std::move(event), &out);
  return out;
}

std::vector<ResumedOutput> Fresh(size_t outputs) { return std::vector<ResumedOutput>(outputs); }

TEST(DeliveryTest, NothingDeliveredIsNothingToResume) {
  Delivery delivery(Fresh(2));
  EXPECT_TRUE(delivery.Resume().empty());
  EXPECT_FALSE(delivery.complete());
}

TEST(DeliveryTest, TokensPassAndAreWhatIsResumed) {
  Delivery delivery(Fresh(2));
  EXPECT_EQ(Take(delivery, Tokens(0, {5, 6})).size(), 1);
  EXPECT_EQ(Take(delivery, Tokens(1, {7})).size(), 1);
  EXPECT_EQ(Take(delivery, Tokens(0, {8})).size(), 1);
  EXPECT_EQ(Take(delivery, End(1, false)).size(), 1);
  delivery.Lose();
  const std::vector<ResumedOutput> resumed = delivery.Resume();
  ASSERT_EQ(resumed.size(), 2);
  EXPECT_EQ(resumed[0].tokens, (std::vector<int32_t>{5, 6, 8}));
  EXPECT_FALSE(resumed[0].ended);
  EXPECT_EQ(resumed[1].tokens, (std::vector<int32_t>{7}));
  EXPECT_TRUE(resumed[1].ended);
  EXPECT_EQ(delivery.num_tokens(), 4);
}

// The text that an engine lets go at an output's end comes again when the end was lost.
TEST(DeliveryTest, LastTextWaitsForTheEnd) {
  Delivery delivery(Fresh(1));
  Take(delivery, Tokens(0, {5}));
  EXPECT_TRUE(Take(delivery, Text(0, "rest")).empty());
  delivery.Lose();
  EXPECT_TRUE(Take(delivery, Text(0, "rest")).empty());
  const auto out = Take(delivery, End(0, true));
  ASSERT_EQ(out.size(), 2);
  EXPECT_EQ(out[0].token().text(), "rest");
  EXPECT_TRUE(out[1].has_finished());
  EXPECT_TRUE(delivery.complete());
}

// An engine of another kind may tell such text at any time: then it waits for what follows it.
TEST(DeliveryTest, HeldTextGoesBeforeTheNextTokens) {
  Delivery delivery(Fresh(2));
  pb::GenerateResponse more = Tokens(0, {5});
  more.mutable_token()->mutable_text()->append(" and more");
  EXPECT_TRUE(Take(delivery, more).empty());
  EXPECT_EQ(delivery.num_tokens(), 0);  // lost with the event, should the engine be
  EXPECT_EQ(Take(delivery, Tokens(1, {9})).size(), 1);
  const auto out = Take(delivery, Tokens(0, {6}));
  ASSERT_EQ(out.size(), 2);
  EXPECT_EQ(out[0].token().text(), "5 and more");
  EXPECT_EQ(out[1].token().text(), "6");
  EXPECT_EQ(delivery.num_tokens(), 3);
}

TEST(DeliveryTest, PromptScoresComeOnce) {
  Delivery delivery(Fresh(1));
  pb::GenerateResponse prompt;
  prompt.mutable_prompt()->add_tokens()->set_token_id(3);
  EXPECT_EQ(Take(delivery, prompt).size(), 1);
  delivery.Lose();
  EXPECT_TRUE(Take(delivery, prompt).empty());
}

TEST(DeliveryTest, ARequestThatComesResumedStaysSo) {
  Delivery delivery({{{1, 2}, false}, {{3}, true}});
  Take(delivery, Tokens(0, {4}));
  const std::vector<ResumedOutput> resumed = delivery.Resume();
  EXPECT_EQ(resumed[0].tokens, (std::vector<int32_t>{1, 2, 4}));
  EXPECT_TRUE(resumed[1].ended);
}

// Whoever reads the stream may keep a list of the outputs that were asked for.
TEST(DeliveryTest, OutputsThatWereNotAskedForAreTheLastOnes) {
  Delivery delivery(Fresh(2));
  const auto tokens = Take(delivery, Tokens(4'000'000'000u, {5}));
  ASSERT_EQ(tokens.size(), 1);
  EXPECT_EQ(tokens[0].token().output_index(), 1);
  const auto end = Take(delivery, End(2, true));
  ASSERT_EQ(end.size(), 1);
  EXPECT_EQ(end[0].finished().output_index(), 1);
  EXPECT_EQ(delivery.Resume()[1].tokens, (std::vector<int32_t>{5}));
}

TEST(DeliveryTest, AnErrorIsTheEnd) {
  Delivery delivery(Fresh(1));
  pb::GenerateResponse error;
  error.mutable_error()->set_message("NaN");
  EXPECT_EQ(Take(delivery, error).size(), 1);
  EXPECT_TRUE(delivery.complete());
}

}  // namespace
}  // namespace polystrate
