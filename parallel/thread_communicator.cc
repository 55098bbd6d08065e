#include <cstring>
#include <deque>

#include "kernels/core/mutex.h"
#include "parallel/communicator.h"

namespace polystrate {
namespace {

// What the threads of a group share.
class ThreadGroup {
 public:
  explicit ThreadGroup(int size) : size_(size), inputs_(size), mailboxes_(size * size) {}

  int size() const { return size_; }

  void Put(int source, int destination, const Tensor& x) {
    const char* bytes = static_cast<const char*>(x.raw());
    MutexLock lock(&mutex_);
    Mailbox(source, destination).emplace_back(bytes, bytes + x.num_bytes());
  }

  void Take(int source, int destination, const Tensor& x) {
    MutexLock lock(&mutex_);
    auto& mailbox = Mailbox(source, destination);
    auto arrived = [&mailbox] { return !mailbox.empty(); };
    mutex_.Await(arrived);
    CHECK_EQ(static_cast<int64_t>(mailbox.front().size()), x.num_bytes());
    if (x.num_bytes() > 0) std::memcpy(x.raw(), mailbox.front().data(), x.num_bytes());
    mailbox.pop_front();
  }

  std::optional<int64_t> Probe(int source, int destination) {
    MutexLock lock(&mutex_);
    auto& mailbox = Mailbox(source, destination);
    if (mailbox.empty()) return std::nullopt;
    return mailbox.front().size();
  }

  // Shows every rank every rank's tensor, runs `body(inputs)` on each, and returns when all have
  // run it.
  template <typename Body>
  void Exchange(int rank, const Tensor& x, Body body) {
    inputs_[rank] = x;
    Barrier();
    body(inputs_);
    Barrier();
  }

  void Barrier() {
    MutexLock lock(&mutex_);
    const uint64_t generation = generation_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++generation_;
      return;
    }
    auto passed = [this, generation] { return generation_ != generation; };
    mutex_.Await(passed);
  }

 private:
  std::deque<std::vector<char>>& Mailbox(int source, int destination) {
    return mailboxes_[source * size_ + destination];
  }

  const int size_;
  Mutex mutex_;
  int arrived_ = 0;
  uint64_t generation_ = 0;
  std::vector<Tensor> inputs_;  // element r is written by rank r alone, between barriers
  std::vector<std::deque<std::vector<char>>> mailboxes_;
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  void AllReduceSum(const Stream&, const Tensor& x) override {
    CHECK(x.contiguous());
    sum_.assign(x.num_elements(), 0.0f);
    group_->Exchange(rank_, x, [this](const std::vector<Tensor>& inputs) {
      for (const Tensor& input : inputs) {
        CHECK_EQ(input.num_elements(), static_cast<int64_t>(sum_.size()));
        const float* values = input.data<float>();
        for (size_t i = 0; i < sum_.size(); ++i) sum_[i] += values[i];
      }
    });
    std::copy(sum_.begin(), sum_.end(), x.data<float>());
  }

  void Broadcast(const Stream&, const Tensor& x, int root) override {
    CHECK(x.contiguous());
    group_->Exchange(rank_, x, [this, &x, root](const std::vector<Tensor>& inputs) {
      CHECK_EQ(inputs[root].num_bytes(), x.num_bytes());
      if (rank_ != root) std::memcpy(x.raw(), inputs[root].raw(), x.num_bytes());
    });
  }

  void Gather(const Stream&, const Tensor& in, const Tensor& out, int root) override {
    CHECK(in.contiguous());
    group_->Exchange(rank_, in, [this, &out, root](const std::vector<Tensor>& inputs) {
      if (rank_ != root) return;
      char* to = static_cast<char*>(out.raw());
      for (const Tensor& input : inputs) {
        std::memcpy(to, input.raw(), input.num_bytes());
        to += input.num_bytes();
      }
    });
  }

  void Send(const Stream&, const Tensor& x, int destination) override {
    CHECK(x.contiguous());
    group_->Put(rank_, destination, x);
  }
  void Recv(const Stream&, const Tensor& x, int source) override {
    CHECK(x.contiguous());
    group_->Take(source, rank_, x);
  }
  std::optional<int64_t> Probe(int source) override { return group_->Probe(source, rank_); }

 private:
  // Shared because the threads that play the ranks end in no particular order.
  const std::shared_ptr<ThreadGroup> group_;
  const int rank_;
  std::vector<float> sum_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size) {
  auto group = std::make_shared<ThreadGroup>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  ranks.reserve(size);
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<ThreadCommunicator>(group, rank));
  }
  return ranks;
}

}  // namespace polystrate
