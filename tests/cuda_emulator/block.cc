#include "tests/cuda_emulator/block.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "tests/cuda_emulator/async_proxy.h"
#include "tests/cuda_emulator/fiber.h"
#include "tests/cuda_emulator/phases.h"
#include "tests/cuda_emulator/shared_memory.h"
#include "tests/cuda_emulator/symbols.h"
#include "tests/cuda_emulator/warpgroup.h"

constinit thread_local uint3 threadIdx = {}, blockIdx = {};
constinit thread_local dim3 blockDim = {}, gridDim = {};

namespace polystrate::emulator {

constinit thread_local const Place* this_place = nullptr;

namespace {

constexpr size_t kCopyBytes = 16;

enum class State : uint8_t { kReady, kAtBarrier, kInWarp, kAtPhase, kLast, kDone };

struct AsyncCopy {
  void* to;
  const void* from;
};

struct Thread {
  Fiber fiber;
  Place place;
  State state = State::kDone;
  std::source_location waits_at;
  bool predicate = false;  // of MeetBlock
  uint32_t mask = 0;       // of MeetWarp, as the next two
  void* data = nullptr;
  Combine combine = nullptr;
  const uint64_t* barrier = nullptr;  // of AwaitPhase, as the next
  uint32_t parity = 0;
  std::vector<AsyncCopy> copies;   // in the order of their groups
  std::vector<size_t> group_ends;  // of the groups that are committed
  bool waited = false;             // WaitForKernelBefore
};

std::string Describe(const uint3& i) { return absl::StrCat("(", i.x, ", ", i.y, ", ", i.z, ")"); }

std::string Describe(const std::source_location& at) {
  return absl::StrCat(at.file_name(), ":", at.line());
}

bool SamePlace(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

struct Warp {
  uint32_t running = 0;  // lanes that have not returned
  uint32_t waiting = 0;  // lanes in MeetWarp
};

// One operating system's thread's: the block that it runs, and the stacks that blocks share.
class Block {
 public:
  void Run(const KernelLaunch& launch, uint3 index, bool backwards);

  Thread& current() { return *threads_[current_]; }
  int current_number() const { return current_; }
  const KernelLaunch* launch() const { return launch_; }
  int MeetAll(bool predicate, const std::source_location& from);
  void MeetLanes(uint32_t mask, void* data, Combine combine, const std::source_location& from);
  void AwaitPhase(const uint64_t* barrier, uint32_t parity, const std::source_location& from);
  void LetOthersRun(const std::source_location& from);

 private:
  static void RunThread(void* block);
  void Start(const KernelLaunch& launch, uint3 index);
  bool RunWarp(int warp);
  void Resume(int thread);
  void SetCurrent(int thread);
  void Leave();
  void ReleaseBarrier();
  bool WakeLast();
  bool TryMeet(int thread);
  [[noreturn]] void Stuck();

  const KernelLaunch* launch_ = nullptr;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::array<Warp, kMaxThreads / kWarpSize> warps_;
  int num_threads_ = 0;
  bool backwards_ = false;  // from the last warp and lane to the first
  int current_ = 0;
  int num_done_ = 0;
  int num_at_barrier_ = 0;
  const Thread* first_at_barrier_ = nullptr;
  int num_true_ = 0;  // of the barrier that was released last
};

thread_local Block this_block;

void Block::RunThread(void* block) {
  auto* self = static_cast<Block*>(block);
  self->launch_->body();
  Thread& thread = self->current();
  if (self->launch_->early && !thread.waited) {
    KernelFault("has not called WaitForKernelBefore, but was started with LaunchEarly");
  }
  if (ProductsUnderWay()) KernelFault("returns before it has waited for its products");
  thread.state = State::kDone;
  self->warps_[self->current_ / kWarpSize].running &= ~(1u << thread.place.lane);
  ++self->num_done_;
  thread.fiber.Suspend();
}

void Block::Start(const KernelLaunch& launch, uint3 index) {
  launch_ = &launch;
  blockIdx = index;
  blockDim = launch.block;
  gridDim = launch.grid;
  num_threads_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  num_done_ = num_at_barrier_ = 0;
  while (static_cast<int>(threads_.size()) < num_threads_) {
    threads_.push_back(std::make_unique<Thread>());
  }
  warps_.fill({});
  ForgetProducts(num_threads_);
  for (int i = 0; i < num_threads_; ++i) {
    Thread& thread = *threads_[i];
    warps_[i / kWarpSize].running |= 1u << i % kWarpSize;
    const unsigned plane = launch.block.x * launch.block.y;
    thread.place.thread_index = {i % launch.block.x, i % plane / launch.block.x, i / plane};
    thread.place.lane = i % kWarpSize;
    thread.state = State::kReady;
    thread.copies.clear();
    thread.group_ends.clear();
    thread.waited = false;
    thread.fiber.Start(&Block::RunThread, this);
  }
}

void Block::Run(const KernelLaunch& launch, uint3 index, bool backwards) {
  backwards_ = backwards;
  Start(launch, index);
  const int num_warps = (num_threads_ + kWarpSize - 1) / kWarpSize;
  while (num_done_ < num_threads_) {
    bool ran = false;
    for (int w = 0; w < num_warps; ++w) {
      while (RunWarp(backwards_ ? num_warps - 1 - w : w)) ran = true;
    }
    if (num_at_barrier_ == num_threads_) {
      ReleaseBarrier();
    } else if (!ran && num_done_ < num_threads_ && !WakeLast()) {
      Stuck();
    }
  }
  launch_ = nullptr;
}

void Block::SetCurrent(int thread) {
  current_ = thread;
  this_place = &threads_[thread]->place;
  threadIdx = this_place->thread_index;
}

void Block::Resume(int thread) {
  SetCurrent(thread);
  threads_[thread]->fiber.Resume();
  this_place = nullptr;
}

// The thread that runs waits: on with the next of its warp, or back to RunWarp.
void Block::Leave() {
  Thread& self = current();
  const int begin = current_ / kWarpSize * kWarpSize;
  const int end = std::min(begin + kWarpSize, num_threads_);
  const int step = backwards_ ? -1 : 1;
  int next = current_ + step;
  while (next >= begin && next < end && threads_[next]->state != State::kReady) next += step;
  if (next >= begin && next < end) {
    SetCurrent(next);
    if (self.fiber.Pass(threads_[next]->fiber)) return;
  }
  self.fiber.Suspend();
}

// Whether anything went on.
bool Block::RunWarp(int warp) {
  const int begin = warp * kWarpSize;
  const int end = std::min(begin + kWarpSize, num_threads_);
  bool ran = false;
  for (int i = 0; i < end - begin; ++i) {
    const int thread = backwards_ ? end - 1 - i : begin + i;
    Thread& next = *threads_[thread];
    if (next.state == State::kAtPhase && PhaseHasEnded(next.barrier, next.parity)) {
      next.state = State::kReady;
    }
    if (next.state != State::kReady) continue;
    Resume(thread);
    ran = true;
  }
  // Those that a lane's return leaves complete.
  for (int i = begin; i < end && !ran; ++i) {
    current_ = i;
    ran = threads_[i]->state == State::kInWarp && TryMeet(i);
  }
  return ran;
}

void Block::ReleaseBarrier() {
  num_true_ = num_at_barrier_ = 0;
  for (int i = 0; i < num_threads_; ++i) {
    num_true_ += threads_[i]->predicate ? 1 : 0;
    threads_[i]->state = State::kReady;
  }
}

int Block::MeetAll(bool predicate, const std::source_location& from) {
  Thread& self = current();
  for (int i = 0; i < num_threads_ && num_done_ > 0; ++i) {
    if (threads_[i]->state == State::kDone) {
      KernelFault(absl::StrCat("reaches __syncthreads at ", Describe(from), ", but thread ",
                               Describe(threads_[i]->place.thread_index), " has returned"));
    }
  }
  if (num_at_barrier_ == 0) first_at_barrier_ = &self;
  if (num_at_barrier_ > 0 && !SamePlace(first_at_barrier_->waits_at, from)) {
    KernelFault(absl::StrCat("reaches __syncthreads at ", Describe(from), ", but thread ",
                             Describe(first_at_barrier_->place.thread_index), " waits at ",
                             Describe(first_at_barrier_->waits_at)));
  }
  self.state = State::kAtBarrier;
  self.waits_at = from;
  self.predicate = predicate;
  ++num_at_barrier_;
  Leave();
  return num_true_;
}

void Block::MeetLanes(uint32_t mask, void* data, Combine combine,
                      const std::source_location& from) {
  Thread& self = current();
  if ((mask >> self.place.lane & 1u) == 0) {
    KernelFault(absl::StrCat("calls a warp's function at ", Describe(from), " with mask ",
                             absl::Hex(mask), ", which it is not in"));
  }
  self.state = State::kInWarp;
  self.waits_at = from;
  self.mask = mask;
  self.data = data;
  self.combine = combine;
  warps_[current_ / kWarpSize].waiting |= 1u << self.place.lane;
  if (!TryMeet(current_)) Leave();
}

void Block::AwaitPhase(const uint64_t* barrier, uint32_t parity, const std::source_location& from) {
  if (PhaseHasEnded(barrier, parity)) return;
  Thread& self = current();
  self.state = State::kAtPhase;
  self.waits_at = from;
  self.barrier = barrier;
  self.parity = parity;
  Leave();
}

void Block::LetOthersRun(const std::source_location& from) {
  current().state = State::kLast;
  current().waits_at = from;
  Leave();
}

// Whether there were any.
bool Block::WakeLast() {
  bool any = false;
  for (int i = 0; i < num_threads_; ++i) {
    if (threads_[i]->state != State::kLast) continue;
    threads_[i]->state = State::kReady;
    any = true;
  }
  return any;
}

bool Block::TryMeet(int thread) {
  const Thread& self = *threads_[thread];
  Warp& warp = warps_[thread / kWarpSize];
  const uint32_t lanes = self.mask & warp.running;
  if ((lanes & ~warp.waiting) != 0) return false;
  const int begin = thread / kWarpSize * kWarpSize;
  void* data[kWarpSize] = {};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((lanes >> lane & 1u) == 0) continue;
    const Thread& other = *threads_[begin + lane];
    if (other.mask != self.mask || other.combine != self.combine ||
        !SamePlace(other.waits_at, self.waits_at)) {
      KernelFault(absl::StrCat("calls a warp's function at ", Describe(self.waits_at),
                               " with mask ", absl::Hex(self.mask), ", while lane ", lane,
                               " is at ", Describe(other.waits_at), " with mask ",
                               absl::Hex(other.mask)));
    }
    data[lane] = other.data;
  }
  self.combine(data);
  warp.waiting &= ~lanes;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((lanes >> lane & 1u) != 0) threads_[begin + lane]->state = State::kReady;
  }
  return true;
}

void Block::Stuck() {
  std::string what = "cannot go on:";
  for (const State state : {State::kDone, State::kAtBarrier, State::kInWarp, State::kAtPhase}) {
    for (int i = 0; i < num_threads_; ++i) {
      if (threads_[i]->state != state) continue;
      current_ = i;
      this_place = &threads_[i]->place;
      absl::StrAppend(&what, " thread ", Describe(this_place->thread_index),
                      state == State::kDone ? " has returned" : " waits at ",
                      state == State::kDone ? "" : Describe(threads_[i]->waits_at), ",");
      break;
    }
  }
  KernelFault(what + " each for the others");
}

}  // namespace

