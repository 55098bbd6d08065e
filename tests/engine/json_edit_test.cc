#include "engine/json_edit.h"

#include <gtest/gtest.h>

#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

std::string Set(const std::string& text, const std::vector<JsonMember>& members) {
  const absl::StatusOr<std::string> edited = SetJsonMembers(text, "test.json", members);
  EXPECT_TRUE(edited.ok()) << edited.status();
  return edited.value_or("");
}

TEST(JsonEditTest, LeavesTheRestAsItWasWritten) {
  const std::string text =
      "{\n    \"b\": 1e-07,\n\t\"a\" : [1, {\"b\": 2}],\n    \"c\": \"}\\\",\\\\\"\n}\n";
  EXPECT_EQ(Set(text, {}), text);
  EXPECT_EQ(Set(text, {{"a", "7"}}),
            "{\n    \"b\": 1e-07,\n\t\"a\" : 7,\n    \"c\": \"}\\\",\\\\\"\n}\n");
  EXPECT_EQ(Set(text, {{"c", "[]"}, {"b", "true"}}),
            "{\n    \"b\": true,\n\t\"a\" : [1, {\"b\": 2}],\n    \"c\": []\n}\n");
}

TEST(JsonEditTest, AddsAtTheEndAsTheFirstIsIndented) {
  EXPECT_EQ(Set("{\n  \"a\": 1\n}\n", {{"b", "2"}, {"a", "3"}, {"c", "[0]"}}),
            "{\n  \"a\": 3,\n  \"b\": 2,\n  \"c\": [0]\n}\n");
  EXPECT_EQ(Set("{\"a\":1}", {{"b", "2"}}), "{\"a\":1, \"b\": 2}");
}

TEST(JsonEditTest, MayLeaveOutWhatIsNotThere) {
  EXPECT_EQ(Set("{\"a\": 1}", {{"b", "2", /*add=*/false}, {"a", "3", /*add=*/false}}),
            "{\"a\": 3}");
}

TEST(JsonEditTest, RefusesWhatIsNoPlainObject) {
  for (const char* text :
       {"", "[]", "{}", "{\"a\": 1,}", "{a: 1}", "{\"a\" 1}", "{\"a\": }", "{\"a\": 1", "{\"a"}) {
    EXPECT_TRUE(Fails(SetJsonMembers(text, "test.json", {}).status(),
                      absl::StatusCode::kInvalidArgument, "test.json: expected"))
        << text;
  }
}

}  // namespace
}  // namespace polystrate
