#include "parallel/pinned_communicator.h"

#include <bit>
#include <utility>

#include "kernels/core/copy.h"

namespace polystrate {
namespace {

bool OnGpu(const Tensor& x) { return x.device().type == DeviceType::kCuda; }

// Page-locked memory that grows when a larger tensor comes than ever before.
class PinnedMemory {
 public:
  // As large as x, contents undefined. What `stream` still does with the memory ends first if it
  // must grow.
  Tensor Like(const Stream& stream, const Tensor& x) {
    const int64_t num_bytes = x.num_bytes();
    if (num_bytes > buffer_.num_bytes()) {
      stream.Synchronize();
      buffer_ = Buffer();
      const uint64_t size = std::bit_ceil(static_cast<uint64_t>(num_bytes));
      absl::StatusOr<Buffer> buffer = Buffer::AllocatePinned(static_cast<int64_t>(size));
      CHECK(buffer.ok());
      buffer_ = *std::move(buffer);
    }
    return Tensor(buffer_.data(), x.dtype(), Device{}, {x.num_elements()});
  }

 private:
  Buffer buffer_;
};

class PinnedCommunicator : public Communicator {
 public:
  explicit PinnedCommunicator(std::unique_ptr<Communicator> host) : host_(std::move(host)) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  void AllReduceSum(const Stream& stream, const Tensor& x) override {
    if (!OnGpu(x)) return host_->AllReduceSum(stream, x);
    if (size() == 1) return;
    stream.OnHost([this, &stream, x] {
      const Tensor copy = Fetch(stream, x);
      host_->AllReduceSum(stream, copy);
      Copy(stream, copy, x);
    });
  }

  void Broadcast(const Stream& stream, const Tensor& x, int root) override {
    if (!OnGpu(x)) return host_->Broadcast(stream, x, root);
    if (size() == 1) return;
    stream.OnHost([this, &stream, x, root] {
      const Tensor copy = Fetch(stream, x);
      host_->Broadcast(stream, copy, root);
      if (rank() != root) Copy(stream, copy, x);
    });
  }

  void Gather(const Stream& stream, const Tensor& in, const Tensor& out, int root) override {
    if (!OnGpu(in)) return host_->Gather(stream, in, out, root);
    if (size() == 1) return Copy(stream, in, out);
    stream.OnHost([this, &stream, in, out, root] {
      const Tensor copy = Fetch(stream, in);
      if (rank() != root) return host_->Gather(stream, copy, Tensor(), root);
      const Tensor all = gathered_.Like(stream, out);
      host_->Gather(stream, copy, all, root);
      Copy(stream, all, out);
    });
  }

  void Send(const Stream& stream, const Tensor& x, int destination) override {
    if (!OnGpu(x)) return host_->Send(stream, x, destination);
    stream.OnHost(
        [this, &stream, x, destination] { host_->Send(stream, Fetch(stream, x), destination); });
  }

  void Recv(const Stream& stream, const Tensor& x, int source) override {
    if (!OnGpu(x)) return host_->Recv(stream, x, source);
    stream.OnHost([this, &stream, x, source] {
      const Tensor copy = memory_.Like(stream, x);
      stream.Synchronize();  // the copy of the message before may still be read
      host_->Recv(stream, copy, source);
      Copy(stream, copy, x);
    });
  }

  std::optional<int64_t> Probe(int source) override { return host_->Probe(source); }

 private:
  // x on the host, when the stream has computed it. What was copied from that memory to the GPU is
  // then done as well.
  Tensor Fetch(const Stream& stream, const Tensor& x) {
    CHECK(x.contiguous());
    const Tensor copy = memory_.Like(stream, x);
    Copy(stream, x, copy);
    stream.Synchronize();
    return copy;
  }

  const std::unique_ptr<Communicator> host_;
  PinnedMemory memory_;
  PinnedMemory gathered_;
};

}  // namespace

std::unique_ptr<Communicator> MakePinnedCommunicator(std::unique_ptr<Communicator> host) {
  return std::make_unique<PinnedCommunicator>(std::move(host));
}

}  // namespace polystrate
