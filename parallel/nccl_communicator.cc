#include "parallel/nccl_communicator.h"

#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "kernels/core/copy.h"
#include "kernels/core/mutex.h"
#include "kernels/core/status.h"
#include "kernels/cuda/check_cuda.h"
#include "kernels/cuda/context.h"
#include "parallel/backoff.h"
#include "parallel/nccl_slots.h"

namespace polystrate {
namespace {

constexpr int kNoPeer = -1;
constexpr int kMaxComms = 2;

bool Failed(ncclResult_t result) { return result != ncclSuccess && result != ncclInProgress; }

// The first that has failed, else the last.
ncclResult_t Worse(ncclResult_t first, ncclResult_t then) { return Failed(first) ? first : then; }

bool OnGpu(const Tensor& x) { return x.device().type == DeviceType::kCuda; }

// NCCL tells its kernels to end at once, but comes back from ncclCommAbort only when the last graph
// that holds calls of the group is destroyed: never, where the graphs' owner is stuck in a call. So
// it is left to itself after a while.
void AbortSoon(ncclComm_t comm) {
  constexpr absl::Duration kPatience = absl::Seconds(2);
  const auto done = std::make_shared<absl::Notification>();
  std::thread([comm, done] {
    ncclCommAbort(comm);
    done->Notify();
  }).detach();
  done->WaitForNotificationWithTimeout(kPatience);
}

// What messages over a communicator need besides it.
struct NcclHandover {
  // First in line for multiprocessors: what keeps a message waiting keeps the next stage waiting.
  NcclHandover() {
    int least = 0, greatest = 0;
    CHECK_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CHECK_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
  }
  ~NcclHandover() { cudaStreamDestroy(stream); }
  NcclHandover(const NcclHandover&) = delete;
  NcclHandover& operator=(const NcclHandover&) = delete;

  cudaStream_t stream = nullptr;  // messages go in its order
  NcclSlots sent;
  NcclSlots received;
};

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, const NcclOptions& options)
      : host_(std::move(host)), options_(options) {}
  ~NcclCommunicator() override;

  // Joins the group; the ranks end alike (MakeNcclCommunicator).
  absl::Status Join();

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  void AllReduceSum(const Stream& stream, const Tensor& x) override;
  void Broadcast(const Stream& stream, const Tensor& x, int root) override;
  void Gather(const Stream& stream, const Tensor& in, const Tensor& out, int root) override;
  void Send(const Stream& stream, const Tensor& x, int destination) override;
  void Recv(const Stream& stream, const Tensor& x, int source) override;
  std::optional<int64_t> Probe(int source) override { return host_->Probe(source); }
  absl::Status Health() override;
  void Abort() override;

