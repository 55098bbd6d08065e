#include "kernels/core/device.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <utility>

#include "kernels/core/tensor.h"

namespace polystrate {
namespace {

TEST(BufferTest, IsZeroAndAligned) {
  for (int64_t size : {0, 1, 63, 4096, 40 << 20}) {
    auto buffer = Buffer::Allocate(Device{}, size);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(buffer->num_bytes(), size);
    EXPECT_NE(buffer->data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    const auto* bytes = static_cast<const unsigned char*>(buffer->data());
    for (int64_t i = 0; i < size; i += 1021) ASSERT_EQ(bytes[i], 0);
  }
}

TEST(BufferTest, MovesItsBytes) {
  auto buffer = Buffer::Allocate(Device{}, 100);
  ASSERT_TRUE(buffer.ok());
  void* data = buffer->data();
  Buffer moved = std::move(*buffer);
  EXPECT_EQ(moved.data(), data);
  Buffer assigned;
  assigned = std::move(moved);
  EXPECT_EQ(assigned.data(), data);
  EXPECT_EQ(assigned.num_bytes(), 100);
}

TEST(BufferTest, RefusesWhatTheSystemDoesNotHave) {
  const auto buffer = Buffer::Allocate(Device{}, std::numeric_limits<int64_t>::max() / 2);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(buffer.status().message()).find("4611686018427387903"), std::string::npos);
}

TEST(StreamTest, KnowsItsThreads) {
  Stream stream = Stream::Cpu(3);
  EXPECT_EQ(stream.num_threads(), 3);
  Stream moved = std::move(stream);
  EXPECT_EQ(moved.num_threads(), 3);
  EXPECT_EQ(moved.device().type, DeviceType::kCpu);
}

}  // namespace
}  // namespace polystrate
