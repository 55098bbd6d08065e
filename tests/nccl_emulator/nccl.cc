#include <nccl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/stream.h"
#include "tests/nccl_emulator/shared_group.h"

using polystrate::emulator::SharedGroup;
using polystrate::emulator::Transfer;

struct ncclComm {
  std::string name;
  SharedGroup* group = nullptr;
  int size = 0;
  int rank = 0;
  std::atomic<ncclResult_t> state{ncclInProgress};
  std::atomic<bool> aborted{false};
  std::mutex turn;     // of what the GPU does for the group: one thing at a time
  std::thread worker;  // of the last call
  // Held by every graph that a call has been recorded in.
  std::shared_ptr<int> graphs = std::make_shared<int>();
};

namespace {

std::mutex all_mutex;
int num_ids = 0;
// For good: graphs know of them, and threads that were left in a call.
auto& comms = *new std::vector<std::unique_ptr<ncclComm>>;

// Until condition() or the abort.
template <typename Condition>
bool Wait(const ncclComm& comm, Condition condition) {
  while (!comm.aborted && !condition()) std::this_thread::sleep_for(std::chrono::microseconds(20));
  return !comm.aborted;
}

// NCCL lets a group go when the last graph that holds calls of it is destroyed, and waits for that;
// after an abort, too.
void WaitForGraphs(const ncclComm& comm) {
  while (comm.graphs.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// A call that is part of a group of calls.
struct Call {
  cudaStream_t stream = nullptr;
  std::function<void(std::vector<Transfer>* transfers)> begin;
  std::function<void()> end = [] {};  // once all transfers are done
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

// What the GPU does. All transfers of a group of calls go on together.
void Run(ncclComm& comm, const std::vector<Call>& calls) {
  const std::lock_guard<std::mutex> turn(comm.turn);
  std::vector<Transfer> transfers;
  for (const Call& call : calls) call.begin(&transfers);
  const bool done = Wait(comm, [&transfers] {
    bool all = true;
    for (Transfer& transfer : transfers) all = transfer.GoOn() && all;
    return all;
  });
  for (const Transfer& transfer : transfers) {
    if (transfer.failed()) comm.state = ncclInvalidArgument;
  }
  for (const Call& call : calls) {
    if (done) call.end();
  }
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

// The test that has this process for a rank wants it to fail (nccl.h).
bool ToldToFail() {
  const char* fault = std::getenv("POLYSTRATE_EMULATED_NCCL_FAULT");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (fault == nullptr || rank == nullptr) return false;
  return access((std::string(fault) + "." + rank).c_str(), F_OK) == 0;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard<std::mutex> lock(all_mutex);
  *id = {};
  const std::string text =
      "/emulated-nccl-" + std::to_string(getpid()) + "-" + std::to_string(num_ids++);
  std::memcpy(id->internal, text.data(), text.size());
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error"
                                   : "an error of the emulated NCCL";
}
const char* ncclGetLastError(ncclComm_t) {
  return polystrate::emulator::StreamsRun()
             ? "no more is known"
             : "streams must run by themselves (tests/cuda_emulator/stream.h)";
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0 || num_ranks > polystrate::emulator::kMaxRanks) {
    return ncclInvalidArgument;
  }
  if (!polystrate::emulator::StreamsRun()) return ncclInvalidUsage;
  auto made = std::make_unique<ncclComm>();
  made->name = id.internal;
  made->group = polystrate::emulator::OpenGroup(made->name);
  made->size = num_ranks;
  made->rank = rank;
  *comm = made.get();
  StartWorker(*comm, [comm = *comm] {
    std::atomic<int>& num_joined = comm->group->num_joined;
    ++num_joined;
    Wait(*comm, [&] { return num_joined == comm->size; });
    polystrate::emulator::ForgetGroup(comm->name);
  });
  const std::lock_guard<std::mutex> lock(all_mutex);
  comms.push_back(std::move(made));
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  if (ToldToFail()) comm->state = ncclRemoteError;
  *state = comm->state;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (comm->state != ncclSuccess) return comm->state;
  StartWorker(comm, [comm] { WaitForGraphs(*comm); });
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->worker.joinable()) comm->worker.join();
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->aborted = true;
  WaitForGraphs(*comm);
  return ncclCommDestroy(comm);
}

ncclResult_t ncclGroupStart() {
  ++pending.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--pending.depth > 0 || pending.calls.empty()) return ncclSuccess;
  const ncclComm_t comm = pending.comm;
  StartWorker(comm, [comm, calls = std::exchange(pending.calls, {})] {
    const cudaStream_t stream = calls[0].stream;
    const bool recorded = polystrate::emulator::IsRecording(stream);
    const auto held = recorded ? comm->graphs : nullptr;
    polystrate::emulator::Enqueue(stream, [comm, calls, held] { Run(*comm, calls); });
  });
  return ncclInProgress;
}

// Every rank adds all ranks' values up, in their order.
ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t, ncclRedOp_t,
                           ncclComm_t comm, cudaStream_t stream) {
  const auto inputs = std::make_shared<std::vector<std::vector<float>>>(comm->size);
  for (std::vector<float>& input : *inputs) input.resize(count);
  const auto begin = [=](std::vector<Transfer>* transfers) {
    const size_t num_bytes = count * sizeof(float);
    std::memcpy((*inputs)[comm->rank].data(), from, num_bytes);
    auto& channels = comm->group->channels;
    for (int peer = 0; peer < comm->size; ++peer) {
      if (peer == comm->rank) continue;
      transfers->push_back(Transfer::Send(&channels[comm->rank][peer], from, num_bytes));
      transfers->push_back(
          Transfer::Receive(&channels[peer][comm->rank], (*inputs)[peer].data(), num_bytes));
    }
  };
  const auto end = [=] {
    for (size_t i = 0; i < count; ++i) {
      float sum = 0;
      for (const std::vector<float>& input : *inputs) sum += input[i];
      static_cast<float*>(to)[i] = sum;
    }
  };
  return Add(comm, {stream, begin, end});
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  const size_t num_bytes = count * SizeOf(type);
  return Add(
      comm,
      {stream, [=](std::vector<Transfer>* transfers) {
         auto& channels = comm->group->channels;
         if (comm->rank != root) {
           transfers->push_back(Transfer::Receive(&channels[root][comm->rank], to, num_bytes));
           return;
         }
         std::memmove(to, from, num_bytes);
         for (int peer = 0; peer < comm->size; ++peer) {
           if (peer == root) continue;
           transfers->push_back(Transfer::Send(&channels[root][peer], from, num_bytes));
         }
       }});
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return Add(comm, {stream, [=](std::vector<Transfer>* transfers) {
                      transfers->push_back(Transfer::Send(&comm->group->channels[comm->rank][peer],
                                                          from, count * SizeOf(type)));
                    }});
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return Add(comm, {stream, [=](std::vector<Transfer>* transfers) {
                      transfers->push_back(Transfer::Receive(
                          &comm->group->channels[peer][comm->rank], to, count * SizeOf(type)));
                    }});
}

void FailEmulatedNccl() {
  const std::lock_guard<std::mutex> lock(all_mutex);
  for (const auto& comm : comms) comm->state = ncclRemoteError;
}
