#include "parallel/mpi_communicator.h"

#include <climits>
#include <cstring>
#include <deque>

#include "parallel/backoff.h"

namespace polystrate {
namespace {

constexpr int kTag = 0;

#define CHECK_MPI(call) CHECK_EQ(call, MPI_SUCCESS)

int Count(int64_t n) {
  CHECK_LE(n, static_cast<int64_t>(INT_MAX));  // MPI 3 counts are ints
  return static_cast<int>(n);
}

class MpiCommunicator : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm comm) : comm_(comm) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  ~MpiCommunicator() override {
    for (Outgoing& message : outgoing_) MPI_Wait(&message.request, MPI_STATUS_IGNORE);
    MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void AllReduceSum(const Stream&, const Tensor& x) override {
    CHECK(x.contiguous());
    if (size_ == 1) return;
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, x.data<float>(), Count(x.num_elements()), MPI_FLOAT,
                            MPI_SUM, comm_));
  }

  void Broadcast(const Stream&, const Tensor& x, int root) override {
    CHECK(x.contiguous());
    CHECK_MPI(MPI_Bcast(x.raw(), Count(x.num_bytes()), MPI_BYTE, root, comm_));
  }

  void Gather(const Stream&, const Tensor& in, const Tensor& out, int root) override {
    CHECK(in.contiguous());
    const int count = Count(in.num_bytes());
    if (rank_ == root) CHECK_EQ(out.num_bytes(), in.num_bytes() * size_);
    CHECK_MPI(MPI_Gather(in.raw(), count, MPI_BYTE, out.raw(), count, MPI_BYTE, root, comm_));
  }

  void Send(const Stream&, const Tensor& x, int destination) override {
    CHECK(x.contiguous());
    Outgoing message = FreeMessage();
    const char* bytes = static_cast<const char*>(x.raw());
    message.bytes.assign(bytes, bytes + x.num_bytes());
    CHECK_MPI(MPI_Isend(message.bytes.data(), Count(x.num_bytes()), MPI_BYTE, destination, kTag,
                        comm_, &message.request));
    outgoing_.push_back(std::move(message));
  }

  void Recv(const Stream&, const Tensor& x, int source) override {
    CHECK(x.contiguous());
    Backoff backoff;
    std::optional<int64_t> num_bytes;
    while (!(num_bytes = Probe(source))) backoff.Wait();
    CHECK_EQ(*num_bytes, x.num_bytes());
    CHECK_MPI(
        MPI_Recv(x.raw(), Count(x.num_bytes()), MPI_BYTE, source, kTag, comm_, MPI_STATUS_IGNORE));
  }

  std::optional<int64_t> Probe(int source) override {
    int arrived = 0;
    MPI_Status status;
    CHECK_MPI(MPI_Iprobe(source, kTag, comm_, &arrived, &status));
    if (!arrived) return std::nullopt;
    int count = 0;
    CHECK_MPI(MPI_Get_count(&status, MPI_BYTE, &count));
    return count;
  }

 private:
  struct Outgoing {
    MPI_Request request = MPI_REQUEST_NULL;
    std::vector<char> bytes;
  };
  // More than this many unreceived messages to all peers together means that a peer is far behind:
  // wait for it.
  static constexpr size_t kMaxOutgoing = 256;

  // The oldest message's memory if it has been received, so that a steady state allocates nothing.
  Outgoing FreeMessage() {
    if (outgoing_.empty()) return {};
    int sent = 0;
    CHECK_MPI(MPI_Test(&outgoing_.front().request, &sent, MPI_STATUS_IGNORE));
    if (!sent && outgoing_.size() < kMaxOutgoing) return {};
    if (!sent) CHECK_MPI(MPI_Wait(&outgoing_.front().request, MPI_STATUS_IGNORE));
    Outgoing message = std::move(outgoing_.front());
    outgoing_.pop_front();
    return message;
  }

  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 1;
  std::deque<Outgoing> outgoing_;
};

}  // namespace

std::unique_ptr<Communicator> MakeMpiCommunicator(MPI_Comm comm) {
  return std::make_unique<MpiCommunicator>(comm);
}

}  // namespace polystrate