 private:
  int num_comms() const { return options_.chain && size() > 2 ? kMaxComms : 1; }
  // Which communicator messages from and to `peer` take: the links of a chain take turns, so the
  // two of a rank have different ones.
  int CommOfLink(int peer) const { return std::min(rank(), peer) % num_comms(); }
  absl::StatusOr<ncclUniqueId> AgreeOnId();
  absl::Status Init(int i, const ncclUniqueId& id);
  absl::Status WaitForAll(int i, absl::Time deadline);
  // Calls call(communicator i) and waits until NCCL has enqueued what it asks for. Does not return
  // when that fails: Health() then says why, and nothing right can follow.
  template <typename Call>
  void Enqueue(int i, const char* what, int peer, Call call);
  absl::Status Describe(const char* what, int peer, ncclResult_t result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  NcclHandover& Handover(int i) {
    if (handovers_[i] == nullptr) handovers_[i] = std::make_unique<NcclHandover>();
    return *handovers_[i];
  }
  // How the last call has gone so far.
  ncclResult_t Poll(ncclComm_t comm) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Leave(ncclComm_t comm) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<Communicator> host_;
  const NcclOptions options_;
  std::array<std::unique_ptr<NcclHandover>, kMaxComms> handovers_;  // from the first message on

  // NCCL allows one call at a time on a communicator, and Health() and Abort() come from elsewhere.
  Mutex mutex_;
  // The first num_comms(), none before Join and after Abort; collectives take the first.
  std::array<ncclComm_t, kMaxComms> comms_ ABSL_GUARDED_BY(mutex_) = {};
  absl::Status fault_ ABSL_GUARDED_BY(mutex_);
};

absl::Status NcclCommunicator::Describe(const char* what, int peer, ncclResult_t result) {
  std::string text =
      absl::StrCat("NCCL, group ", options_.name, ", rank ", rank(), " of ", size(), ": ", what);
  if (peer != kNoPeer) absl::StrAppend(&text, " rank ", peer);
  if (result == ncclInProgress) {
    return absl::DeadlineExceededError(absl::StrCat(text, " takes longer than ",
                                                    absl::FormatDuration(options_.timeout),
                                                    " (--nccl_timeout); is a peer stuck or gone?"));
  }
  const char* last = ncclGetLastError(nullptr);  // the thread's or the process's: no one group's
  absl::StrAppend(&text, " failed: ", ncclGetErrorString(result));
  if (last != nullptr && *last != '\0') absl::StrAppend(&text, ": ", last);
  return absl::UnavailableError(absl::StrCat(text, " (NCCL_DEBUG=WARN says more)"));
}

ncclResult_t NcclCommunicator::Poll(ncclComm_t comm) {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
  return Worse(asked, state);
}

absl::StatusOr<ncclUniqueId> NcclCommunicator::AgreeOnId() {
  ncclUniqueId id = {};
  if (rank() == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    std::vector<uint8_t> bytes;  // empty when there is none
    if (!Failed(result)) bytes.assign(id.internal, id.internal + sizeof(id.internal));
    for (int peer = 1; peer < size(); ++peer) SendBytes(*host_, bytes, peer);
    if (!Failed(result)) return id;
    MutexLock lock(&mutex_);
    return Describe("making the group's id", kNoPeer, result);
  }
  const std::vector<uint8_t> bytes = RecvBytes(*host_, 0);
  if (bytes.size() != sizeof(id.internal)) {
    return absl::UnavailableError(
        absl::StrCat("NCCL, group ", options_.name, ": its rank 0 could not make the group's id"));
  }
  std::memcpy(id.internal, bytes.data(), bytes.size());
  return id;
}

absl::Status NcclCommunicator::Init(int i, const ncclUniqueId& id) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.commName = options_.name.c_str();
  if (options_.max_blocks > 0) config.maxCTAs = options_.max_blocks;
  MutexLock lock(&mutex_);
  const ncclResult_t result = ncclCommInitRankConfig(&comms_[i], size(), id, rank(), &config);
  return Failed(result) ? Describe("joining", kNoPeer, result) : absl::OkStatus();
}

absl::Status NcclCommunicator::Join() {
  const absl::Time deadline = absl::Now() + options_.timeout;
  for (int i = 0; i < num_comms(); ++i) {
    ASSIGN_OR_RETURN(const ncclUniqueId id, AgreeOnId());
    const absl::Status status = Init(i, id);
    for (int peer = 0; peer < size() && !status.ok(); ++peer) {
      const std::string why(status.message());
      if (peer != rank()) SendBytes(*host_, {why.begin(), why.end()}, peer);
    }
    RETURN_IF_ERROR(status);
    RETURN_IF_ERROR(WaitForAll(i, deadline));
  }
  return absl::OkStatus();
}

