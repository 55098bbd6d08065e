// A client that loses its engine in the middle of a stream and goes on at another.

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "rpc/request_extra.h"
#include "tests/rpc/answer.h"
#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

// What a client has had of a request, as kResumeKey asks it to keep it.
struct Had {
  explicit Had(int num_outputs)
      : outputs(num_outputs), texts(num_outputs), last_texts(num_outputs) {}

  void Take(const pb::GenerateResponse& event) {
    if (event.has_token()) {
      const uint32_t i = event.token().output_index();
      for (const pb::TokenInfo& token : event.token().tokens()) {
        outputs[i].tokens.push_back(static_cast<int32_t>(token.token_id()));
      }
      (event.token().tokens_size() > 0 ? texts : last_texts)[i] += event.token().text();
    }
    if (event.has_finished()) {
      const uint32_t i = event.finished().output_index();
      outputs[i].ended = true;
      texts[i] += last_texts[i];
      reasons.push_back(event.finished().reason());
    }
    if (event.has_usage()) completion_tokens = event.usage().completion_tokens();
    if (event.has_prompt()) ++num_prompts;
  }
  // Without its end this will be told again.
  void LoseEngine() { last_texts.assign(last_texts.size(), ""); }

  std::vector<ResumedOutput> outputs;
  std::vector<std::string> texts;
  std::vector<std::string> last_texts;  // that came without a token
  std::vector<pb::FinishReason> reasons;
  uint32_t completion_tokens = 0;
  int num_prompts = 0;
};

// At most `max_events` of them; true when there are no more.
bool Read(pb::Inference::Stub& stub, const pb::GenerateRequest& request, int max_events, Had* had) {
  grpc::ClientContext context;
  const auto stream = stub.Generate(&context, request);
  pb::GenerateResponse event;
  for (int i = 0; i < max_events; ++i) {
    if (!stream->Read(&event)) {
      const grpc::Status status = stream->Finish();
      EXPECT_TRUE(status.ok()) << status.error_message();
      return true;
    }
    had->Take(event);
  }
  context.TryCancel();
  while (stream->Read(&event)) {
  }
  stream->Finish();
  return false;
}

