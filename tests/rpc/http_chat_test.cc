// Chats, against a backend that keeps what it is asked and answers what the test says.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "rpc/http/http_server.h"
#include "rpc/request_extra.h"
#include "tests/rpc/answer.h"
#include "tests/rpc/http_client.h"

namespace polystrate {
namespace {

constexpr char kTemplate[] =
    "{{ bos_token }}{% if tools %}tools: {{ tools | length }}\n{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

class FakeControl final : public pb::Control::Service {
 public:
  explicit FakeControl(std::string chat_template) : chat_template_(std::move(chat_template)) {}
  grpc::Status GetModelInfo(grpc::ServerContext*, const pb::GetModelInfoRequest* request,
                            pb::ModelInfo* response) override {
    if (!request->model().empty() && request->model() != "chatty") {
      return {grpc::StatusCode::NOT_FOUND, "no such model"};
    }
    response->set_model_id("chatty");
    auto& extra = *response->mutable_extra()->mutable_fields();
    if (!chat_template_.empty()) extra["chat_template"].set_string_value(chat_template_);
    extra["bos_token"].set_string_value("<s>");
    return grpc::Status::OK;
  }

 private:
  const std::string chat_template_;
};

class FakeInference final : public pb::Inference::Service {
 public:
  grpc::Status Generate(grpc::ServerContext*, const pb::GenerateRequest* request,
                        grpc::ServerWriter<pb::GenerateResponse>* writer) override {
    {
      absl::MutexLock lock(&mutex_);
      asked_ = *request;
    }
    const uint32_t n = std::max(1u, request->sampling().num_sequences());
    for (const char* text : {"Hel", "lo \xc3\xa9"}) {
      for (uint32_t i = 0; i < n; ++i) writer->Write(Token(i, text));
    }
    if (fails) {
      pb::GenerateResponse event;
      event.mutable_error()->set_code(pb::ERROR_CODE_INTERNAL);
      event.mutable_error()->set_message("NaN");
      writer->Write(event);
      return grpc::Status::OK;
    }
    for (uint32_t i = 0; i < n; ++i) {
      pb::GenerateResponse event;
      event.mutable_finished()->set_output_index(i);
      event.mutable_finished()->set_reason(pb::FINISH_REASON_STOP);
      if (i + 1 == n) {
        event.mutable_usage()->set_prompt_tokens(9);
        event.mutable_usage()->set_completion_tokens(2 * n);
        event.mutable_usage()->set_cached_prompt_tokens(4);
      }
      writer->Write(event);
    }
    return grpc::Status::OK;
  }

  pb::GenerateRequest asked() {
    absl::MutexLock lock(&mutex_);
    return asked_;
  }
  bool fails = false;

 private:
  static pb::GenerateResponse Token(uint32_t index, const std::string& text) {
    pb::GenerateResponse event;
    event.mutable_token()->set_output_index(index);
    event.mutable_token()->set_text(text);
    pb::TokenInfo& token = *event.mutable_token()->add_tokens();
    token.set_token_id(5);
    token.set_token(text);
    token.set_logprob(-0.5);
    pb::LogProb& other = *token.add_candidates();
    other.set_token_id(7);
    other.set_token("x");
    other.set_logprob(-0.25);
    return event;
  }

