#include "rpc/http/status_page.h"

#include <gtest/gtest.h>

#include <regex>

#include "rpc/http/http_server.h"
#include "tests/rpc/answer.h"
#include "tests/rpc/http_client.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

TEST(StatusPageTest, IsItsThreeFilesInOne) {
  const std::string page(StatusPage());
  EXPECT_EQ(page.rfind("<!doctype html>", 0), 0u);
  for (const char* file : {"rpc/http/status_page.css", "rpc/http/status_page.js"}) {
    const std::string text = ReadFile(SourceFile(file));
    EXPECT_GT(text.size(), 1000u);
    EXPECT_NE(page.find(text), std::string::npos) << file;
  }
  EXPECT_EQ(page.find("@status"), std::string::npos);
}

// What an engine says may be anything, and the page may be behind any network.
TEST(StatusPageTest, TakesNoMarkupFromEnginesAndNothingFromElsewhere) {
  const std::string page(StatusPage());
  for (const char* word : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
                           "eval(", "new Function", " style=", "onclick", "https://", "//cdn"}) {
    EXPECT_EQ(page.find(word), std::string::npos) << word;
  }
}

TEST(StatusPageTest, PolicyNamesItsStyleAndItsScript) {
  const std::string policy = StatusPagePolicy();
  EXPECT_TRUE(std::regex_match(
      policy, std::regex("default-src 'none'; script-src 'sha256-[A-Za-z0-9+/]{43}='; "
                         "style-src 'sha256-[A-Za-z0-9+/]{43}='; connect-src 'self'; .*")))
      << policy;
  EXPECT_EQ(policy.find("unsafe"), std::string::npos);
}

TEST(StatusPageTest, IsServedToAllAndWhatItShowsToThoseWithAKey) {
  TempDir dir;
  WriteFile(dir.File("keys"), "key-of-an-operator\n");
  HttpOptions options;
  options.security.api_key_file = dir.File("keys");
  const auto nobody = ConnectTo("127.0.0.1:1");
  const auto server =
      HttpServer::Start("127.0.0.1:0", options, nobody, {.status_json = [] { return "{}"; }});
  ASSERT_TRUE(server.ok()) << server.status();
  HttpClient client((*server)->port());

  const HttpAnswer page = client.Get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(page.body, StatusPage());
  EXPECT_EQ(page.headers.at("content-type"), "text/html; charset=utf-8");
  EXPECT_EQ(page.headers.at("content-security-policy"), StatusPagePolicy());
  EXPECT_EQ(client.Get("/status").status, 401);
  const HttpAnswer status = client.Get("/status", "Authorization: Bearer key-of-an-operator\r\n");
  EXPECT_EQ(status.status, 200);
  EXPECT_EQ(status.body, "{}");
  EXPECT_EQ(status.headers.at("cache-control"), "no-store");
}

TEST(StatusPageTest, NoneWhereThereIsNothingToShow) {
  const auto server = HttpServer::Start("127.0.0.1:0", {}, ConnectTo("127.0.0.1:1"), {});
  ASSERT_TRUE(server.ok()) << server.status();
  for (const char* path : {"/", "/status"}) {
    HttpClient client((*server)->port());
    EXPECT_EQ(client.Get(path).status, 404) << path;
  }
}

}  // namespace
}  // namespace polystrate