// Each rank tells each other one how it has got on, in words when it has not: one that fails must
// not let the rest wait until the deadline, nor leave its reason to be guessed from theirs.
absl::Status NcclCommunicator::WaitForAll(int i, absl::Time deadline) {
  const auto tell = [this](const std::string& how) {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != rank()) SendBytes(*host_, {how.begin(), how.end()}, peer);
    }
  };
  std::vector<bool> joined(size(), false);
  int num_joined = 0;
  for (Backoff backoff; num_joined < size(); backoff.Wait()) {
    for (int peer = 0; peer < size(); ++peer) {
      if (joined[peer] || peer == rank() || !host_->Probe(peer).has_value()) continue;
      const std::vector<uint8_t> how = RecvBytes(*host_, peer);
      if (!how.empty()) return absl::UnavailableError(std::string(how.begin(), how.end()));
      joined[peer] = true;
      ++num_joined;
    }
    MutexLock lock(&mutex_);
    const ncclResult_t state = joined[rank()] ? ncclSuccess : Poll(comms_[i]);
    if (state == ncclSuccess && !joined[rank()]) {
      joined[rank()] = true;
      ++num_joined;
      tell("");
    }
    const bool late = num_joined < size() && absl::Now() > deadline;
    if (!Failed(state) && !late) continue;
    absl::Status status = Describe("joining", kNoPeer, late ? ncclInProgress : state);
    if (!joined[rank()]) tell(std::string(status.message()));
    return status;
  }
  return absl::OkStatus();
}

NcclCommunicator::~NcclCommunicator() {
  MutexLock lock(&mutex_);
  for (ncclComm_t comm : comms_) {
    if (comm != nullptr) Leave(comm);
  }
}

// Peers that are well leave together; one that is not must not keep this one.
void NcclCommunicator::Leave(ncclComm_t comm) {
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  ncclResult_t state = fault_.ok() ? Poll(comm) : ncclSystemError;
  if (state == ncclSuccess) state = ncclCommFinalize(comm);
  for (Backoff backoff; state == ncclInProgress && absl::Now() < deadline; backoff.Wait()) {
    state = Poll(comm);
  }
  if (state == ncclSuccess) {
    ncclCommDestroy(comm);
  } else {
    AbortSoon(comm);
  }
}

template <typename Call>
void NcclCommunicator::Enqueue(int i, const char* what, int peer, Call call) {
  const absl::Time deadline = absl::Now() + options_.timeout;
  bool begun = false;
  for (Backoff backoff;; backoff.Wait()) {
    MutexLock lock(&mutex_);
    if (!fault_.ok()) break;
    const ncclResult_t result = std::exchange(begun, true) ? Poll(comms_[i]) : call(comms_[i]);
    if (result == ncclSuccess) return;
    if (result == ncclInProgress && absl::Now() < deadline) continue;
    fault_ = Describe(what, peer, result);
    break;
  }
  for (;;) absl::SleepFor(absl::Hours(1));
}

void NcclCommunicator::AllReduceSum(const Stream& stream, const Tensor& x) {
  if (!OnGpu(x)) return host_->AllReduceSum(stream, x);
  CHECK(x.contiguous());
  if (x.num_elements() == 0) return;
  // NCCL adds each element up on one rank, or in the switch, and hands the sum round: every rank
  // gets the same bits.
  Enqueue(/*i=*/0, "all-reduce", kNoPeer, [&](ncclComm_t comm) {
    float* values = x.data<float>();
    return ncclAllReduce(values, values, static_cast<size_t>(x.num_elements()), ncclFloat32,
                         ncclSum, comm, stream.cuda().stream());
  });
}

void NcclCommunicator::Broadcast(const Stream& stream, const Tensor& x, int root) {
  if (!OnGpu(x)) return host_->Broadcast(stream, x, root);
  CHECK(x.contiguous());
  if (x.num_bytes() == 0) return;
  Enqueue(/*i=*/0, "broadcast from", root, [&](ncclComm_t comm) {
    return ncclBroadcast(x.raw(), x.raw(), static_cast<size_t>(x.num_bytes()), ncclUint8, root,
                         comm, stream.cuda().stream());
  });
}