  absl::Mutex mutex_;
  pb::GenerateRequest asked_ ABSL_GUARDED_BY(mutex_);
};

class HttpChatTest : public testing::Test {
 protected:
  void Start(const std::string& chat_template = kTemplate) {
    control_ = std::make_unique<FakeControl>(chat_template);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(control_.get()).RegisterService(&inference_);
    backend_ = builder.BuildAndStart();
    auto server =
        HttpServer::Start("127.0.0.1:0", {}, ConnectTo(absl::StrCat("127.0.0.1:", port)), {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  ~HttpChatTest() override {
    server_.reset();
    if (backend_ != nullptr) backend_->Shutdown(std::chrono::system_clock::now());
  }

  HttpAnswer Chat(const std::string& fields) {
    HttpClient client(server_->port());
    return client.Post("/v1/chat/completions", absl::StrCat("{", fields, "}"));
  }

  std::unique_ptr<FakeControl> control_;
  FakeInference inference_;
  std::unique_ptr<grpc::Server> backend_;
  std::unique_ptr<HttpServer> server_;
};

constexpr char kHello[] = R"("messages":[{"role":"user","content":"hi"}])";

TEST_F(HttpChatTest, RendersThePromptAndAnswers) {
  Start();
  const HttpAnswer answer = Chat(
      R"("model":"chatty","max_tokens":7,"max_completion_tokens":9,"temperature":0.5,"messages":[
         {"role":"system","content":"Be brief."},
         {"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]}])");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const pb::GenerateRequest asked = inference_.asked();
  EXPECT_EQ(asked.prompt(), "<s>system: Be brief.\nuser: one\ntwo\nassistant:");
  EXPECT_FALSE(asked.extra().fields().at(kAddSpecialTokensKey).bool_value());
  EXPECT_EQ(asked.stopping().max_tokens(), 9u);
  EXPECT_EQ(asked.sampling().temperature(), 0.5);
  const Json json = answer.json();
  const JsonView root = json.root();
  EXPECT_EQ(*root.GetString("object"), "chat.completion");
  EXPECT_EQ(*root.GetString("id"), "chatcmpl-" + asked.request_id());
  const JsonView choice = root.GetArray("choices")->at(0);
  EXPECT_EQ(*choice.GetObject("message")->GetString("role"), "assistant");
  EXPECT_EQ(*choice.GetObject("message")->GetString("content"), "Hello \xc3\xa9");
  EXPECT_EQ(*choice.GetString("finish_reason"), "stop");
  EXPECT_FALSE(choice.Has("logprobs"));
  const JsonView usage = *root.GetObject("usage");
  EXPECT_EQ(*usage.GetInt("total_tokens"), 11);
  EXPECT_EQ(*usage.GetObject("prompt_tokens_details")->GetInt("cached_tokens"), 4);
}

TEST_F(HttpChatTest, StreamsRoleTextEndAndUsage) {
  Start();
  const HttpAnswer answer =
      Chat(absl::StrCat(kHello, R"(,"n":2,"stream":true,"stream_options":{"include_usage":true})"));
  EXPECT_EQ(inference_.asked().sampling().num_sequences(), 2u);
  EXPECT_FALSE(inference_.asked().stopping().has_max_tokens());
  const std::vector<std::string> events = answer.events();
  ASSERT_EQ(events.back(), "[DONE]");
  std::vector<std::string> said(2);
  std::vector<int> roles(2);
  std::vector<int> ends(2);
  int64_t total = -1;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const Json json = *Json::Parse(events[i], "chunk");
    EXPECT_EQ(*json.root().GetString("object"), "chat.completion.chunk");
    EXPECT_EQ(*json.root().GetString("model"), "chatty");
    const JsonView choices = *json.root().GetArray("choices");
    if (choices.size() == 0) {
      total = *json.root().GetObject("usage")->GetInt("total_tokens");
      continue;
    }
    const JsonView choice = choices.at(0);
    const int64_t index = *choice.GetInt("index");
    const JsonView delta = *choice.GetObject("delta");
    if (delta.Has("role")) {
      ++roles[index];
      EXPECT_EQ(said[index], "");
    }
    said[index] += *delta.GetStringOr("content", "");
    if (choice.Has("finish_reason")) ++ends[index];
  }
  EXPECT_EQ(said, std::vector<std::string>(2, "Hello \xc3\xa9"));
  EXPECT_EQ(roles, std::vector<int>(2, 1));
  EXPECT_EQ(ends, std::vector<int>(2, 1));
  EXPECT_EQ(total, 13);
}

TEST_F(HttpChatTest, LogprobsHaveBytes) {
  Start();
  const Json json = Chat(absl::StrCat(kHello, R"(,"logprobs":true,"top_logprobs":1)")).json();
  EXPECT_EQ(inference_.asked().response().output_candidates().top_n(), 1u);
  const JsonView content =
      *json.root().GetArray("choices")->at(0).GetObject("logprobs")->GetArray("content");
  ASSERT_EQ(content.size(), 2);
  EXPECT_EQ(*content.at(1).GetString("token"), "lo \xc3\xa9");
  EXPECT_EQ(*content.at(1).GetDouble("logprob"), -0.5);
  EXPECT_EQ(content.at(1).GetArray("bytes")->size(), 5);
  EXPECT_EQ(*content.at(1).GetArray("bytes")->at(4).AsInt("byte"), 0xa9);
  const JsonView likeliest = *content.at(1).GetArray("top_logprobs");
  ASSERT_EQ(likeliest.size(), 1);
  EXPECT_EQ(*likeliest.at(0).GetString("token"), "x");
}

TEST_F(HttpChatTest, ToolsAreForTheTemplate) {
  Start();
  const std::string tools =
      absl::StrCat(kHello, R"(,"tools":[{"type":"function","function":{"name":"f"}}])");
  EXPECT_EQ(Chat(tools).status, 200);
  EXPECT_EQ(inference_.asked().prompt(), "<s>tools: 1\nuser: hi\nassistant:");
  EXPECT_EQ(Chat(tools + R"(,"tool_choice":"none")").status, 200);
  EXPECT_EQ(inference_.asked().prompt(), "<s>user: hi\nassistant:");
}

TEST_F(HttpChatTest, FieldsThatAreWrongAreNamed) {
  Start();
  const struct {
    const char* fields;
    const char* param;
  } cases[] = {
      {R"("model":"chatty")", "messages"},
      {R"("messages":[])", "messages"},
      {R"("messages":"hi")", "messages"},
      {R"("messages":[{"content":"hi"}])", "messages"},
      {R"("messages":[{"role":"user","content":5}])", "messages"},
      {R"("messages":[{"role":"user","content":[{"type":"image_url"}]}])", "messages"},
      {R"("messages":[{"role":"user","content":"a"}],"tools":5)", "tools"},
      {R"("messages":[{"role":"user","content":"a"}],"top_logprobs":3)", "top_logprobs"},
      {R"("messages":[{"role":"user","content":"a"}],"max_tokens":0)", "max_tokens"},
      {R"("messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_object"})",
       "response_format"},
  };
  for (const auto& wrong : cases) {
    const HttpAnswer answer = Chat(wrong.fields);
    EXPECT_EQ(answer.status, 400) << wrong.fields << answer.body;
    EXPECT_EQ(answer.error("param"), wrong.param) << wrong.fields;
  }
  EXPECT_EQ(Chat(absl::StrCat(kHello, R"(,"model":"other")")).status, 404);
}

TEST_F(HttpChatTest, AModelWithoutATemplate) {
  Start("");
  const HttpAnswer answer = Chat(kHello);
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.error("message").find("/v1/completions"), std::string::npos);
}

TEST_F(HttpChatTest, ATemplateThatObjects) {
  Start("{{ raise_exception('only one at a time') }}");
  const HttpAnswer answer = Chat(kHello);
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.error("message"), "only one at a time");
}

TEST_F(HttpChatTest, AFailureUnderWayIsAnEvent) {
  Start();
  inference_.fails = true;
  const HttpAnswer whole = Chat(kHello);
  EXPECT_EQ(whole.status, 500);
  EXPECT_EQ(whole.error("message"), "NaN");
  const HttpAnswer stream = Chat(absl::StrCat(kHello, R"(,"stream":true)"));
  EXPECT_EQ(stream.status, 200);
  EXPECT_TRUE(stream.whole);
  const Json last = *Json::Parse(stream.events().back(), "chunk");
  EXPECT_EQ(*last.root().GetObject("error")->GetString("message"), "NaN");
  EXPECT_EQ(*last.root().GetObject("error")->GetString("type"), "server_error");
}

}  // namespace
}  // namespace polystrate
