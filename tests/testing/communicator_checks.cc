#include "tests/testing/communicator_checks.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/copy.h"
#include "kernels/core/step_graph.h"

namespace polystrate {
namespace {

// float32 numbers on a stream's device.
class Numbers {
 public:
  Numbers(const Stream& stream, int64_t size) : stream_(stream) {
    absl::StatusOr<Buffer> buffer =
        Buffer::Allocate(stream.device(), size * SizeOf(DType::kFloat32));
    CHECK(buffer.ok());
    buffer_ = *std::move(buffer);
    tensor_ = Tensor(buffer_.data(), DType::kFloat32, stream.device(), {size});
  }
  Numbers(const Stream& stream, const std::vector<float>& values)
      : Numbers(stream, static_cast<int64_t>(values.size())) {
    Set(values);
  }

  const Tensor& tensor() const { return tensor_; }
  void Set(const std::vector<float>& values) { Copy(stream_, OnHost(values), tensor_); }
  std::vector<float> Read() const { return Read(stream_, tensor_); }
  static std::vector<float> Read(const Stream& stream, const Tensor& x) {
    std::vector<float> values(x.num_elements());
    stream.Synchronize();
    CopyNow(x, OnHost(values));
    return values;
  }

 private:
  static Tensor OnHost(const std::vector<float>& values) {
    return Tensor(const_cast<float*>(values.data()), DType::kFloat32, Device{},
                  {static_cast<int64_t>(values.size())});
  }

