#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/stream.h"

namespace {

// What the ranks of a group share.
struct Group {
  explicit Group(int size) : num_ranks(size), sent(size * size), inputs(size) {}

  const int num_ranks;
  std::mutex mutex;
  std::condition_variable changed;
  int num_joined = 0;
  std::vector<const std::vector<char>*> sent;  // by source * num_ranks + destination
  // A sum: what each rank brings, how many have, and how many sums are done.
  std::vector<std::vector<float>> inputs;
  int num_inputs = 0;
  int num_taken = 0;
};

}  // namespace

struct ncclComm {
  std::shared_ptr<Group> group;
  int rank = 0;
  std::atomic<ncclResult_t> state{ncclInProgress};
  std::atomic<bool> aborted{false};
  std::thread worker;  // of the last call
};

namespace {

std::mutex all_mutex;
std::map<std::string, std::shared_ptr<Group>> groups;  // by id
int num_ids = 0;
// For good: graphs know of them, and threads that were left in a call.
auto& comms = *new std::vector<std::unique_ptr<ncclComm>>;

// Until condition() or the abort; the group's mutex is held.
template <typename Condition>
bool Wait(ncclComm& comm, std::unique_lock<std::mutex>& lock, Condition condition) {
  comm.group->changed.wait(lock, [&] { return comm.aborted || condition(); });
  return !comm.aborted;
}

// A call that is part of a group of calls.
struct Call {
  cudaStream_t stream = nullptr;
  std::function<void()> begin;  // lets peers see what this rank brings
  std::function<void()> end;    // waits for theirs
};
struct PendingCalls {
  int depth = 0;
  ncclComm_t comm = nullptr;
  std::vector<Call> calls;
};
thread_local PendingCalls pending;

// On a thread of its own, as NCCL does where communicators do not block: the caller polls.
void StartWorker(ncclComm_t comm, std::function<void()> work) {
  if (comm->worker.joinable()) comm->worker.join();
  comm->state = ncclInProgress;
  comm->worker = std::thread([comm, work = std::move(work)] {
    work();
    ncclResult_t begun = ncclInProgress;
    comm->state.compare_exchange_strong(begun, ncclSuccess);
  });
}

void Enqueue(std::vector<Call> calls) {
  const cudaStream_t stream = calls[0].stream;
  polystrate::emulator::Enqueue(stream, [calls = std::move(calls)] {
    for (const Call& call : calls) call.begin();
    for (const Call& call : calls) call.end();
  });
}

ncclResult_t Add(ncclComm_t comm, Call call) {
  if (comm->state == ncclInProgress) return ncclInvalidUsage;
  if (comm->state != ncclSuccess) return comm->state;
  ncclGroupStart();
  pending.comm = comm;
  pending.calls.push_back(std::move(call));
  return ncclGroupEnd();
}

size_t SizeOf(ncclDataType_t type) { return type == ncclFloat32 ? 4 : 1; }

void BringSum(ncclComm_t comm, const float* from, size_t count) {
  Group& group = *comm->group;
  std::unique_lock<std::mutex> lock(group.mutex);
  // The sum before has been taken by all.
  if (!Wait(*comm, lock, [&] { return group.num_taken == 0; })) return;
  group.inputs[comm->rank].assign(from, from + count);
  ++group.num_inputs;
  group.changed.notify_all();
}

void TakeSum(ncclComm_t comm, float* to, size_t count) {
  Group& group = *comm->group;
  std::unique_lock<std::mutex> lock(group.mutex);
  if (!Wait(*comm, lock, [&] { return group.num_inputs == group.num_ranks; })) return;
  for (size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (const std::vector<float>& input : group.inputs) sum += input.at(i);
    to[i] = sum;
  }
  if (++group.num_taken == group.num_ranks) group.num_inputs = group.num_taken = 0;
  group.changed.notify_all();
}

void Take(ncclComm_t comm, int source, void* to, size_t num_bytes) {
  Group& group = *comm->group;
  std::unique_lock<std::mutex> lock(group.mutex);
  const std::vector<char>*& message = group.sent[source * group.num_ranks + comm->rank];
  if (!Wait(*comm, lock, [&] { return message != nullptr; })) return;
  if (message->size() != num_bytes) {
    comm->state = ncclInvalidArgument;
  } else {
    std::memcpy(to, message->data(), num_bytes);
  }
  message = nullptr;
  group.changed.notify_all();
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard<std::mutex> lock(all_mutex);
  *id = {};
  const std::string text = "group " + std::to_string(num_ids++);
  std::memcpy(id->internal, text.data(), text.size());
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error"
                                   : "an error of the emulated NCCL";
}
const char* ncclGetLastError(ncclComm_t) { return "no more is known"; }

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidArgument;
  const std::lock_guard<std::mutex> lock(all_mutex);
  std::shared_ptr<Group>& group = groups[id.internal];
  if (group == nullptr) group = std::make_shared<Group>(num_ranks);
  comms.push_back(std::make_unique<ncclComm>());
  *comm = comms.back().get();
  (*comm)->group = group;
  (*comm)->rank = rank;
  StartWorker(*comm, [comm = *comm, num_ranks] {
    std::unique_lock<std::mutex> group_lock(comm->group->mutex);
    ++comm->group->num_joined;
    comm->group->changed.notify_all();
    Wait(*comm, group_lock, [&] { return comm->group->num_joined == num_ranks; });
  });
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = comm->state;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) { return comm->state; }

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->worker.joinable()) comm->worker.join();
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    const std::lock_guard<std::mutex> lock(comm->group->mutex);
    comm->aborted = true;
    comm->group->changed.notify_all();
  }
  return ncclCommDestroy(comm);
}

ncclResult_t ncclGroupStart() {
  ++pending.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--pending.depth > 0 || pending.calls.empty()) return ncclSuccess;
  StartWorker(pending.comm, [calls = std::exchange(pending.calls, {})] { Enqueue(calls); });
  return ncclInProgress;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t, ncclRedOp_t,
                           ncclComm_t comm, cudaStream_t stream) {
  return Add(comm, {stream, [=] { BringSum(comm, static_cast<const float*>(from), count); },
                    [=] { TakeSum(comm, static_cast<float*>(to), count); }});
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  auto message = std::make_shared<std::vector<char>>(count * SizeOf(type));
  const auto slot = [=]() -> const std::vector<char>*& {
    return comm->group->sent[comm->rank * comm->group->num_ranks + peer];
  };
  return Add(comm, {stream,
                    [=] {
                      std::memcpy(message->data(), from, message->size());
                      const std::lock_guard<std::mutex> lock(comm->group->mutex);
                      slot() = message.get();
                      comm->group->changed.notify_all();
                    },
                    [=] {
                      std::unique_lock<std::mutex> lock(comm->group->mutex);
                      Wait(*comm, lock, [&] { return slot() == nullptr; });
                    }});
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return Add(comm, {stream, [] {}, [=] { Take(comm, peer, to, count * SizeOf(type)); }});
}

void FailEmulatedNccl() {
  const std::lock_guard<std::mutex> lock(all_mutex);
  for (const auto& comm : comms) comm->state = ncclRemoteError;
}
