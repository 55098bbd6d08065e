// Communicator: one group of ranks that exchange tensors. (Abstract seam 1 of 2; the other is
// TokenSink.)
//
// Every rank of the group makes the same collective calls in the same order, from one thread.
// Tensors lie on the host or on the stream's device; on a GPU a call is enqueued, and may return
// before it is done.
// Messages between two ranks arrive in the order they were sent. A peer that dies ends the job
// (MPI's launcher kills the rest, a GroupGuard ends what waits on a GPU); no call returns an error.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // x = sum of every rank's x, in place. float32, contiguous. All ranks get the same bits.
  virtual void AllReduceSum(const Stream& stream, const Tensor& x) = 0;
  // x = root's x. Contiguous.
  virtual void Broadcast(const Stream& stream, const Tensor& x, int root) = 0;
  // At `root`, out[r] = rank r's `in`; out is not looked at elsewhere. in: contiguous;
  // out: [size, ...in's dims], same dtype.
  virtual void Gather(const Stream& stream, const Tensor& in, const Tensor& out, int root) = 0;
  // Buffered: the tensor may be reused when Send returns, on a GPU by what is enqueued on `stream`
  // afterwards, whether or not it has been received. Contiguous.
  virtual void Send(const Stream& stream, const Tensor& x, int destination) = 0;
  // Fills x with the next message from `source`, which must be of x's size. Waits without holding a
  // core.
  virtual void Recv(const Stream& stream, const Tensor& x, int source) = 0;
  // Bytes of the next message from `source`, or nothing when none has arrived. Host groups only.
  virtual std::optional<int64_t> Probe(int source) = 0;

  // --- Any thread. ---
  // Why the group is of no use any more, if so: its results are wrong, or never come. A call that
  // finds it so does not return. What works over the host is always well.
  virtual absl::Status Health() { return absl::OkStatus(); }
  // Ends what GPUs do for the group, so that who waits for a stream gets on, with wrong results.
  virtual void Abort() {}
};

// Untyped messages over a host group.
void SendBytes(Communicator& group, const std::vector<uint8_t>& bytes, int destination);
std::vector<uint8_t> RecvBytes(Communicator& group, int source);  // waits without holding a core

// A group of one: collectives copy or do nothing, messages to oneself are queued.
std::unique_ptr<Communicator> MakeSelfCommunicator();

// The ranks are threads of one process: for fast tests and the thread sanitizer. Element r is for
// the thread that plays rank r; the group lives until the last of them is gone. Sums run in rank
// order.
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size);

}  // namespace polystrate
