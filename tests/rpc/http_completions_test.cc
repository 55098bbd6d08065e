#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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

// {tokens, token_logprobs, top_logprobs, text_offset} of a choice.
struct Logprobs {
  std::vector<std::string> tokens;
  std::vector<double> logprobs;  // 1: null
  std::vector<size_t> num_likeliest;
  std::vector<double> likeliest;  // the highest of each
  std::vector<int64_t> offsets;
};

Logprobs ReadLogprobs(const JsonView& choice) {
  Logprobs read;
  const auto lists = choice.GetObject("logprobs");
  EXPECT_TRUE(lists.ok()) << lists.status();
  if (!lists.ok()) return read;
  for (const JsonView& token : lists->GetArray("tokens")->Elements()) {
    read.tokens.emplace_back(*token.AsString("token"));
  }
  for (const JsonView& logprob : lists->GetArray("token_logprobs")->Elements()) {
    read.logprobs.push_back(logprob.IsNull() ? 1.0 : *logprob.AsDouble("logprob"));
  }
  for (const JsonView& top : lists->GetArray("top_logprobs")->Elements()) {
    double highest = -1e9;
    if (!top.IsNull()) {
      for (const auto& [text, logprob] : top.Members()) {
        highest = std::max(highest, *logprob.AsDouble("logprob"));
      }
    }
    read.num_likeliest.push_back(top.IsNull() ? 0 : top.Keys().size());
    read.likeliest.push_back(top.IsNull() ? 1.0 : highest);
  }
  for (const JsonView& offset : lists->GetArray("text_offset")->Elements()) {
    read.offsets.push_back(*offset.AsInt("offset"));
  }
  EXPECT_EQ(read.tokens.size(), read.logprobs.size());
  EXPECT_EQ(read.tokens.size(), read.likeliest.size());
  EXPECT_EQ(read.tokens.size(), read.offsets.size());
  return read;
}

TEST_F(HttpCompletionsTest, LogprobsAreTheEngines) {
  pb::GenerateRequest request = GreedyRequest(12);
  request.mutable_response()->set_return_output_logprobs(true);
  const Answer direct = Ask(served_.inference(), request);
  std::vector<double> expected;
  for (const pb::GenerateResponse& event : direct.events) {
    for (const pb::TokenInfo& token : event.token().tokens()) expected.push_back(token.logprob());
  }
  for (const int n : {0, 1, 5}) {
    const std::string fields =
        absl::StrCat("{", kGreedy, R"(,"prompt":[11,7,301],"max_tokens":12,"logprobs":)", n);
    const Json json = Complete(fields + "}").json();
    const JsonView choice = json.root().GetArray("choices")->at(0);
    const Logprobs read = ReadLogprobs(choice);
    EXPECT_EQ(read.logprobs, expected);
    EXPECT_EQ(read.likeliest, expected);  // greedy
    EXPECT_EQ(absl::StrJoin(read.tokens, ""), Text(choice));
    for (const size_t num : read.num_likeliest) EXPECT_LE(num, std::max<size_t>(n, 1));
    EXPECT_EQ(read.offsets.front(), 0);
    EXPECT_TRUE(std::is_sorted(read.offsets.begin(), read.offsets.end()));

    std::vector<double> streamed;
    for (const std::string& event : Complete(fields + R"(,"stream":true})").events()) {
      if (event == "[DONE]") break;
      const Json chunk = *Json::Parse(event, "chunk");
      const JsonView part = chunk.root().GetArray("choices")->at(0);
      if (!part.Has("logprobs")) continue;
      const Logprobs logprobs = ReadLogprobs(part);
      EXPECT_EQ(logprobs.offsets.front(), read.offsets.at(streamed.size()));
      streamed.insert(streamed.end(), logprobs.logprobs.begin(), logprobs.logprobs.end());
    }
    EXPECT_EQ(streamed, expected);
  }
}

