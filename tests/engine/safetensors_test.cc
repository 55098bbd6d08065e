#include "engine/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/mutate.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

class SafetensorsTest : public testing::Test {
 protected:
  absl::StatusOr<SafetensorsFile> OpenBytes(absl::string_view bytes) {
    WriteFile(path_, bytes);
    return SafetensorsFile::Open(path_);
  }
  absl::StatusOr<SafetensorsFile> OpenHeader(absl::string_view header, size_t data_bytes) {
    return OpenBytes(SafetensorsBytes(header, std::string(data_bytes, '\1')));
  }

  const TempDir dir_;
  const std::string path_ = dir_.File("model.safetensors");
};

TEST_F(SafetensorsTest, ReadsWhatWasWritten) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  WriteSafetensors(path_, {{"a", "F32", {2, 3}, EncodeFloats(values, "F32")},
                           {"empty", "F32", {0, 4}, ""},
                           {"scalar", "I64", {}, std::string(8, '\2')},
                           {"mask", "BOOL", {3}, std::string(3, '\1')},
                           {"b", "BF16", {1, 2}, EncodeFloats({7, 8}, "BF16")}});
  auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->path(), path_);
  EXPECT_EQ(file->tensors().size(), 5u);
  EXPECT_EQ(file->Find("c"), nullptr);
  const TensorInfo* a = file->Find("a");
  ASSERT_NE(a, nullptr);
  const SafetensorsFile moved = *std::move(file);  // infos stay where they are
  EXPECT_EQ(a->dtype, "F32");
  EXPECT_EQ(a->shape, (std::vector<int64_t>{2, 3}));
  std::string bytes(12, '\0');
  ASSERT_TRUE(moved.ReadBytes(*a, 8, 12, bytes.data()).ok());
  EXPECT_EQ(DecodeFloats(bytes, "F32"), (std::vector<float>{3, 4, 5}));
  ASSERT_TRUE(moved.ReadBytes(*moved.Find("b"), 0, 4, bytes.data()).ok());
  EXPECT_EQ(DecodeFloats(bytes.substr(0, 4), "BF16"), (std::vector<float>{7, 8}));
  EXPECT_TRUE(moved.ReadBytes(*moved.Find("empty"), 0, 0, nullptr).ok());
  EXPECT_TRUE(moved.Find("scalar")->shape.empty());
}

TEST_F(SafetensorsTest, AcceptsWhatTheFormatAllows) {
  const auto tensor = [](absl::string_view name) {
    return absl::StrCat("\"", name, R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})");
  };
  for (const std::string& header :
       {std::string("{}"), std::string("{ }   "), std::string(R"({"__metadata__":{}})"),
        absl::StrCat(R"({"__metadata__":{"format":"pt","a":""},)", tensor("x"), "}"),
        absl::StrCat("{ ", absl::StrReplaceAll(tensor("x"), {{":", " : "}, {",", "\n,\t"}}), " } "),
        std::string(R"({"x":{"data_offsets":[0,1],"shape":[1,1,1],"dtype":"F8_E4M3"}})"),
        std::string(R"({"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}})")}) {
    const size_t data = header.find("offsets") == std::string::npos ? 0 : 1;
    EXPECT_TRUE(OpenHeader(header, data).ok()) << header << OpenHeader(header, data).status();
  }
  const auto escaped =
      OpenHeader(absl::StrCat("{", tensor(R"(\u00e9\ud83d\ude00\n\"\\\/)"), "}"), 1);
  ASSERT_TRUE(escaped.ok()) << escaped.status();
  EXPECT_NE(escaped->Find("\u00e9\U0001F600\n\"\\/"), nullptr);
}