void NcclCommunicator::Gather(const Stream& stream, const Tensor& in, const Tensor& out, int root) {
  if (!OnGpu(in)) return host_->Gather(stream, in, out, root);
  CHECK(in.contiguous());
  const auto num_bytes = static_cast<size_t>(in.num_bytes());
  if (num_bytes == 0) return;
  const cudaStream_t queue = stream.cuda().stream();
  char* to = static_cast<char*>(out.raw());
  if (rank() == root) {
    CHECK_EQ(out.num_bytes(), in.num_bytes() * size());
    Copy(stream, in,
         Tensor(to + root * in.num_bytes(), in.dtype(), in.device(), {in.num_elements()}));
  }
  if (size() == 1) return;
  Enqueue(/*i=*/0, "gather at", root, [&](ncclComm_t comm) {
    ncclResult_t result = ncclGroupStart();
    if (rank() != root) {
      result = Worse(result, ncclSend(in.raw(), num_bytes, ncclUint8, root, comm, queue));
    }
    for (int peer = 0; peer < size() && rank() == root; ++peer) {
      if (peer == root) continue;
      result =
          Worse(result, ncclRecv(to + peer * num_bytes, num_bytes, ncclUint8, peer, comm, queue));
    }
    return Worse(result, ncclGroupEnd());
  });
}

void NcclCommunicator::Send(const Stream& stream, const Tensor& x, int destination) {
  if (!OnGpu(x)) return host_->Send(stream, x, destination);
  CHECK(x.contiguous());
  if (x.num_bytes() == 0) return;
  const int i = CommOfLink(destination);
  stream.OnHost([this, &stream, x, destination, i] {
    const cudaStream_t compute = stream.cuda().stream();
    const cudaStream_t messages = Handover(i).stream;
    NcclSlot& slot = Handover(i).sent.Next();
    const Tensor message = slot.Like(x);
    slot.Claim(compute);
    Copy(stream, x, message);
    slot.HandOver(compute, messages);
    Enqueue(i, "send to", destination, [&](ncclComm_t comm) {
      return ncclSend(message.raw(), static_cast<size_t>(message.num_bytes()), ncclUint8,
                      destination, comm, messages);
    });
    slot.Release(messages);
  });
}

void NcclCommunicator::Recv(const Stream& stream, const Tensor& x, int source) {
  if (!OnGpu(x)) return host_->Recv(stream, x, source);
  CHECK(x.contiguous());
  if (x.num_bytes() == 0) return;
  const int i = CommOfLink(source);
  stream.OnHost([this, &stream, x, source, i] {
    const cudaStream_t compute = stream.cuda().stream();
    const cudaStream_t messages = Handover(i).stream;
    NcclSlot& slot = Handover(i).received.Next();
    const Tensor message = slot.Like(x);
    slot.Claim(messages);
    Enqueue(i, "receive from", source, [&](ncclComm_t comm) {
      return ncclRecv(message.raw(), static_cast<size_t>(message.num_bytes()), ncclUint8, source,
                      comm, messages);
    });
    slot.HandOver(messages, compute);
    Copy(stream, message, x);
    slot.Release(compute);
  });
}

absl::Status NcclCommunicator::Health() {
  MutexLock lock(&mutex_);
  for (int i = 0; i < num_comms() && fault_.ok(); ++i) {
    if (const ncclResult_t state = Poll(comms_[i]); Failed(state)) {
      fault_ = Describe("what was enqueued", kNoPeer, state);
    }
  }
  return fault_;
}

void NcclCommunicator::Abort() {
  std::array<ncclComm_t, kMaxComms> comms = {};
  {
    MutexLock lock(&mutex_);
    if (fault_.ok()) {
      fault_ = absl::AbortedError(absl::StrCat("group ", options_.name, " is ended"));
    }
    comms.swap(comms_);
  }
  for (ncclComm_t comm : comms) {
    if (comm != nullptr) AbortSoon(comm);
  }
}

}  // namespace

std::string NcclVersion() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "?";
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    std::unique_ptr<Communicator> host, const NcclOptions& options) {
  auto group = std::make_unique<NcclCommunicator>(std::move(host), options);
  absl::Status joined = group->Join();
  if (!joined.ok()) {
    group->Abort();
    return joined;
  }
  return group;
}

}  // namespace polystrate
