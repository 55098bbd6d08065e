#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/json_writer.h"
#include "rpc/http/http_server.h"
#include "tests/rpc/http_client.h"
#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

class HttpCompletionsTest : public testing::Test {
 protected:
  void SetUp() override {
    served_.Run();
    auto server = HttpServer::Start("127.0.0.1:0", {}, served_.channel(), {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  HttpAnswer Complete(const std::string& body) {
    HttpClient client(server_->port());
    return client.Post("/v1/completions", body);
  }

  ServedEngine served_;
  std::unique_ptr<HttpServer> server_;
};

constexpr char kGreedy[] = R"("model":"tiny","temperature":0,"ignore_eos":true)";

std::string Text(const JsonView& choice) { return *choice.GetString("text"); }

TEST_F(HttpCompletionsTest, TextEqualsTheEngines) {
  const HttpAnswer answer =
      Complete(absl::StrCat("{", kGreedy, R"(,"prompt":[11,7,301],"max_tokens":24})"));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.headers.at("content-type"), "application/json");
  const Answer direct = Ask(served_.inference(), GreedyRequest(24));
  const Json json = answer.json();
  const JsonView root = json.root();
  EXPECT_EQ(*root.GetString("object"), "text_completion");
  EXPECT_EQ(*root.GetString("model"), "tiny");
  EXPECT_EQ(*root.GetString("id"), "cmpl-" + answer.headers.at("x-request-id"));
  EXPECT_GT(*root.GetInt("created"), 1'700'000'000);
  const JsonView choices = *root.GetArray("choices");
  ASSERT_EQ(choices.size(), 1);
  EXPECT_EQ(Text(choices.at(0)), direct.text);
  EXPECT_EQ(*choices.at(0).GetInt("index"), 0);
  EXPECT_EQ(*choices.at(0).GetString("finish_reason"), "length");
  EXPECT_FALSE(choices.at(0).Has("logprobs"));
  const JsonView usage = *root.GetObject("usage");
  EXPECT_EQ(*usage.GetInt("prompt_tokens"), 3);
  EXPECT_EQ(*usage.GetInt("completion_tokens"), 24);
  EXPECT_EQ(*usage.GetInt("total_tokens"), 27);
  EXPECT_EQ(*usage.GetObject("prompt_tokens_details")->GetInt("cached_tokens"), 0);
}

// The texts of a stream by choice, its finish reasons, and that it is well-formed.
struct Streamed {
  std::map<int64_t, std::string> texts;
  std::map<int64_t, std::string> reasons;
  int64_t total_tokens = -1;
};

Streamed ReadStream(const HttpAnswer& answer) {
  Streamed streamed;
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_TRUE(answer.whole);
  const std::vector<std::string> events = answer.events();
  EXPECT_EQ(events.back(), "[DONE]");
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const Json json = *Json::Parse(events[i], "chunk");
    const JsonView choices = *json.root().GetArray("choices");
    if (choices.size() == 0) {
      streamed.total_tokens = *json.root().GetObject("usage")->GetInt("total_tokens");
      continue;
    }
    const JsonView choice = choices.at(0);
    const int64_t index = *choice.GetInt("index");
    EXPECT_FALSE(streamed.reasons.contains(index));
    streamed.texts[index] += Text(choice);
    if (choice.Has("finish_reason")) streamed.reasons[index] = *choice.GetString("finish_reason");
  }
  return streamed;
}

TEST_F(HttpCompletionsTest, StreamEqualsTheWhole) {
  const std::string fields =
      R"("model":"tiny","prompt":["To be, or","JULIET:"],"n":3,"seed":5,"max_tokens":30)";
  const Json whole = Complete(absl::StrCat("{", fields, "}")).json();
  const HttpAnswer answer = Complete(
      absl::StrCat("{", fields, R"(,"stream":true,"stream_options":{"include_usage":true}})"));
  EXPECT_EQ(answer.headers.at("content-type"), "text/event-stream");
  const Streamed streamed = ReadStream(answer);
  const JsonView choices = *whole.root().GetArray("choices");
  ASSERT_EQ(choices.size(), 6);
  ASSERT_EQ(streamed.texts.size(), 6u);
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(*choices.at(i).GetInt("index"), i);
    EXPECT_EQ(Text(choices.at(i)), streamed.texts.at(i));
    EXPECT_EQ(*choices.at(i).GetString("finish_reason"), streamed.reasons.at(i));
  }
  EXPECT_EQ(*whole.root().GetObject("usage")->GetInt("total_tokens"), streamed.total_tokens);
  EXPECT_NE(Text(choices.at(0)), Text(choices.at(1)));  // other seeds
}

TEST_F(HttpCompletionsTest, StopsBeforeAStopText) {
  const std::string fields = absl::StrCat("{", kGreedy, R"(,"prompt":"To be","max_tokens":40)");
  const Json plain = Complete(fields + "}").json();
  const std::string text = Text(plain.root().GetArray("choices")->at(0));
  ASSERT_GT(text.size(), 12u);
  JsonWriter request;
  request.BeginArray().String("never comes").String(text.substr(10, 2)).EndArray();
  const Json stopped = Complete(absl::StrCat(fields, R"(,"stop":)", request.text(), "}")).json();
  const JsonView choice = stopped.root().GetArray("choices")->at(0);
  EXPECT_EQ(Text(choice), text.substr(0, text.find(text.substr(10, 2))));
  EXPECT_EQ(*choice.GetString("finish_reason"), "stop");
}

}  // namespace
}  // namespace polystrate
