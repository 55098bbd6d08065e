// Ids and texts of Hugging Face `tokenizers`, from tools/make_tokenizer_golden.py.
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "engine/detokenizer.h"
#include "engine/json.h"
#include "engine/tokenizer.h"
#include "tests/testing/places.h"
#include "tests/testing/shared_data.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

const std::string kFolder = SourceFile("tests/golden/tokenizer/");
constexpr int64_t kMaxGoldenBytes = 1 << 20;

std::unique_ptr<Tokenizer> Load(const std::string& path) {
  auto tokenizer = Tokenizer::ReadFile(path);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// FNV-1a over a line a text: its ids in decimal with commas between.
class IdHash {
 public:
  void Add(const std::vector<int32_t>& ids) {
    for (size_t i = 0; i < ids.size(); ++i) Add((i == 0 ? "" : ",") + std::to_string(ids[i]));
    Add("\n");
    num_ids_ += static_cast<int64_t>(ids.size());
  }
  void Expect(const JsonView& golden) const {
    char hex[17];
    std::snprintf(hex, sizeof(hex), "%016llx", static_cast<unsigned long long>(hash_));
    EXPECT_EQ(num_ids_, golden.GetInt("num_ids").value());
    EXPECT_EQ(hex, golden.GetString("fnv1a64").value());
  }

 private:
  void Add(const std::string& text) {
    for (const char c : text) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  uint64_t hash_ = 0xcbf29ce484222325u;
  int64_t num_ids_ = 0;
};

std::vector<int32_t> ReadIds(const JsonView& golden) {
  std::vector<int32_t> ids;
  for (const JsonView& id : golden.GetArray("ids")->Elements()) {
    ids.push_back(static_cast<int32_t>(id.AsInt("ids").value()));
  }
  return ids;
}

std::string Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Append(id);
  return text + detokenizer.Flush();
}

void CheckDecode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                 const std::string& decoded, const std::string& skipped) {
  EXPECT_EQ(tokenizer.Decode(ids, false), decoded);
  EXPECT_EQ(tokenizer.Decode(ids, true), skipped);
  EXPECT_EQ(Stream(tokenizer, ids, false), decoded);
  EXPECT_EQ(Stream(tokenizer, ids, true), skipped);
}

void CheckCase(const Tokenizer& tokenizer, const JsonView& golden) {
  const std::string text = golden.GetString("text").value();
  SCOPED_TRACE(::testing::PrintToString(text));
  const std::vector<int32_t> expected = ReadIds(golden);
  const auto ids = tokenizer.Encode(text);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*ids, expected);
  CheckDecode(tokenizer, expected, golden.GetStringOr("decoded", text).value(),
              golden.GetStringOr("decoded_skipping_special", text).value());
}

void CheckCasesAndRuns(const Tokenizer& tokenizer, const std::string& name) {
  const Json json = Json::ReadFile(kFolder + "cases.json", kMaxGoldenBytes).value();
  const JsonView golden = json.root().GetObject(name).value();
  const std::vector<JsonView> cases = golden.GetArray("cases")->Elements();
  EXPECT_GE(cases.size(), 50u);
  for (const JsonView& one : cases) CheckCase(tokenizer, one);
  for (const JsonView& run : golden.GetArray("runs")->Elements()) {
    const std::string text = run.GetString("text").value();
    std::string repeated;
    for (int64_t i = run.GetInt("repeat").value(); i > 0; --i) repeated += text;
    IdHash hash;
    hash.Add(tokenizer.Encode(repeated).value());
    hash.Expect(run);
  }
}

void CheckAll(const std::string& name) { CheckCasesAndRuns(*Load(kFolder + name + ".json"), name); }

// What a model may write and no text encodes to.
void CheckDecodes(const std::string& name) {
  const auto tokenizer = Load(kFolder + name + ".json");
  const Json json = Json::ReadFile(kFolder + "cases.json", kMaxGoldenBytes).value();
  const JsonView golden = json.root().GetObject(name).value();
  const std::vector<JsonView> decodes = golden.GetArray("decodes")->Elements();
  EXPECT_GE(decodes.size(), 50u);
  for (const JsonView& one : decodes) {
    const std::vector<int32_t> ids = ReadIds(one);
    SCOPED_TRACE(::testing::PrintToString(ids));
    CheckDecode(*tokenizer, ids, one.GetString("decoded").value(),
                one.GetString("decoded_skipping_special").value());
  }
}

TEST(TokenizerGoldenTest, Tiny) { CheckAll("tiny"); }

TEST(TokenizerGoldenTest, TinyWithSplitAndIgnoreMergesAndTemplate) { CheckAll("tiny_split"); }

TEST(TokenizerGoldenTest, TinyWithPrefixSpace) { CheckAll("tiny_prefix"); }

TEST(TokenizerGoldenTest, TinyAsQwenHasIt) { CheckAll("tiny_qwen"); }

TEST(TokenizerGoldenTest, TinyWithDigits) { CheckAll("tiny_digits"); }

// BPE over characters, in every form that SentencePiece's models are published in.
class SpmGoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(SpmGoldenTest, CasesAndRuns) { CheckAll(GetParam()); }

TEST_P(SpmGoldenTest, Decodes) { CheckDecodes(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Forms, SpmGoldenTest,
                         ::testing::Values("spm_llama", "spm_few_bytes", "spm_first", "spm_always",
                                           "spm_never", "spm_gemma", "spm_next"),
                         [](const auto& param) { return std::string(param.param); });

// With the tokenizer and the corpora of the shared data.
class GptNeoxGoldenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name :
         {"gpt_neox_20b_tokenizer.json", "shakespeare.txt", "lambada_test.jsonl"}) {
      if (!SharedData(name).has_value()) GTEST_SKIP() << "no shared data: " << name;
    }
    tokenizer_ = Load(*SharedData("gpt_neox_20b_tokenizer.json"));
  }
  JsonView Golden(const std::string& corpus) const {
    return golden_.root().GetObject("gpt_neox")->GetObject(corpus).value();
  }

  const Json golden_ = Json::ReadFile(kFolder + "cases.json", kMaxGoldenBytes).value();
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(GptNeoxGoldenTest, Cases) { CheckCasesAndRuns(*tokenizer_, "gpt_neox"); }

TEST_F(GptNeoxGoldenTest, Shakespeare) {
  const std::string text = ReadFile(*SharedData("shakespeare.txt"));
  const std::vector<int32_t> ids = tokenizer_->Encode(text).value();
  IdHash hash;
  hash.Add(ids);
  hash.Expect(Golden("shakespeare.txt"));
  EXPECT_EQ(tokenizer_->Decode(ids, false), text);
}

TEST_F(GptNeoxGoldenTest, Lambada) {
  const std::string lines = ReadFile(*SharedData("lambada_test.jsonl"));
  IdHash hash;
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = std::min(lines.find('\n', begin), lines.size());
    const Json line = Json::Parse(lines.substr(begin, end - begin), "lambada_test.jsonl").value();
    hash.Add(tokenizer_->Encode(line.root().GetString("text").value()).value());
    begin = end + 1;
  }
  hash.Expect(Golden("lambada_test.jsonl"));
}

}  // namespace
}  // namespace polystrate
