// What a client may say in `extra`, and what it is told of what it may not.

#include "rpc/request_extra.h"

#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "rpc/convert.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;

Struct FromJson(const std::string& json) {
  Struct parsed;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, &parsed).ok()) << json;
  return parsed;
}

// Of one output with these token ids.
Struct Resume(const Value& token_ids) {
  Struct extra = FromJson(R"({"polystrate.resume": {"outputs": [{"token_ids": null}]}})");
  Value& outputs =
      (*(*extra.mutable_fields())[kResumeKey].mutable_struct_value()->mutable_fields())["outputs"];
  (*outputs.mutable_list_value()
        ->mutable_values(0)
        ->mutable_struct_value()
        ->mutable_fields())["token_ids"] = token_ids;
  return extra;
}

void ExpectRefused(const absl::Status& status, absl::StatusCode code, const std::string& message) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_NE(status.message().find(message), absl::string_view::npos) << status;
}

TEST(RequestExtraTest, WhatIsAbsentHasItsDefault) {
  const auto extra = ReadExtra(Struct());
  ASSERT_TRUE(extra.ok());
  EXPECT_TRUE(extra->resumed.empty());
  EXPECT_TRUE(extra->add_special_tokens);
  const auto resumed = ReadExtra(
      FromJson(R"({"polystrate.resume": {"outputs": [{}, {"ended": true}, {"token_ids": []}]}})"));
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  ASSERT_EQ(resumed->resumed.size(), 3u);
  EXPECT_FALSE(resumed->resumed[0].ended);
  EXPECT_TRUE(resumed->resumed[1].ended);
  EXPECT_TRUE(resumed->resumed[2].tokens.empty());
}

TEST(RequestExtraTest, WhatIsWrittenIsRead) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  const std::vector<ResumedOutput> outputs = {
      {{5, 0, kMost, 5}, false}, {{}, false}, {{1, 2}, true}};
  pb::GenerateRequest request;
  request.mutable_token_ids()->add_ids(3);
  (*request.mutable_extra()->mutable_fields())[kAddSpecialTokensKey].set_bool_value(true);
  SetResume({{{9}, true}}, &request);  // replaced
  SetResume(outputs, &request);
  const auto read = FromWire(request, "tiny", /*tokenizer=*/nullptr);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->resumed.size(), outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_EQ(read->resumed[i].tokens, outputs[i].tokens);
    EXPECT_EQ(read->resumed[i].ended, outputs[i].ended);
  }
  SetResume({}, &request);
  EXPECT_TRUE(FromWire(request, "tiny", nullptr)->resumed.empty());
  EXPECT_EQ(request.extra().fields_size(), 1);
}

TEST(RequestExtraTest, TokensTakeNoMoreBytesThanIsSaid) {
  pb::GenerateRequest request;
  constexpr int64_t kTokens = 10'000;
  SetResume({{std::vector<int32_t>(kTokens, std::numeric_limits<int32_t>::max()), false}},
            &request);
  EXPECT_LE(static_cast<int64_t>(request.ByteSizeLong()), kTokens * kResumedTokenBytes + 128);
}

TEST(RequestExtraTest, SpecialTokensAreAddedUnlessToldOtherwise) {
  const auto tokenizer =
      Tokenizer::ReadFile(SourceFile("tests/golden/tokenizer/spm_llama.json")).value();
  pb::GenerateRequest request;
  request.set_prompt("the");
  const int32_t bos = *tokenizer->TokenToId("<s>");
  const int32_t the = *tokenizer->TokenToId("\u2581the");
  Value& add = (*request.mutable_extra()->mutable_fields())[kAddSpecialTokensKey];
  add.set_bool_value(true);
  EXPECT_EQ(FromWire(request, "", tokenizer.get())->prompt, (std::vector<int32_t>{bos, the}));
  add.set_bool_value(false);
  EXPECT_EQ(FromWire(request, "", tokenizer.get())->prompt, std::vector<int32_t>{the});
  request.set_prompt("<s>the");  // as a chat template writes it
  EXPECT_EQ(FromWire(request, "", tokenizer.get())->prompt[0], bos);
}

