#include "parallel/monitor_wire.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

template <typename T>
void Append(const T& value, std::vector<uint8_t>* bytes) {
  const auto* begin = reinterpret_cast<const uint8_t*>(&value);
  bytes->insert(bytes->end(), begin, begin + sizeof(value));
}
template <typename T>
size_t Take(const std::vector<uint8_t>& bytes, size_t at, T* value) {
  CHECK_LE(at + sizeof(T), bytes.size());
  std::memcpy(value, bytes.data() + at, sizeof(T));
  return at + sizeof(T);
}

}  // namespace

std::vector<uint8_t> MonitorAddress::ToBytes() const {
  std::vector<uint8_t> bytes;
  Append(port, &bytes);
  Append(greeting, &bytes);
  Append(answer, &bytes);
  Append(pid, &bytes);
  const std::string text = absl::StrCat(host_name, "\n", absl::StrJoin(hosts, "\n"));
  bytes.insert(bytes.end(), text.begin(), text.end());
  return bytes;
}

MonitorAddress MonitorAddress::FromBytes(const std::vector<uint8_t>& bytes) {
  MonitorAddress address;
  size_t at = Take(bytes, 0, &address.port);
  at = Take(bytes, at, &address.greeting);
  at = Take(bytes, at, &address.answer);
  at = Take(bytes, at, &address.pid);
  address.hosts = absl::StrSplit(std::string(bytes.begin() + at, bytes.end()), '\n');
  address.host_name = address.hosts.front();
  address.hosts.erase(address.hosts.begin());
  return address;
}

MonitorSecret RandomSecret() {
  MonitorSecret secret;
  std::random_device device;
  for (uint8_t& byte : secret) byte = static_cast<uint8_t>(device());
  return secret;
}

void FrameConnection::Send(const Frame& frame) {
  if (unsent_.empty()) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&frame);
    unsent_.assign(bytes, bytes + sizeof(frame));
  }
  const ssize_t sent = send(socket_.fd(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
  // A frame of which nothing is out is dropped; half a one has to be finished first.
  if (sent < 0 && unsent_.size() == sizeof(frame)) unsent_.clear();
  if (sent > 0) unsent_.erase(unsent_.begin(), unsent_.begin() + sent);
}

bool FrameConnection::Receive(std::vector<Frame>* frames) {
  uint8_t bytes[16 * sizeof(Frame)];
  const ssize_t n = recv(socket_.fd(), bytes, sizeof(bytes), 0);
  if (n == 0) return false;
  if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  partial_.insert(partial_.end(), bytes, bytes + n);
  size_t at = 0;
  for (; partial_.size() - at >= sizeof(Frame); at += sizeof(Frame)) {
    std::memcpy(&frames->emplace_back(), partial_.data() + at, sizeof(Frame));
  }
  partial_.erase(partial_.begin(), partial_.begin() + static_cast<ptrdiff_t>(at));
  return true;
}

}  // namespace polystrate
