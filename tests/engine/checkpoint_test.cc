#include "engine/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/mutate.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

namespace fs = std::filesystem;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kFirstShard[] = "model-00001-of-00003.safetensors";

class CheckpointTest : public testing::Test {
 protected:
  std::string ReadIndex() const { return ReadFile(dir_.File(kIndex)); }
  void WriteIndex(absl::string_view json) const { WriteFile(dir_.File(kIndex), json); }
  // A one-tensor index that places "x" in `shard`.
  void WriteIndexOf(absl::string_view shard) const {
    WriteIndex(absl::StrCat(R"({"weight_map": {"x": ")", shard, "\"}}"));
  }
  absl::Status Open() const { return Checkpoint::Open(dir_.path()).status(); }

  const TempDir dir_;
};

TEST_F(CheckpointTest, OneFileAndShardsHoldTheSame) {
  TinyModelSpec spec;
  const std::vector<StoredTensor> tensors = TinyModelTensors(spec);
  for (const int num_shards : {1, 3}) {
    const TempDir dir;
    spec.num_shards = num_shards;
    WriteTinyModel(dir.path(), spec);
    const auto checkpoint = Checkpoint::Open(dir.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->num_tensors(), static_cast<int64_t>(tensors.size()));
    for (const StoredTensor& tensor : tensors) {
      const auto entry = checkpoint->Get(tensor.name);
      ASSERT_TRUE(entry.ok()) << entry.status();
      EXPECT_EQ(entry->info->shape, tensor.shape);
      std::string bytes(tensor.bytes.size(), '\0');
      ASSERT_TRUE(entry->file->ReadBytes(*entry->info, 0, bytes.size(), bytes.data()).ok());
      EXPECT_EQ(bytes, tensor.bytes) << tensor.name;
    }
    EXPECT_EQ(checkpoint->Find("absent"), nullptr);
    EXPECT_TRUE(Fails(checkpoint->Get("absent").status(), kNotFound,
                      absl::StrCat("'absent' is missing from ", dir.path())));
  }
}

TEST_F(CheckpointTest, TheIndexDecidesNotTheShards) {
  WriteSafetensors(dir_.File("a.safetensors"), {{"x", "U8", {1}, "a"}, {"y", "U8", {1}, "a"}});
  WriteSafetensors(dir_.File("b.safetensors"), {{"x", "U8", {1}, "b"}});
  WriteIndexOf("b.safetensors");
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->num_tensors(), 1);
  EXPECT_EQ(checkpoint->Find("x")->file->path(), dir_.File("b.safetensors"));
}

TEST_F(CheckpointTest, NothingToLoad) {
  EXPECT_TRUE(
      Fails(Open(), kNotFound, "has neither model.safetensors nor model.safetensors.index"));
  EXPECT_TRUE(Fails(Checkpoint::Open(dir_.File("absent")).status(), kNotFound, "absent"));
  WriteFile(dir_.File("pytorch_model.bin"), "");
  EXPECT_TRUE(Fails(Open(), kNotFound, "has pytorch_model.bin but no model.safetensors"));
  EXPECT_TRUE(Fails(Open(), kNotFound, "python3 tools/to_safetensors.py " + dir_.path()));
}

TEST_F(CheckpointTest, ShardsMustLieInTheFolder) {
  const TempDir elsewhere;
  WriteSafetensors(elsewhere.File("x.safetensors"), {{"x", "U8", {1}, "a"}});
  const std::string outside = elsewhere.File("x.safetensors");
  const std::string relative = fs::path(outside).lexically_relative(dir_.path()).string();
  for (const std::string& shard : {outside, relative, std::string("sub/../../x.safetensors"),
                                   std::string(".."), std::string("."), std::string("")}) {
    WriteIndexOf(shard);
    EXPECT_TRUE(Fails(Open(), kInvalid, "is not a path below the model's folder")) << shard;
    EXPECT_TRUE(Fails(Open(), kInvalid, kIndex)) << shard;
  }
  WriteIndexOf("a\\u0000b");
  EXPECT_FALSE(Open().ok());
  WriteIndexOf("link.safetensors");
  fs::create_symlink(outside, dir_.File("link.safetensors"));
  EXPECT_TRUE(Fails(Open(), kInvalid, "is a link that leaves the model's folder, to " + outside));
  WriteIndexOf("folder/x.safetensors");
  fs::create_directory_symlink(elsewhere.path(), dir_.File("folder"));
  EXPECT_TRUE(Fails(Open(), kInvalid, "is a link that leaves the model's folder"));
}