  const Stream& stream_;
  Buffer buffer_;
  Tensor tensor_;
};

std::string CheckAllReduce(const Stream& stream, Communicator& group) {
  const int n = group.size();
  for (int64_t size : {0, 1, 3, 1000, 100003}) {
    std::vector<float> x(size);
    for (int64_t i = 0; i < size; ++i) x[i] = static_cast<float>((i + group.rank()) % 17);
    const Numbers numbers(stream, x);
    group.AllReduceSum(stream, numbers.tensor());
    x = numbers.Read();
    for (int64_t i = 0; i < size; ++i) {
      float expected = 0;
      for (int rank = 0; rank < n; ++rank) expected += static_cast<float>((i + rank) % 17);
      if (x[i] != expected) {
        return absl::StrCat("all-reduce of ", size, ": element ", i, " is ", x[i], ", not ",
                            expected);
      }
    }
  }
  return "";
}

// Several in a row, none of which the host waits for: a result must not be overtaken by the next.
std::string CheckAllReduces(const Stream& stream, Communicator& group) {
  constexpr int kCalls = 4;
  std::vector<Numbers> calls;
  calls.reserve(kCalls);
  for (int call = 0; call < kCalls; ++call) {
    calls.emplace_back(stream, std::vector<float>(3000, static_cast<float>(call)));
    group.AllReduceSum(stream, calls.back().tensor());
  }
  for (int call = 0; call < kCalls; ++call) {
    for (float value : calls[call].Read()) {
      if (value != static_cast<float>(call * group.size())) {
        return absl::StrCat("all-reduce ", call, " in a row: a sum is ", value);
      }
    }
  }
  return "";
}

// From every root, several in a row that the host does not wait for.
std::string CheckBroadcast(const Stream& stream, Communicator& group) {
  for (int64_t size : {1, 3, 100003}) {
    std::vector<Numbers> calls;
    calls.reserve(group.size());
    for (int root = 0; root < group.size(); ++root) {
      calls.emplace_back(stream, std::vector<float>(size, static_cast<float>(7 * group.rank())));
      group.Broadcast(stream, calls.back().tensor(), root);
    }
    for (int root = 0; root < group.size(); ++root) {
      for (float value : calls[root].Read()) {
        if (value != static_cast<float>(7 * root)) {
          return absl::StrCat("broadcast of ", size, " from ", root, ": a value is ", value);
        }
      }
    }
  }
  return "";
}

std::string CheckGather(const Stream& stream, Communicator& group) {
  for (int root = 0; root < group.size(); ++root) {
    const Numbers in(stream, {static_cast<float>(group.rank()), static_cast<float>(root)});
    const Numbers out(stream, std::vector<float>(2 * group.size(), NAN));
    group.Gather(stream, in.tensor(), out.tensor(), root);
    const std::vector<float> gathered = out.Read();
    if (group.rank() != root) continue;
    for (int rank = 0; rank < group.size(); ++rank) {
      if (gathered[2 * rank] != rank || gathered[2 * rank + 1] != root) {
        return absl::StrCat("gather at ", root, ": wrong part of rank ", rank);
      }
    }
  }
  return "";
}

// Every rank sends every rank (itself too) a run of messages of growing size and may reuse its
// tensor at once.
std::string CheckMessages(const Stream& stream, Communicator& group) {
  constexpr int kMessages = 5;
  auto size_of = [](int message) { return message * message * 5000; };
  for (int peer = 0; peer < group.size(); ++peer) {
    for (int message = 0; message < kMessages; ++message) {
      const float value = static_cast<float>(100 * group.rank() + message);
      Numbers sent(stream, std::vector<float>(size_of(message), value));
      group.Send(stream, sent.tensor(), peer);
      sent.Set(std::vector<float>(size_of(message), NAN));
      stream.Synchronize();  // the tensor's memory is about to go
    }
  }
  for (int peer = group.size() - 1; peer >= 0; --peer) {
    std::vector<Numbers> received;  // looked at when all are there: none overtakes another
    received.reserve(kMessages);
    for (int message = 0; message < kMessages; ++message) {
      received.emplace_back(stream, std::vector<float>(size_of(message), NAN));
      group.Recv(stream, received.back().tensor(), peer);
    }
    for (int message = 0; message < kMessages; ++message) {
      for (float value : received[message].Read()) {
        if (value != 100.0f * static_cast<float>(peer) + static_cast<float>(message)) {
          return absl::StrCat("message ", message, " from ", peer, " holds ", value);
        }
      }
    }
    if (group.Probe(peer).has_value()) return "a message too many";
  }
  return "";
}

}  // namespace

std::string CheckCollectives(const Stream& stream, Communicator& group) {
  std::string fault = CheckAllReduce(stream, group);
  if (fault.empty()) fault = CheckAllReduces(stream, group);
  if (fault.empty()) fault = CheckBroadcast(stream, group);
  if (fault.empty()) fault = CheckGather(stream, group);
  return fault;
}

// As stages hand on hidden states: each rank adds one to what it gets, in one tensor for all
// messages, and hands it on.
std::string CheckChain(const Stream& stream, Communicator& group) {
  constexpr int kMessages = 12;
  const std::vector<int64_t> sizes = {3000, 1, 100003, 3000};
  const bool first = group.rank() == 0;
  const bool last = group.rank() == group.size() - 1;
  Numbers numbers(stream, std::vector<float>(100003, NAN));
  for (int message = 0; message < kMessages; ++message) {
    const int64_t size = sizes[message % sizes.size()];
    const Tensor x(numbers.tensor().raw(), DType::kFloat32, stream.device(), {size});
    if (!first) group.Recv(stream, x, group.rank() - 1);
    const auto expected = static_cast<float>(100 * message + group.rank());
    if (!first) {
      for (float value : Numbers::Read(stream, x)) {
        if (value != expected - 1) return absl::StrCat("chain message ", message, ": ", value);
      }
    }
    numbers.Set(std::vector<float>(100003, expected));
    if (!last) group.Send(stream, x, group.rank() + 1);
  }
  stream.Synchronize();
  return "";
}

std::string CheckCommunicator(const Stream& stream, Communicator& group) {
  std::string fault = CheckCollectives(stream, group);
  if (fault.empty()) fault = CheckChain(stream, group);
  if (fault.empty()) fault = CheckMessages(stream, group);
  return fault;
}

std::string CheckRecordedAllReduce(const Stream& stream, Communicator& group) {
  Numbers numbers(stream, std::vector<float>(5000, 1.0f));
  const auto step = [&] {
    group.AllReduceSum(stream, numbers.tensor());
    group.AllReduceSum(stream, numbers.tensor());
  };
  step();  // peers are connected before anything is recorded
  const StepGraph graph(stream, step);
  for (int replay = 0; replay < 3; ++replay) {
    numbers.Set(std::vector<float>(5000, static_cast<float>(replay + group.rank())));
    graph.Replay(stream);
    const int n = group.size();
    const auto expected = static_cast<float>(n * (n * replay + n * (n - 1) / 2));
    for (float value : numbers.Read()) {
      if (value != expected) return absl::StrCat("replay ", replay, ": a sum is ", value);
    }
  }
  return "";
}

std::string CheckControlChannel(ControlChannel& control, const Topology& topology) {
  if (!control.Agree(absl::OkStatus()).ok()) return "all were well, but they agreed on an error";
  const bool bad = topology.rank == topology.config.world_size() - 1;
  const absl::Status agreed =
      control.Agree(bad ? absl::NotFoundError("no such file") : absl::OkStatus());
  if (agreed.code() != absl::StatusCode::kNotFound) return "they agreed on another code";
  if (std::string(agreed.message()).find("no such file") == std::string::npos) {
    return "the message was lost";
  }
  const auto all = control.GatherBytes({static_cast<uint8_t>(topology.rank)});
  if (topology.rank != 0) return "";
  for (int rank = 0; rank < topology.config.world_size(); ++rank) {
    if (all[rank] != std::vector<uint8_t>{static_cast<uint8_t>(rank)}) return "gathered wrong";
  }
  return "";
}

}  // namespace polystrate