void RunGrid(const KernelLaunch& launch) {
  CHECK(this_place == nullptr);
  bool backwards = false;
  for (unsigned z = 0; z < launch.grid.z; ++z) {
    for (unsigned y = 0; y < launch.grid.y; ++y) {
      for (unsigned x = 0; x < launch.grid.x; ++x) {
        PrepareSharedMemory(launch.dynamic_shared_bytes);
        this_block.Run(launch, {x, y, z}, backwards);
        backwards = !backwards;
        if (!SharedMemoryIntact()) {
          KernelFault(absl::StrCat("wrote behind its dynamic shared memory: ",
                                   KernelName(launch.kernel), ", block ", Describe({x, y, z})));
        }
      }
    }
  }
}

int MeetBlock(bool predicate, const std::source_location& from) {
  return this_block.MeetAll(predicate, from);
}

void MeetWarp(uint32_t mask, void* data, Combine combine, const std::source_location& from) {
  this_block.MeetLanes(mask, data, combine, from);
}

void CopyAsync(void* to, const void* from) {
  if (reinterpret_cast<uintptr_t>(to) % kCopyBytes != 0 ||
      reinterpret_cast<uintptr_t>(from) % kCopyBytes != 0) {
    KernelFault("copies 16 bytes from or to an address that is not aligned to 16");
  }
  if (!InSharedMemory(to, kCopyBytes)) KernelFault("copies to what is not shared memory");
  std::memset(to, kPoison, kCopyBytes);
  this_block.current().copies.push_back({to, from});
}