pb::GenerateRequest TextRequest() {
  pb::GenerateRequest request;
  request.set_prompt("What light through yonder window breaks?");
  request.mutable_sampling()->set_temperature(1.0);
  request.mutable_sampling()->set_seed(20);
  request.mutable_stopping()->set_max_tokens(24);
  request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

class ResumeTest : public testing::Test {
 protected:
  ResumeTest() { second_.Run(), first_.Run(); }

  // Cut after every number of events, and twice more, three events later each.
  void ExpectSameHoweverCut(const pb::GenerateRequest& request, int num_outputs) {
    Had whole(num_outputs);
    ASSERT_TRUE(Read(first_.inference(), request, 1000, &whole));
    bool finished = false;
    for (int cut = 0; !finished; ++cut) {
      SCOPED_TRACE(testing::Message() << "cut after " << cut << " events");
      Had had(num_outputs);
      finished = Read(first_.inference(), request, cut, &had);
      if (finished) break;
      ServedEngine* engine = &second_;
      for (const int events : {3, 3, 1000}) {
        had.LoseEngine();
        pb::GenerateRequest resumed = request;
        SetResume(had.outputs, &resumed);
        finished = Read(engine->inference(), resumed, events, &had);
        if (finished) break;
        engine = engine == &first_ ? &second_ : &first_;
      }
      ASSERT_TRUE(std::exchange(finished, false));
      for (int i = 0; i < num_outputs; ++i) {
        EXPECT_EQ(had.outputs[i].tokens, whole.outputs[i].tokens);
        EXPECT_EQ(had.texts[i], whole.texts[i]);
        EXPECT_TRUE(had.outputs[i].ended);
      }
      EXPECT_EQ(had.completion_tokens, whole.completion_tokens);
    }
    EXPECT_TRUE(first_.BecomesIdle());
    EXPECT_TRUE(second_.BecomesIdle());
  }

  ServedEngine first_;
  ServedEngine second_;
};

TEST_F(ResumeTest, TheTextIsThatOfAStreamThatWasNeverCut) {
  ExpectSameHoweverCut(TextRequest(), 1);
}

TEST_F(ResumeTest, WithStopsPenaltiesAndWhatIsHeldBack) {
  pb::GenerateRequest request = TextRequest();
  Had whole(1);
  ASSERT_TRUE(Read(first_.inference(), request, 1000, &whole));
  ASSERT_GT(whole.texts[0].size(), 30u);
  request.mutable_sampling()->set_frequency_penalty(0.5);
  request.mutable_sampling()->set_repetition_penalty(1.2);
  request.mutable_stopping()->set_min_tokens(4);
  ExpectSameHoweverCut(request, 1);
  // One that comes, and one that has only begun at the end.
  request = TextRequest();
  const auto text = [&](size_t begin, size_t n) {
    return first_.tokenizer().Decode(std::span(whole.outputs[0].tokens).subspan(begin, n), true);
  };
  for (const std::string& stop : {text(10, 4), text(20, 4) + "\x7f"}) {
    request.mutable_stopping()->clear_conditions();
    request.mutable_stopping()->add_conditions()->set_stop_text(stop);
    ExpectSameHoweverCut(request, 1);
  }
}

TEST_F(ResumeTest, SeveralOutputs) {
  pb::GenerateRequest request = TextRequest();
  request.mutable_sampling()->set_num_sequences(3);
  request.mutable_stopping()->set_max_tokens(8);
  ExpectSameHoweverCut(request, 3);
}

TEST_F(ResumeTest, WhatIsMalformedIsRefusedAndNamed) {
  pb::GenerateRequest request = GreedyRequest(4);
  const auto refused = [&](grpc::StatusCode code, const std::string& message) {
    const Answer answer = Ask(first_.inference(), request);
    EXPECT_EQ(answer.status.error_code(), code) << answer.status.error_message();
    EXPECT_NE(answer.status.error_message().find(message), std::string::npos)
        << answer.status.error_message();
  };
  SetResume({{{1, 2, 3, 4, 5}, false}}, &request);
  refused(grpc::StatusCode::INVALID_ARGUMENT, "polystrate.resume has an output of 5 tokens");
  SetResume({{{1024}, false}}, &request);
  refused(grpc::StatusCode::INVALID_ARGUMENT, "token id 1024 is not in the vocabulary");
  SetResume({{{1}, false}, {{2}, false}}, &request);
  refused(grpc::StatusCode::INVALID_ARGUMENT, "one for each of num_sequences");
  (*request.mutable_extra()->mutable_fields())["x"].set_bool_value(true);
  refused(grpc::StatusCode::UNIMPLEMENTED, "extra.\"x\"");
}

// A long one is read by a thread of its own; and what waits is counted with its tokens.
TEST_F(ResumeTest, LongOnesToo) {
  pb::GenerateRequest request = GreedyRequest(3003);
  std::vector<int32_t> tokens(3000);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(3 + i % 1000);
  SetResume({{tokens, false}}, &request);
  ASSERT_GT(request.ByteSizeLong(), 32u << 10);
  const Answer answer = Ask(first_.inference(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids.size(), 3u);
  EXPECT_EQ(answer.last().usage().completion_tokens(), 3003u);
  // The same tokens as the end of the prompt: so they are read, and in this order.
  pb::GenerateRequest longer = GreedyRequest(3);
  for (const int32_t id : tokens) longer.mutable_token_ids()->add_ids(static_cast<uint32_t>(id));
  EXPECT_EQ(Ask(second_.inference(), longer).ids, answer.ids);
}

}  // namespace
}  // namespace polystrate
