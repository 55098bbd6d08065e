#include "parallel/communicator.h"

#include "parallel/backoff.h"

namespace polystrate {
namespace {

// Messages of bytes need a stream only for its type: they never touch its threads.
const Stream& HostStream() {
  static const Stream stream = Stream::Cpu(1);
  return stream;
}

Tensor ByteTensor(const std::vector<uint8_t>& bytes) {
  return Tensor(const_cast<uint8_t*>(bytes.data()), DType::kUInt8, Device{},
                {static_cast<int64_t>(bytes.size())});
}

}  // namespace

void SendBytes(Communicator& group, const std::vector<uint8_t>& bytes, int destination) {
  group.Send(HostStream(), ByteTensor(bytes), destination);
}

std::vector<uint8_t> RecvBytes(Communicator& group, int source) {
  Backoff backoff;
  std::optional<int64_t> num_bytes;
  while (!(num_bytes = group.Probe(source))) backoff.Wait();
  std::vector<uint8_t> bytes(*num_bytes);
  group.Recv(HostStream(), ByteTensor(bytes), source);
  return bytes;
}

}  // namespace polystrate