TEST_F(SafetensorsTest, BadHeadersAreNamed) {
  struct Case {
    std::string header;
    size_t data_bytes;
    const char* message;
  };
  const auto one = [](absl::string_view dtype, absl::string_view shape, absl::string_view offsets) {
    return absl::StrCat(R"({"x":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)",
                        offsets, "}}");
  };
  const auto two = [](absl::string_view first, absl::string_view second) {
    return absl::StrCat(R"({"x":{"dtype":"U8","shape":[4],"data_offsets":)", first,
                        R"(},"y":{"dtype":"U8","shape":[4],"data_offsets":)", second, "}}");
  };
  const Case cases[] = {
      {"", 0, "does not begin with '{'"},
      {" {}", 0, "does not begin with '{'"},
      {"[]", 0, "does not begin with '{'"},
      {"{", 0, "header byte 1"},
      {"{} {}", 0, "text after the object"},
      {"{\"x\"}", 0, "expected :"},
      {"{\"x\":{},}", 0, "lacks one of dtype, shape and data_offsets"},
      {R"({"x":3})", 0, "expected {"},
      {R"({"x)", 0, "a string has no end"},
      {"{\"x\n\":{}}", 0, "control character"},
      {R"({"\q":{}})", 0, "unknown escape"},
      {R"({"\u12g4":{}})", 0, "bad \\u escape"},
      {R"({"\ud800":{}})", 0, "half a surrogate pair"},
      {R"({"\udc00\ud800":{}})", 0, "half a surrogate pair"},
      {"{\"\xff\":{}}", 0, "not UTF-8"},
      {R"({"__metadata__":{"a":1}})", 0, "expected \""},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "__metadata__ appears twice"},
      {absl::StrReplaceAll(two("[0,4]", "[4,8]"), {{"\"y\"", "\"x\""}}), 8, "'x' appears twice"},
      {R"({"x":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1,
       "'dtype' appears twice"},
      {R"({"x":{"dtype":"U8","shape":[],"data_offsets":[0,1],"extra":1}})", 1, "not 'extra'"},
      {one("F12", "[1]", "[0,4]"), 4, "tensor 'x': dtype 'F12' is not one that safetensors"},
      {one("f32", "[1]", "[0,4]"), 4, "dtype 'f32'"},
      {one("F32", "[-1]", "[0,4]"), 4, "expected an integer of at least 0"},
      {one("F32", "[1.0]", "[0,4]"), 4, "expected ]"},
      {one("F32", "[1e0]", "[0,4]"), 4, "expected ]"},
      {one("F32", "[01]", "[0,4]"), 4, "a number begins with 0"},
      {one("F32", "1", "[0,4]"), 4, "expected ["},
      {one("F32", "[9223372036854775808]", "[0,4]"), 4, "does not fit 63 bits"},
      {one("F32", "[4294967296,4294967296]", "[0,0]"), 0, "[4294967296, 4294967296] overflows"},
      {one("F32", "[4294967296,4294967296,0]", "[0,0]"), 0, "overflows"},
      {one("F32", "[4611686018427387904]", "[0,0]"), 0, "overflows"},
      {one("F32", absl::StrCat("[1", std::string(64, ',') + "]"), "[0,4]"), 4,
       "expected an integer"},
      {one("F32", absl::StrReplaceAll(absl::StrCat("[", std::string(64, 'x'), "1]"), {{"x", "1,"}}),
           "[0,4]"),
       4, "more than 64 numbers"},
      {one("F4", "[3]", "[0,1]"), 1, "not a whole number of bytes"},
      {one("F32", "[2]", "[0,4]"), 4,
       "shape [2] of F32 needs 8 bytes, but data_offsets are [0, 4]"},
      {one("F32", "[1]", "[4,0]"), 4, "data_offsets are [4, 0]"},
      {one("F32", "[1]", "[0,4,8]"), 4, "data_offsets should be [begin, end]"},
      {one("F32", "[1]", "[9223372036854775803,9223372036854775807]"), 4, "after a hole"},
      {one("F32", "[1]", "[4,8]"), 8, "tensor 'x' begins at byte 4 of the data, after a hole"},
      {one("F32", "[1]", "[0,4]"), 3, "describes 4 bytes of data, but the file holds 3: it is cut"},
      {one("F32", "[1]", "[0,4]"), 5, "describes 4 bytes of data, but the file holds 5"},
      {"{}", 1, "describes 0 bytes of data, but the file holds 1"},
      {two("[0,4]", "[2,6]"), 6, "tensor 'y' begins at byte 2 of the data, inside the tensor that"},
      {two("[0,4]", "[0,4]"), 4, "inside the tensor that ends at byte 4"},
      {two("[0,4]", "[5,9]"), 9, "tensor 'y' begins at byte 5 of the data, after a hole"},
  };
  for (const Case& c : cases) {
    const absl::Status status = OpenHeader(c.header, c.data_bytes).status();
    EXPECT_TRUE(Fails(status, kInvalid, c.message)) << c.header;
    EXPECT_TRUE(Fails(status, kInvalid, path_)) << c.header;
  }
}