// As lm-eval's local-completions asks for the likelihood of a text's end.
TEST_F(HttpCompletionsTest, EchoScoresThePrompt) {
  pb::GenerateRequest request = GreedyRequest(1);
  request.mutable_response()->set_return_prompt_logprobs(true);
  request.mutable_response()->set_return_output_logprobs(true);
  const Answer direct = Ask(served_.inference(), request);
  const pb::PromptOutput& prompt = direct.events.front().prompt();
  const std::string fields =
      absl::StrCat("{", kGreedy, R"(,"prompt":[[11,7,301],[11,7,301]],"logprobs":1,"echo":true)");
  for (const int max_tokens : {1, 0}) {
    const Json json = Complete(absl::StrCat(fields, R"(,"max_tokens":)", max_tokens, "}")).json();
    const JsonView choices = *json.root().GetArray("choices");
    ASSERT_EQ(choices.size(), 2);
    for (const JsonView& choice : choices.Elements()) {
      const Logprobs read = ReadLogprobs(choice);
      ASSERT_EQ(read.logprobs.size(), 3u + max_tokens);
      EXPECT_EQ(read.logprobs[0], 1.0);
      EXPECT_EQ(read.num_likeliest[0], 0u);
      for (int i = 1; i < 3; ++i) {
        EXPECT_EQ(read.logprobs[i], prompt.tokens(i).logprob());
        // What lm-eval takes for greedy.
        EXPECT_EQ(read.logprobs[i] == read.likeliest[i], prompt.tokens(i).rank() == 1);
      }
    }
    EXPECT_EQ(*json.root().GetObject("usage")->GetInt("completion_tokens"), 2 * max_tokens);
  }
}

TEST_F(HttpCompletionsTest, EchoRepeatsTheText) {
  const std::string fields = absl::StrCat("{", kGreedy, R"(,"prompt":"To be","max_tokens":5)");
  const std::string plain = Text(Complete(fields + "}").json().root().GetArray("choices")->at(0));
  const Json echoed = Complete(fields + R"(,"echo":true,"n":2})").json();
  for (const JsonView& choice : echoed.root().GetArray("choices")->Elements()) {
    EXPECT_EQ(Text(choice), "To be" + plain);
  }
  const Streamed streamed =
      ReadStream(Complete(fields + R"(,"echo":true,"logprobs":2,"stream":true})"));
  EXPECT_EQ(streamed.texts.at(0), "To be" + plain);
}

TEST_F(HttpCompletionsTest, FieldsThatAreWrongAreNamed) {
  const struct {
    const char* fields;
    const char* param;
  } cases[] = {
      {R"("max_tokens":8)", "prompt"},
      {R"("prompt":5)", "prompt"},
      {R"("prompt":[])", "prompt"},
      {R"("prompt":[1,"a"])", "prompt"},
      {R"("prompt":["a",1])", "prompt"},
      {R"("prompt":[[1],"a"])", "prompt"},
      {R"("prompt":[[]])", "prompt"},
      {R"("prompt":[1.5])", "prompt"},
      {R"("prompt":[-1])", "prompt"},
      {R"("prompt":"a","max_tokens":"8")", "max_tokens"},
      {R"("prompt":"a","max_tokens":0)", "max_tokens"},
      {R"("prompt":"a","max_tokens":-1)", "max_tokens"},
      {R"("prompt":"a","temperature":"hot")", "temperature"},
      {R"("prompt":"a","n":0)", "n"},
      {R"("prompt":"a","best_of":3)", "best_of"},
      {R"("prompt":"a","logprobs":21)", "logprobs"},
      {R"("prompt":"a","logprobs":true)", "logprobs"},
      {R"("prompt":"a","suffix":"b")", "suffix"},
      {R"("prompt":"a","logit_bias":{"5":1})", "logit_bias"},
      {R"("prompt":"a","stop":[1])", "stop"},
      {R"("prompt":"a","stop":1)", "stop"},
      {R"("prompt":"a","stream":"yes")", "stream"},
      {R"("prompt":"a","stream_options":{"include_usage":true})", "stream_options"},
      {R"("prompt":"a","response_format":{"type":"json_object"})", "response_format"},
      {R"("prompt":"a","guided_regex":"a+")", "guided_regex"},
      {R"("prompt":"a","model":7)", "model"},
  };
  for (const auto& wrong : cases) {
    const HttpAnswer answer = Complete(absl::StrCat("{", wrong.fields, "}"));
    EXPECT_EQ(answer.status, 400) << wrong.fields << answer.body;
    EXPECT_EQ(answer.error("param"), wrong.param) << wrong.fields;
    EXPECT_EQ(answer.error("type"), "invalid_request_error");
  }
  // Nor does the engine take these; it says why.
  const HttpAnswer hot = Complete(R"({"prompt":"a","temperature":3})");
  EXPECT_EQ(hot.status, 400);
  EXPECT_NE(hot.error("message").find("temperature"), std::string::npos);
  const HttpAnswer other = Complete(R"({"prompt":"a","model":"gpt-4"})");
  EXPECT_EQ(other.status, 404);
  EXPECT_EQ(other.error("code"), "model_not_found");
  // What is not JSON, or not an object.
  for (const char* body : {"{", "[]", "null", "\"a\"", "{\"prompt\":\"\xff\"}", "{'a':1}"}) {
    EXPECT_EQ(Complete(body).status, 400) << body;
  }
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  EXPECT_EQ(Complete(absl::StrCat(R"({"prompt":)", deep, "}")).status, 400);
  EXPECT_TRUE(served_.BecomesIdle());
}

