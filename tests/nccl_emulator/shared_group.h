// What the ranks of an emulated group share, be they threads or processes of this host: memory
// through which each sends to each.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace polystrate::emulator {

constexpr int kMaxRanks = 8;

// From one rank to another, one message at a time, in parts.
struct Channel {
  static constexpr size_t kPartBytes = size_t{16} << 10;
  std::atomic<uint64_t> num_written;  // parts
  std::atomic<uint64_t> num_read;
  size_t message_bytes;  // of the message that the part is of
  char part[kPartBytes];
};

struct SharedGroup {
  std::atomic<int> num_joined;
  Channel channels[kMaxRanks][kMaxRanks];  // by source and destination
};

// The group of that name; who comes first makes it. It stays mapped.
SharedGroup* OpenGroup(const std::string& name);
// All have come who will: the name is free.
void ForgetGroup(const std::string& name);

// A message under way at one of its ends.
class Transfer {
 public:
  static Transfer Send(Channel* channel, const void* from, size_t num_bytes) {
    return {channel, static_cast<const char*>(from), nullptr, num_bytes};
  }
  static Transfer Receive(Channel* channel, void* to, size_t num_bytes) {
    return {channel, nullptr, static_cast<char*>(to), num_bytes};
  }

  // Goes on as far as it can without the other end. True when it is done: sent is what has been
  // received.
  bool GoOn();
  // The message that has come is of another size.
  bool failed() const { return failed_; }

 private:
  Transfer(Channel* channel, const char* from, char* to, size_t num_bytes)
      : channel_(*channel), from_(from), to_(to), num_bytes_(num_bytes) {}
  bool GoOnSending();
  bool GoOnReceiving();

  Channel& channel_;
  const char* from_;
  char* to_;
  size_t num_bytes_;
  size_t position_ = 0;
  bool failed_ = false;
};

}  // namespace polystrate::emulator