void CommitCopies() {
  Thread& thread = this_block.current();
  thread.group_ends.push_back(thread.copies.size());
}

void WaitCopies(int num_pending) {
  Thread& thread = this_block.current();
  const int num_groups = static_cast<int>(thread.group_ends.size());
  if (num_groups <= num_pending) return;
  const int num_finished = num_groups - num_pending;
  const size_t end = thread.group_ends[num_finished - 1];
  for (size_t i = 0; i < end; ++i) {
    const AsyncCopy& copy = thread.copies[i];
    if (copy.from == nullptr) {
      std::memset(copy.to, 0, kCopyBytes);
    } else {
      std::memcpy(copy.to, copy.from, kCopyBytes);
    }
    RecordWrite(copy.to);
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<ptrdiff_t>(end));
  thread.group_ends.erase(thread.group_ends.begin(), thread.group_ends.begin() + num_finished);
  for (size_t& group_end : thread.group_ends) group_end -= end;
}

void AwaitPhase(const uint64_t* barrier, uint32_t parity, const std::source_location& from) {
  this_block.AwaitPhase(barrier, parity, from);
}

void LetOthersRun(const std::source_location& from) { this_block.LetOthersRun(from); }

int ThreadNumber() { return this_block.current_number(); }

void WaitForKernelBefore() { this_block.current().waited = true; }

std::string DescribePlace() {
  if (this_place == nullptr || this_block.launch() == nullptr) return "";
  return absl::StrCat(" in kernel ", KernelName(this_block.launch()->kernel), ", block ",
                      Describe(blockIdx), ", thread ", Describe(this_place->thread_index));
}

void KernelFault(const std::string& what) {
  std::fprintf(stderr, "CUDA emulator:%s: %s\n", DescribePlace().c_str(), what.c_str());
  std::abort();
}

}  // namespace polystrate::emulator
