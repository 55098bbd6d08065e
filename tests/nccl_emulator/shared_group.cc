#include "tests/nccl_emulator/shared_group.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/check.h"

namespace polystrate::emulator {

// New memory is zero, which is where every count begins.
SharedGroup* OpenGroup(const std::string& name) {
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  CHECK(file >= 0 && ftruncate(file, sizeof(SharedGroup)) == 0);
  void* mapped =
      mmap(nullptr, sizeof(SharedGroup), PROT_READ | PROT_WRITE, MAP_SHARED, file, /*offset=*/0);
  CHECK(mapped != MAP_FAILED);
  close(file);
  return static_cast<SharedGroup*>(mapped);
}

void ForgetGroup(const std::string& name) { shm_unlink(name.c_str()); }

bool Transfer::GoOn() { return from_ != nullptr ? GoOnSending() : GoOnReceiving(); }

bool Transfer::GoOnSending() {
  for (;;) {
    const uint64_t num_written = channel_.num_written;
    if (channel_.num_read != num_written) return false;
    if (position_ == num_bytes_) return true;
    const size_t count = std::min(Channel::kPartBytes, num_bytes_ - position_);
    channel_.message_bytes = num_bytes_;
    std::memcpy(channel_.part, from_ + position_, count);
    position_ += count;
    channel_.num_written = num_written + 1;
  }
}

bool Transfer::GoOnReceiving() {
  while (position_ < num_bytes_) {
    const uint64_t num_read = channel_.num_read;
    if (channel_.num_written == num_read) return false;
    failed_ = channel_.message_bytes != num_bytes_;
    if (failed_) return true;
    const size_t count = std::min(Channel::kPartBytes, num_bytes_ - position_);
    std::memcpy(to_ + position_, channel_.part, count);
    position_ += count;
    channel_.num_read = num_read + 1;
  }
  return true;
}

}  // namespace polystrate::emulator
