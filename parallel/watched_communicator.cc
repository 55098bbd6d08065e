#include "parallel/watched_communicator.h"

#include <utility>

namespace polystrate {
namespace {

class WatchedCommunicator : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> group, GroupName name, RankActivity* activity)
      : group_(std::move(group)), name_(name), activity_(*activity) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }

  void AllReduceSum(const Stream& stream, const Tensor& x) override {
    Begin(Operation::kAllReduce);
    group_->AllReduceSum(stream, x);
    End();
  }
  void Broadcast(const Stream& stream, const Tensor& x, int root) override {
    Begin(Operation::kBroadcast);
    group_->Broadcast(stream, x, root);
    End();
  }
  void Gather(const Stream& stream, const Tensor& in, const Tensor& out, int root) override {
    Begin(Operation::kGather);
    group_->Gather(stream, in, out, root);
    End();
  }
  void Send(const Stream& stream, const Tensor& x, int destination) override {
    Begin(Operation::kSend);
    group_->Send(stream, x, destination);
    End();
  }
  void Recv(const Stream& stream, const Tensor& x, int source) override {
    Begin(Operation::kReceive);
    group_->Recv(stream, x, source);
    End();
  }
  // Who probes waits for a message: its receipt has begun.
  std::optional<int64_t> Probe(int source) override {
    std::optional<int64_t> num_bytes = group_->Probe(source);
    if (!num_bytes.has_value()) Begin(Operation::kReceive);
    return num_bytes;
  }
  absl::Status Health() override { return group_->Health(); }
  void Abort() override { group_->Abort(); }

 private:
  void Begin(Operation operation) {
    if (!std::exchange(begun_, true)) activity_.BeginOperation(name_, operation);
  }
  void End() {
    begun_ = false;
    activity_.EndOperation();
  }

  const std::unique_ptr<Communicator> group_;
  const GroupName name_;
  RankActivity& activity_;
  bool begun_ = false;
};

}  // namespace

std::unique_ptr<Communicator> WatchCommunicator(std::unique_ptr<Communicator> group, GroupName name,
                                                RankActivity* activity) {
  return std::make_unique<WatchedCommunicator>(std::move(group), name, activity);
}

}  // namespace polystrate
