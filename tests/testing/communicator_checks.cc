#include "tests/testing/communicator_checks.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

Tensor Vector(std::vector<float>& values) {
  return Tensor(values.data(), DType::kFloat32, Device{}, {static_cast<int64_t>(values.size())});
}

std::string CheckAllReduce(const Stream& stream, Communicator& group) {
  const int n = group.size();
  for (int64_t size : {0, 1, 3, 1000, 100003}) {
    std::vector<float> x(size);
    for (int64_t i = 0; i < size; ++i) x[i] = static_cast<float>((i + group.rank()) % 17);
    group.AllReduceSum(stream, Vector(x));
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

std::string CheckGather(const Stream& stream, Communicator& group) {
  for (int root = 0; root < group.size(); ++root) {
    std::vector<float> in = {static_cast<float>(group.rank()), static_cast<float>(root)};
    std::vector<float> out(2 * group.size(), NAN);
    group.Gather(stream, Vector(in), Vector(out), root);
    if (group.rank() != root) continue;
    for (int rank = 0; rank < group.size(); ++rank) {
      if (out[2 * rank] != rank || out[2 * rank + 1] != root) {
        return absl::StrCat("gather at ", root, ": wrong part of rank ", rank);
      }
    }
  }
  return "";
}

// Every rank sends every rank (itself too) a run of messages of growing size and may reuse its
// buffer at once.
std::string CheckMessages(const Stream& stream, Communicator& group) {
  constexpr int kMessages = 5;
  auto size_of = [](int message) { return message * message * 5000; };
  std::vector<float> buffer;
  for (int peer = 0; peer < group.size(); ++peer) {
    for (int message = 0; message < kMessages; ++message) {
      buffer.assign(size_of(message), static_cast<float>(100 * group.rank() + message));
      group.Send(stream, Vector(buffer), peer);
      buffer.assign(buffer.size(), NAN);
    }
  }
  for (int peer = group.size() - 1; peer >= 0; --peer) {
    for (int message = 0; message < kMessages; ++message) {
      buffer.assign(size_of(message), NAN);
      group.Recv(stream, Vector(buffer), peer);
      for (float value : buffer) {
        if (value != 100.0f * peer + message) {
          return absl::StrCat("message ", message, " from ", peer, " holds ", value);
        }
      }
    }
    if (group.Probe(peer).has_value()) return "a message too many";
  }
  return "";
}

}  // namespace

std::string CheckCommunicator(Communicator& group) {
  const Stream stream = Stream::Cpu(1);
  std::string fault = CheckAllReduce(stream, group);
  if (fault.empty()) fault = CheckGather(stream, group);
  if (fault.empty()) fault = CheckMessages(stream, group);
  return fault;
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