TEST_F(CheckpointTest, ShardsMayLieBelowTheFolderOrInTheHubCache) {
  const std::vector<StoredTensor> tensors = {{"x", "U8", {1}, "a"}};
  fs::create_directory(dir_.File("sub"));
  WriteSafetensors(dir_.File("sub/..x.safetensors"), tensors);
  WriteIndexOf("sub/..x.safetensors");
  EXPECT_TRUE(Open().ok()) << Open();
  fs::create_symlink("sub/..x.safetensors", dir_.File("inside.safetensors"));
  WriteIndexOf("inside.safetensors");
  EXPECT_TRUE(Open().ok()) << Open();

  const std::string snapshot = dir_.File("snapshots/0123abcd");
  fs::create_directories(snapshot);
  fs::create_directory(dir_.File("blobs"));
  WriteSafetensors(dir_.File("blobs/feed"), tensors);
  fs::create_symlink("../../blobs/feed", snapshot + "/x.safetensors");
  WriteFile(snapshot + "/" + kIndex, R"({"weight_map": {"x": "x.safetensors"}})");
  EXPECT_TRUE(Checkpoint::Open(snapshot).ok()) << Checkpoint::Open(snapshot).status();
  // A trailing slash and a link to the folder itself are the user's own.
  EXPECT_TRUE(Checkpoint::Open(snapshot + "/").ok());
  fs::create_directory_symlink(snapshot, dir_.File("current"));
  EXPECT_TRUE(Checkpoint::Open(dir_.File("current")).ok());
}

TEST_F(CheckpointTest, BadIndexesAreNamed) {
  struct Case {
    std::function<std::string(const std::string&)> change;  // of a good index
    absl::StatusCode code;
    const char* message;
  };
  const auto replace = [](const char* from, const char* to) {
    return [=](const std::string& index) { return absl::StrReplaceAll(index, {{from, to}}); };
  };
  const auto text = [](const char* json) { return [=](const std::string&) { return json; }; };
  const Case cases[] = {
      {text(""), kInvalid, kIndex},
      {text("[]"), kInvalid, "expected an object with a weight_map"},
      {text("{}"), kInvalid, "\"weight_map\" is missing"},
      {text(R"({"weight_map": []})"), kInvalid, "\"weight_map\" is an array"},
      {text(R"({"weight_map": {"x": 3}})"), kInvalid, "\"x\" is 3, expected a string"},
      {text(R"({"weight_map": {"x": "a", "x": "b"}})"), kInvalid, "duplicate key \"x\""},
      {replace("00003-of-00003", "00004-of-00003"), kNotFound,
       "shard 'model-00004-of-00003.safetensors' does not exist"},
      {replace("gpt_neox.embed_in.weight", "gpt_neox.embed_in.weights"), kInvalid,
       "places tensor 'gpt_neox.embed_in.weights' in "},
  };
  TinyModelSpec spec;
  spec.num_shards = 3;
  WriteTinyModel(dir_.path(), spec);
  const std::string good = ReadIndex();
  for (const Case& c : cases) {
    WriteIndex(c.change(good));
    EXPECT_TRUE(Fails(Open(), c.code, c.message));
  }
  WriteIndex(good);
  fs::resize_file(dir_.File(kFirstShard), 1000);
  EXPECT_TRUE(Fails(Open(), kInvalid, kFirstShard));
  fs::resize_file(dir_.File(kIndex), 65 << 20);
  EXPECT_TRUE(Fails(Open(), kInvalid, "68157440 bytes"));
}

TEST_F(CheckpointTest, MutatedIndexesNeverCrash) {
  WriteSafetensors(dir_.File("m1"), {{"x", "U8", {1}, "a"}, {"y", "U8", {2}, "aa"}});
  WriteSafetensors(dir_.File("m2"), {{"z", "U8", {0}, ""}});
  const std::string good =
      R"({"metadata": {"total_size": 3}, "weight_map": {"x": "m1", "y": "m1", "z": "m2"}})";
  std::mt19937 random(20261121);
  int accepted = 0;
  for (int round = 0; round < 1500; ++round) {
    const std::string index = Mutate(good, &random);
    WriteIndex(index);
    const auto checkpoint = Checkpoint::Open(dir_.path());
    if (checkpoint.ok()) {
      ++accepted;
      ASSERT_LE(checkpoint->num_tensors(), 3) << index;
    } else {
      ASSERT_TRUE(checkpoint.status().code() == kInvalid || checkpoint.status().code() == kNotFound)
          << index << checkpoint.status();
    }
  }
  EXPECT_GT(accepted, 75);
  EXPECT_LT(accepted, 1400);
}

}  // namespace
}  // namespace polystrate