TEST(RequestExtraTest, KeysThatAreNotKnownAreNamed) {
  constexpr auto kCode = absl::StatusCode::kUnimplemented;
  ExpectRefused(ReadExtra(FromJson(R"({"top_a": 1})")).status(), kCode, "extra.\"top_a\"");
  ExpectRefused(ReadExtra(FromJson(R"({"polystrate.resum": {}})")).status(), kCode,
                "extra.\"polystrate.resum\"");
  ExpectRefused(
      ReadExtra(FromJson(R"({"polystrate.resume": {"outputs": [{}], "seed": 1}})")).status(), kCode,
      "more than \"outputs\"");
  ExpectRefused(
      ReadExtra(FromJson(R"({"polystrate.resume": {"outputs": [{"text": "a"}]}})")).status(), kCode,
      "outputs[0].text");
  const std::string long_key(100'000, 'k');
  const absl::Status status = ReadExtra(FromJson("{\"" + long_key + "\": 1}")).status();
  ExpectRefused(status, kCode, "kkk");
  EXPECT_LT(status.message().size(), 200u);
}

TEST(RequestExtraTest, WrongTypesAreNamedWithWhatIsExpected) {
  const struct {
    const char* json;
    const char* message;
  } cases[] = {
      {R"({"polystrate.add_special_tokens": 1})", "it must be true or false"},
      {R"({"polystrate.add_special_tokens": null})", "is null"},
      {R"({"polystrate.resume": []})", "is a list; it must be an object"},
      {R"({"polystrate.resume": null})", "is null; it must be an object"},
      {R"({"polystrate.resume": {}})", "an object with \"outputs\""},
      {R"({"polystrate.resume": {"outputs": {}}})", "an object with \"outputs\""},
      {R"({"polystrate.resume": {"outputs": []}})", "outputs is empty"},
      {R"({"polystrate.resume": {"outputs": [[5]]}})", "outputs[0] is a list; it must be"},
      {R"({"polystrate.resume": {"outputs": [{}, {"ended": "no"}]}})",
       "outputs[1].ended is a string; it must be true or false"},
      {R"({"polystrate.resume": {"outputs": [{"token_ids": 5}]}})",
       "outputs[0].token_ids is the number 5; it must be a list"},
      {R"({"polystrate.resume": {"outputs": [{"token_ids": [1, "2"]}]}})",
       "outputs[0].token_ids[1] is a string; it must be a token id"},
      {R"({"polystrate.resume": {"outputs": [{"token_ids": [[1]]}]}})", "token_ids[0] is a list"},
      {R"({"polystrate.resume": {"outputs": [{"token_ids": [true]}]}})", "token_ids[0] is true"},
  };
  for (const auto& test : cases) {
    ExpectRefused(ReadExtra(FromJson(test.json)).status(), absl::StatusCode::kInvalidArgument,
                  test.message);
  }
  Value nothing;
  nothing.mutable_list_value()->add_values();  // of no kind
  ExpectRefused(ReadExtra(Resume(nothing)).status(), absl::StatusCode::kInvalidArgument,
                "token_ids[0] is empty");
}

TEST(RequestExtraTest, NumbersThatAreNoTokenIdsAreRefused) {
  using Double = std::numeric_limits<double>;
  for (const double number :
       {-1.0, -0.5, 0.5, 2147483648.0, 4294967301.0, 1e300, -1e300, 1e-320, Double::quiet_NaN(),
        -Double::quiet_NaN(), Double::infinity(), -Double::infinity()}) {
    Value ids;
    ids.mutable_list_value()->add_values()->set_number_value(7);
    ids.mutable_list_value()->add_values()->set_number_value(number);
    ExpectRefused(ReadExtra(Resume(ids)).status(), absl::StatusCode::kInvalidArgument,
                  "token_ids[1] is the number");
  }
  Value ids;
  ids.mutable_list_value()->add_values()->set_number_value(-0.0);
  EXPECT_EQ(ReadExtra(Resume(ids))->resumed[0].tokens, std::vector<int32_t>{0});
}

// What protobuf parses at all: 100 levels.
TEST(RequestExtraTest, DeepNestingIsRefused) {
  Value deep;
  Value* inner = &deep;
  for (int i = 0; i < 40; ++i) inner = inner->mutable_list_value()->add_values();
  inner->set_number_value(1);
  EXPECT_FALSE(ReadExtra(Resume(deep)).ok());
  for (int i = 0; i < 10'000; ++i) inner = inner->mutable_list_value()->add_values();
  Struct extra;
  EXPECT_FALSE(extra.ParseFromString(Resume(deep).SerializeAsString()));
}

}  // namespace
}  // namespace polystrate