TEST_F(HttpCompletionsTest, DefaultsAndFieldsWithoutMeaningPass) {
  const HttpAnswer answer = Complete(R"({"prompt":"To be","user":"me","logit_bias":{},"suffix":null,
      "best_of":1,"stop":null,"temperature":null,"response_format":{"type":"text"},
      "something_new":{"a":[1]},"ignore_eos":true})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json json = answer.json();
  EXPECT_EQ(*json.root().GetString("model"), "tiny");
  EXPECT_EQ(*json.root().GetObject("usage")->GetInt("completion_tokens"), 16);
}

TEST_F(HttpCompletionsTest, HeadersTravel) {
  HttpClient client(server_->port());
  const std::string body = R"({"prompt":[11,7,301],"max_tokens":1,"ignore_eos":true,"priority":3})";
  const HttpAnswer answer =
      client.Post("/v1/completions", body,
                  "X-Request-Id: mine-1\r\nx-openengine-routing-key: user 5\r\ntraceparent: "
                  "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("x-request-id"), "mine-1");
  EXPECT_EQ(*answer.json().root().GetString("id"), "cmpl-mine-1");
  const HttpAnswer bad = client.Post("/v1/completions", body, "X-Request-Id: not mine\r\n");
  EXPECT_EQ(bad.status, 200);
  EXPECT_NE(bad.headers.at("x-request-id"), "not mine");
  EXPECT_EQ(client.Post("/v1/completions", body, "x-openengine-routing-key: \x01\r\n").status, 400);
}

TEST_F(HttpCompletionsTest, MorePromptsThanRunAtOnce) {
  std::string prompts;
  for (int i = 0; i < 200; ++i) absl::StrAppend(&prompts, i ? "," : "", "[11,", i + 5, "]");
  const Json json = Complete(absl::StrCat(R"({"prompt":[)", prompts,
                                          R"(],"max_tokens":1,"temperature":0,"ignore_eos":true})"))
                        .json();
  const JsonView choices = *json.root().GetArray("choices");
  ASSERT_EQ(choices.size(), 200);
  pb::GenerateRequest request = GreedyRequest(1);
  request.mutable_token_ids()->clear_ids();
  request.mutable_token_ids()->add_ids(11);
  request.mutable_token_ids()->add_ids(155);
  EXPECT_EQ(Text(choices.at(150)), Ask(served_.inference(), request).text);
}

// One of two that cannot be: all of it fails, and the other is not computed for nobody.
TEST_F(HttpCompletionsTest, OnePromptFailsAll) {
  const HttpAnswer answer =
      Complete(R"({"prompt":[[11,7],[5000]],"max_tokens":20000,"ignore_eos":true})");
  EXPECT_EQ(answer.status, 400) << answer.body;
  EXPECT_TRUE(served_.BecomesIdle());
}

}  // namespace
}  // namespace polystrate
