#include "rpc/http/status_page.h"

#include <gtest/gtest.h>

#include <regex>

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

}  // namespace
}  // namespace polystrate
