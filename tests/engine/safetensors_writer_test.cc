#include "engine/safetensors_writer.h"

#include <gtest/gtest.h>

#include "tests/testing/expect_status.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

TEST(SafetensorsWriterTest, ReadsBack) {
  const TempDir dir;
  const std::string path = dir.File("new.safetensors");
  auto writer = SafetensorsWriter::Create(
      path, {{"b \"quoted\"", "BF16", {2, 3}, 12}, {"a", "I64", {}, 8}, {"empty", "F32", {0}, 0}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::string values = "0123456789ab01234567";
  for (const auto& [from, size] : {std::pair(0, 5), {5, 10}, {15, 0}, {15, 5}})
    ASSERT_TRUE(writer->Append(values.data() + from, size).ok());
  ASSERT_TRUE(writer->Finish().ok());

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 3u);
  const TensorInfo* b = file->Find("b \"quoted\"");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, "BF16");
  EXPECT_EQ(b->shape, (std::vector<int64_t>{2, 3}));
  std::string bytes(12, '\0');
  ASSERT_TRUE(file->ReadBytes(*b, 0, 12, bytes.data()).ok());
  EXPECT_EQ(bytes, "0123456789ab");
  ASSERT_TRUE(file->ReadBytes(*file->Find("a"), 0, 8, bytes.data()).ok());
  EXPECT_EQ(bytes.substr(0, 8), "01234567");
  // Values may be mapped as they lie.
  EXPECT_EQ((ReadFile(path).size() - values.size()) % 8, 0u);
}

TEST(SafetensorsWriterTest, NeverOverwrites) {
  const TempDir dir;
  WriteFile(dir.File("old"), "kept");
  EXPECT_TRUE(Fails(SafetensorsWriter::Create(dir.File("old"), {}).status(),
                    absl::StatusCode::kAlreadyExists, dir.File("old")));
  EXPECT_EQ(ReadFile(dir.File("old")), "kept");
}

TEST(SafetensorsWriterDeathTest, ChecksThatAllIsWritten) {
  const TempDir dir;
  auto writer = SafetensorsWriter::Create(dir.File("new"), {{"a", "F32", {1}, 4}}).value();
  EXPECT_DEATH(static_cast<void>(writer.Finish()), "missing_bytes_");
  EXPECT_DEATH(static_cast<void>(writer.Append("12345", 5)), "missing_bytes_");
}

}  // namespace
}  // namespace polystrate