TEST_F(SafetensorsTest, BadLengthsAreRefusedBeforeMemoryIsTaken) {
  const auto with_length = [](uint64_t length) {
    return std::string(reinterpret_cast<const char*>(&length), 8) + "{}";
  };
  EXPECT_TRUE(OpenBytes(with_length(2)).ok());
  EXPECT_TRUE(Fails(OpenBytes("").status(), kInvalid, "has 0 bytes"));
  EXPECT_TRUE(Fails(OpenBytes("1234567").status(), kInvalid, "has 7 bytes"));
  EXPECT_TRUE(Fails(OpenBytes(with_length(3)).status(), kInvalid, "has only 10 in all"));
  EXPECT_TRUE(Fails(OpenBytes(with_length(100'000'000)).status(), kInvalid, "has only 10"));
  for (const uint64_t length : {uint64_t{100'000'001}, uint64_t{1} << 63, ~uint64_t{0}})
    EXPECT_TRUE(Fails(OpenBytes(with_length(length)).status(), kInvalid, "the format allows"));
  // A sparse file that is large enough does not help.
  std::filesystem::resize_file(path_, 200'000'000);
  EXPECT_TRUE(
      Fails(SafetensorsFile::Open(path_).status(), kInvalid, "the format allows 100000000"));
}

TEST_F(SafetensorsTest, WhatIsNoFileIsRefused) {
  EXPECT_TRUE(Fails(SafetensorsFile::Open(path_).status(), absl::StatusCode::kNotFound, path_));
  EXPECT_TRUE(
      Fails(SafetensorsFile::Open(dir_.path()).status(), kInvalid, "is not a regular file"));
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_TRUE(Fails(SafetensorsFile::Open(path_).status(), kInvalid, "is not a regular file"));
}

TEST_F(SafetensorsTest, AFileThatShrinksIsAnErrorNotACrash) {
  WriteSafetensors(path_, {{"a", "U8", {4000}, std::string(4000, '\1')}});
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok());
  std::filesystem::resize_file(path_, 1000);
  std::string bytes(4000, '\0');
  EXPECT_TRUE(Fails(file->ReadBytes(*file->Find("a"), 0, 4000, bytes.data()),
                    absl::StatusCode::kDataLoss, "it changed while being read"));
}

TEST_F(SafetensorsTest, EveryPrefixIsRefused) {
  const std::string whole = SafetensorsBytes(
      R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", std::string(8, '\1'));
  ASSERT_TRUE(OpenBytes(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_TRUE(Fails(OpenBytes(whole.substr(0, size)).status(), kInvalid, path_)) << size;
}

constexpr char kFuzzedHeader[] =
    R"({"__metadata__":{"format":"pt"},"a\u00e9":{"dtype":"F32","shape":[2,3],)"
    R"("data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},)"
    R"("c":{"dtype":"U8","shape":[0,7],"data_offsets":[26,26]}})";

// Whatever the bytes: INVALID_ARGUMENT, or tensors that tile the data.
TEST_F(SafetensorsTest, MutatedHeadersNeverCrash) {
  std::mt19937 random(20261121);
  int accepted = 0;
  for (int round = 0; round < 200000; ++round) {
    const std::string header = Mutate(kFuzzedHeader, &random);
    const auto tensors = ParseSafetensorsHeader(header, 26);
    if (!tensors.ok()) {
      ASSERT_EQ(tensors.status().code(), kInvalid) << header;
      continue;
    }
    ++accepted;
    int64_t total = 0;
    for (const auto& [name, info] : *tensors) {
      ASSERT_TRUE(0 <= info.begin && info.begin <= info.end && info.end <= 26) << header;
      total += info.end - info.begin;
    }
    ASSERT_EQ(total, 26) << header;
  }
  EXPECT_GT(accepted, 2000);
  EXPECT_LT(accepted, 190000);
}

TEST_F(SafetensorsTest, MutatedFilesNeverCrash) {
  const std::string original = SafetensorsBytes(kFuzzedHeader, std::string(26, '\1'));
  std::mt19937 random(20261121);
  for (int round = 0; round < 2000; ++round) {
    const std::string bytes = Mutate(original, &random);
    const auto file = OpenBytes(bytes);
    if (!file.ok()) {
      ASSERT_EQ(file.status().code(), kInvalid) << file.status();
      continue;
    }
    for (const auto& [name, info] : file->tensors()) {
      const int64_t size = info.end - info.begin;
      ASSERT_LE(size, static_cast<int64_t>(bytes.size()));
      std::string data(static_cast<size_t>(size), '\0');
      ASSERT_TRUE(file->ReadBytes(info, 0, size, data.data()).ok());
    }
  }
}

}  // namespace
}  // namespace polystrate
