// The server itself: paths, methods, keys, bounds, and clients that behave badly.
#include "rpc/http/http_server.h"

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "rpc/http/status_page.h"
#include "tests/rpc/http_client.h"
#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

constexpr char kShort[] = R"({"prompt":[11,7,301],"max_tokens":2,"ignore_eos":true})";
// Minutes of work, if nobody stops it.
constexpr char kLong[] = R"({"prompt":[11,7,301],"max_tokens":30000,"ignore_eos":true})";
constexpr char kLongStream[] =
    R"({"prompt":[11,7,301],"max_tokens":30000,"ignore_eos":true,"stream":true})";

class HttpServerTest : public testing::Test {
 protected:
  void Start(const HttpOptions& options = {}, HttpExtras extras = {}) {
    served_.Run();
    auto server = HttpServer::Start("127.0.0.1:0", options, served_.channel(), std::move(extras));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  int port() const { return server_->port(); }
  bool BecomesBusy(int64_t num_requests) const {
    for (int i = 0; i < 10'000; ++i) {
      if (served_.engine().load().running_requests >= num_requests) return true;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return false;
  }

  mutable ServedEngine served_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, EveryPathAndMethod) {
  bool serving = true;
  Start({}, {.metrics = [] { return "# TYPE up gauge\nup 1\n"; },
             .status_json = [] { return R"({"engines":[]})"; },
             .serving = [&] { return serving; }});
  HttpClient client(port());
  const HttpAnswer models = client.Get("/v1/models");
  EXPECT_EQ(models.status, 200);
  const Json list = models.json();
  EXPECT_EQ(*list.root().GetString("object"), "list");
  EXPECT_EQ(*list.root().GetArray("data")->at(0).GetString("id"), "tiny");
  const Json model = client.Get("/v1/models/tiny").json();
  EXPECT_EQ(*model.root().GetString("id"), "tiny");
  EXPECT_EQ(*model.root().GetInt("max_model_len"), 32768);
  const HttpAnswer other = client.Get("/v1/models/org/other%20one");
  EXPECT_EQ(other.status, 404);
  EXPECT_EQ(other.error("code"), "model_not_found");
  EXPECT_NE(other.error("message").find("org/other one"), std::string::npos);

  EXPECT_EQ(client.Get("/health").status, 200);
  serving = false;
  EXPECT_EQ(client.Get("/health").status, 503);
  EXPECT_EQ(client.Get("/metrics").body, "# TYPE up gauge\nup 1\n");
  EXPECT_EQ(client.Get("/status").body, R"({"engines":[]})");
  EXPECT_EQ(client.Get("/").body, std::string(StatusPage()));
  EXPECT_TRUE(client.Get("/version").json().root().Has("version"));

  const HttpAnswer nowhere = client.Get("/v1/engines");
  EXPECT_EQ(nowhere.status, 404);
  EXPECT_EQ(nowhere.error("type"), "not_found_error");
  const HttpAnswer get = client.Get("/v1/completions");
  EXPECT_EQ(get.status, 405);
  EXPECT_EQ(get.headers.at("allow"), "POST");
  // All of that over one connection, and it still works after a body that nobody read.
  EXPECT_EQ(client.Post("/v1/completions", kShort).status, 200);
  const HttpAnswer posted = client.Post("/v1/models", "{}");
  EXPECT_EQ(posted.status, 405);
  EXPECT_EQ(posted.headers.at("allow"), "GET, HEAD");
  EXPECT_EQ(posted.headers.at("connection"), "close");
}

TEST_F(HttpServerTest, WithoutExtrasTheirPathsAreNotThere) {
  Start();
  HttpClient client(port());
  for (const char* path : {"/", "/status", "/metrics"}) {
    EXPECT_EQ(client.Get(path).status, 404) << path;
  }
  EXPECT_EQ(client.Get("/health").status, 200);
}

TEST_F(HttpServerTest, KeysGuardTheApiAndTheStatus) {
  TempDir dir;
  std::ofstream(dir.File("keys")) << "0123456789abcdef\n";
  Start({.security = {.api_key_file = dir.File("keys")}},
        {.metrics = [] { return ""; }, .status_json = [] { return "{}"; }});
  HttpClient client(port());
  for (const char* path : {"/v1/models", "/v1/models/tiny", "/status"}) {
    const HttpAnswer refused = client.Get(path);
    EXPECT_EQ(refused.status, 401) << path;
    EXPECT_EQ(refused.error("code"), "invalid_api_key");
    EXPECT_EQ(client.Get(path, "Authorization: Bearer 0123456789abcdeX\r\n").status, 401);
    EXPECT_EQ(client.Get(path, "Authorization: Bearer 0123456789abcdef\r\n").status, 200);
    EXPECT_EQ(client.Get(path, "X-Api-Key: 0123456789abcdef\r\n").status, 200);
  }
  for (const char* path : {"/health", "/metrics", "/version", "/"}) {
    EXPECT_EQ(client.Get(path).status, 200) << path;
  }
  // Refused without reading the body.
  HttpClient poster(port());
  poster.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 20000000\r\n\r\n");
  const HttpAnswer refused = poster.ReadAnswer();
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.headers.at("connection"), "close");
}

TEST_F(HttpServerTest, BadKeyFileEndsTheStart) {
  const auto server = HttpServer::Start("127.0.0.1:0", {.security = {.api_key_file = "/nowhere"}},
                                        served_.channel(), {});
  EXPECT_EQ(server.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(HttpServer::Start("nowhere", {}, served_.channel(), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(HttpServerTest, BodiesAreBounded) {
  Start({.max_body_bytes = 4096});
  const std::string large = R"({"prompt":")" + std::string(5000, 'x') + R"("})";
  HttpClient client(port());
  const HttpAnswer answer = client.Post("/v1/completions", large);
  EXPECT_EQ(answer.status, 413);
  EXPECT_NE(answer.error("message").find("4096"), std::string::npos);

  // In pieces nobody knows how large it is before it is there.
  HttpClient pieces(port());
  pieces.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  const std::string piece = absl::StrCat("1000\r\n", std::string(4096, ' '), "\r\n");
  for (int i = 0; i < 64 && pieces.Send(piece); ++i) {
  }
  EXPECT_EQ(pieces.ReadAnswer().status, 400);

  HttpClient small(port());
  small.Send(
      absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                   "Transfer-Encoding: chunked\r\n\r\n",
                   absl::Hex(sizeof(kShort) - 1), "\r\n", kShort, "\r\n0\r\n\r\n"));
  EXPECT_EQ(small.ReadAnswer().status, 200);
}

// Nobody waits for a body that is not wanted, nor for one that will never come.
TEST_F(HttpServerTest, LengthsAreJudgedBeforeTheBodyComes) {
  Start({.max_body_bytes = 4096});
  const std::vector<std::pair<std::string, int>> lengths = {
      {"Content-Length: 4097\r\n", 413},
      {"Content-Length: 99999999999999999999999999\r\n", 413},
      {"Content-Length: -1\r\n", 400},
      {"Content-Length: 0x10\r\n", 400},
      {"Content-Length:\r\n", 400},
      {"Content-Length: 2\r\nContent-Length: 3\r\n", 400},
      {"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", 400}};
  for (const auto& [header, status] : lengths) {
    HttpClient client(port());
    const absl::Time begin = absl::Now();
    client.Send(absl::StrCat(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", header,
        "\r\n"));
    const HttpAnswer answer = client.ReadAnswer();
    EXPECT_EQ(answer.status, status) << header;
    EXPECT_FALSE(answer.error("message").empty()) << header;
    EXPECT_LT(absl::Now() - begin, absl::Seconds(20)) << header;  // a body is waited for for 60
  }
  HttpClient get(port());
  get.Send("GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n");
  EXPECT_EQ(get.ReadAnswer().status, 413);
}

TEST_F(HttpServerTest, MalformedRequestsAreRefused) {
  Start();
  for (const std::string& request :
       {std::string("nonsense\r\n\r\n"), std::string("GET /health HTTP/9.9\r\n\r\n"),
        "GET /" + std::string(20000, 'a') + " HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nX: " + std::string(10'000, 'a') + "\r\n\r\n"}) {
    HttpClient client(port());
    client.Send(request);
    const HttpAnswer answer = client.ReadAnswer();
    EXPECT_TRUE(answer.status == 0 || (answer.status >= 400 && answer.status < 500))
        << answer.status;
  }
  HttpClient endless(port());
  endless.Send("GET /" + std::string(100'000, 'a'));
  const HttpAnswer too_large = endless.ReadAnswer();
  EXPECT_EQ(too_large.status, 431);
  EXPECT_NE(too_large.error("message").find("65536"), std::string::npos);
  HttpClient header(port());
  header.Send("GET /health HTTP/1.1\r\nX: " + std::string(100'000, 'a'));
  EXPECT_EQ(header.ReadAnswer().status, 400);
  HttpClient client(port());
  const HttpAnswer form = client.Post("/v1/completions", "", "Content-Type: text/plain\r\n");
  EXPECT_EQ(form.status, 415);
  const HttpAnswer packed =
      HttpClient(port()).Post("/v1/completions", kShort, "Content-Encoding: gzip\r\n");
  EXPECT_EQ(packed.status, 415);
  const HttpAnswer empty =
      HttpClient(port()).Post("/v1/completions", "", "Content-Type: application/json\r\n");
  EXPECT_EQ(empty.status, 400);
  EXPECT_EQ(HttpClient(port()).Get("/health").status, 200);
}

TEST_F(HttpServerTest, AnswersHttp10WithoutChunks) {
  Start();
  HttpClient client(port());
  const std::string body = R"({"prompt":[11,7],"max_tokens":4,"ignore_eos":true,"stream":true})";
  client.Send(absl::StrCat("POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n",
                           "Content-Length: ", body.size(), "\r\n\r\n", body));
  const HttpAnswer answer = client.ReadAnswer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_FALSE(answer.headers.contains("transfer-encoding")) << answer.body;
  EXPECT_EQ(answer.events().back(), "[DONE]");
}

TEST_F(HttpServerTest, OriginsAreAllowedByName) {
  Start({.allowed_origins = {"https://chat.example"}});
  HttpClient client(port());
  const HttpAnswer allowed = client.Get("/v1/models", "Origin: https://chat.example\r\n");
  EXPECT_EQ(allowed.headers.at("access-control-allow-origin"), "https://chat.example");
  EXPECT_FALSE(client.Get("/v1/models", "Origin: https://evil.example\r\n")
                   .headers.contains("access-control-allow-origin"));
  client.Send(
      "OPTIONS /v1/completions HTTP/1.1\r\nHost: x\r\nOrigin: https://chat.example\r\n\r\n");
  const HttpAnswer preflight = client.ReadAnswer();
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.headers.at("access-control-allow-methods"), "POST");
  HttpClient evil(port());
  evil.Send("OPTIONS /v1/completions HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n\r\n");
  EXPECT_EQ(evil.ReadAnswer().status, 405);
}

// An answer is made once, however often its client asks for pieces of it.
TEST_F(HttpServerTest, RangesAreNotHeeded) {
  Start({}, {.metrics = [] { return std::string(1000, 'x'); }});
  HttpClient client(port());
  std::string ranges = "Range: bytes=0-";
  for (int i = 0; i < 2000; ++i) ranges += ",0-";
  const HttpAnswer metrics = client.Get("/metrics", ranges + "\r\n");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_EQ(metrics.body, std::string(1000, 'x'));
  const HttpAnswer completion = client.Post("/v1/completions", kShort, ranges + "\r\n");
  EXPECT_EQ(completion.status, 200) << completion.body;
  EXPECT_EQ(*completion.json().root().GetString("object"), "text_completion");
}

TEST_F(HttpServerTest, ClientsThatHangUpFreeTheEngine) {
  Start();
  {
    HttpClient streaming(port());
    streaming.Send(HttpClient::Request("POST", "/v1/completions", kLongStream));
    streaming.ReadUntil("data: ");
    HttpClient waiting(port());
    waiting.Send(HttpClient::Request("POST", "/v1/completions", kLong));
    ASSERT_TRUE(BecomesBusy(2));
  }
  EXPECT_TRUE(served_.BecomesIdle());
}

TEST_F(HttpServerTest, SlowClientsHoldUpNobody) {
  Start({.max_connections = 200});
  std::vector<std::unique_ptr<HttpClient>> slow;
  for (int i = 0; i < 64; ++i) {
    slow.push_back(std::make_unique<HttpClient>(port()));
    slow.back()->Send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le");
  }
  for (int i = 0; i < 64; ++i) slow.push_back(std::make_unique<HttpClient>(port()));  // silent
  HttpClient reader(port());  // asks and never reads
  reader.Send(HttpClient::Request("POST", "/v1/completions", kLongStream));
  const absl::Time start = absl::Now();
  for (int i = 0; i < 8; ++i) {
    HttpClient client(port());
    EXPECT_EQ(client.Post("/v1/completions", kShort).status, 200);
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST_F(HttpServerTest, ConnectionsBeyondTheBoundAreTurnedAway) {
  Start({.max_connections = 4});
  std::vector<std::unique_ptr<HttpClient>> open;
  for (int i = 0; i < 4; ++i) {
    open.push_back(std::make_unique<HttpClient>(port()));
    EXPECT_EQ(open.back()->Get("/health").status, 200);
  }
  HttpClient extra(port());
  const HttpAnswer refused = extra.Get("/health");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  open.pop_back();
  int status = 0;
  for (int i = 0; i < 200 && status != 200; ++i) {
    status = HttpClient(port()).Get("/health").status;
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(status, 200);
}

TEST_F(HttpServerTest, ManyStreamsAtOnce) {
  Start();
  std::vector<std::thread> threads;
  std::vector<std::string> texts(64);
  for (size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      HttpClient client(port());
      const HttpAnswer answer = client.Post(
          "/v1/completions",
          R"({"prompt":[11,7,301],"temperature":0,"max_tokens":20,"ignore_eos":true,"stream":true})");
      for (const std::string& event : answer.events()) {
        if (event == "[DONE]") break;
        texts[i] +=
            *Json::Parse(event, "chunk")->root().GetArray("choices")->at(0).GetString("text");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Answer direct = Ask(served_.inference(), GreedyRequest(20));
  for (const std::string& text : texts) EXPECT_EQ(text, direct.text);
}

TEST_F(HttpServerTest, ShutdownWaitsForAnswersAndEndsStreams) {
  Start();
  const int old_port = port();
  HttpClient idle(old_port);
  EXPECT_EQ(idle.Get("/health").status, 200);
  HttpClient streaming(old_port);
  streaming.Send(HttpClient::Request("POST", "/v1/completions", kLongStream));
  streaming.ReadUntil("data: ");
  HttpClient finishing(old_port);
  finishing.Send(HttpClient::Request(
      "POST", "/v1/completions", R"({"prompt":[11,7,301],"max_tokens":300,"ignore_eos":true})"));
  ASSERT_TRUE(BecomesBusy(2));
  const absl::Time start = absl::Now();
  server_->Shutdown(start + absl::Milliseconds(500));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  EXPECT_EQ(finishing.ReadAnswer().status, 200);
  const HttpAnswer ended = streaming.ReadAnswer();
  EXPECT_EQ(ended.status, 200);
  EXPECT_NE(ended.events().back().find("shutting down"), std::string::npos);
  EXPECT_EQ(idle.Get("/health").status, 0);
  EXPECT_FALSE(HttpClient(old_port).connected());
  EXPECT_TRUE(served_.BecomesIdle());
}

TEST_F(HttpServerTest, ThePortIsFreeAtOnceAndNotBefore) {
  Start();
  const std::string address = absl::StrCat("127.0.0.1:", port());
  HttpClient client(port());
  EXPECT_EQ(client.Get("/version").status, 200);
  EXPECT_EQ(HttpServer::Start(address, {}, served_.channel(), {}).status().code(),
            absl::StatusCode::kUnavailable);
  server_.reset();  // closes the connection, which the client still has
  const auto next = HttpServer::Start(address, {}, served_.channel(), {});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(HttpClient((*next)->port()).Get("/version").status, 200);
}

TEST_F(HttpServerTest, ALostBackendIs503) {
  Start();
  served_.Stop(absl::ZeroDuration());
  HttpClient client(port());
  const HttpAnswer answer = client.Post("/v1/completions", kShort);
  EXPECT_EQ(answer.status, 503) << answer.body;
  EXPECT_EQ(answer.error("type"), "server_error");
}

}  // namespace
}  // namespace polystrate
