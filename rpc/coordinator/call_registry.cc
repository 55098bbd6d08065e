#include "rpc/coordinator/call_registry.h"

#include <algorithm>
#include <cstdio>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/retry_delay.h"
#include "rpc/coordinator/routed_call.h"

namespace polystrate {
namespace {

constexpr absl::Duration kElsewhere = absl::Seconds(1);  // what a client is told to wait

}  // namespace

CallRegistry::CallRegistry(const CarryOptions& options)
    : options_(options), thread_([this] { Run(); }) {
  readers_.Start(options.reader_timeout);
}

CallRegistry::~CallRegistry() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_ = true;
  }
  thread_.join();
}

absl::Status CallRegistry::Add(RoutedCall* call) {
  absl::MutexLock lock(&mutex_);
  if (draining_) {
    return WithRetryDelay(
        absl::UnavailableError("the coordinator is draining and takes no new requests"),
        kElsewhere);
  }
  if (!ids_.try_emplace(call->request_id(), call).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id \"", call->request_id(), "\" is live already"));
  }
  calls_.try_emplace(call);
  return absl::OkStatus();
}

void CallRegistry::Remove(RoutedCall* call) {
  {
    absl::MutexLock lock(&mutex_);
    calls_.erase(call);
    ids_.erase(call->request_id());
  }
  if (quarantine_.Clear(call->number())) WakeAll();
}

uint64_t CallRegistry::losses() const {
  absl::MutexLock lock(&mutex_);
  return losses_;
}

bool CallRegistry::Place(RoutedCall* call, const std::string& target, uint64_t losses) {
  absl::MutexLock lock(&mutex_);
  const auto lost = last_loss_.find(target);
  if (lost != last_loss_.end() && lost->second > losses) return false;
  const auto found = calls_.find(call);
  if (found != calls_.end()) found->second.target = target;
  return true;
}

void CallRegistry::OnEngineServing() { WakeAll(); }

void CallRegistry::OnEngineLost(const std::string& target, uint64_t losses) {
  std::vector<RoutedCall*> aboard;
  std::vector<uint64_t> numbers;  // of the suspicious ones
  {
    absl::MutexLock lock(&mutex_);
    uint64_t& last = last_loss_[target];
    if (last > losses) return;
    last = ++losses_;
    for (auto& [call, entry] : calls_) {
      if (entry.target != target) continue;
      entry.target.clear();
      call->Retain();
      aboard.push_back(call);
    }
  }
  for (const RoutedCall* call : aboard) {
    if (call->is_aboard()) numbers.push_back(call->number());
  }
  if (!aboard.empty()) {
    std::fprintf(stderr, "coordinator: requests that leave the engine at %s: %zu\n", target.c_str(),
                 aboard.size());
  }
  const std::vector<uint64_t> convicted = quarantine_.OnDeath(numbers);
  const absl::Status why =
      absl::UnavailableError(absl::StrCat("the engine at ", target, " is lost"));
  for (RoutedCall* call : aboard) {
    if (absl::c_linear_search(convicted, call->number())) {
      call->Convict();
    } else {
      call->LeaveEngine(why);
    }
    if (!Has(call)) quarantine_.Clear(call->number());  // it ended before it got its strike
    call->Release();
  }
}

bool CallRegistry::Has(RoutedCall* call) const {
  absl::MutexLock lock(&mutex_);
  return calls_.contains(call);
}

void CallRegistry::WakeLater(RoutedCall* call, absl::Time at) {
  absl::MutexLock lock(&mutex_);
  const auto found = calls_.find(call);
  if (found == calls_.end()) return;
  found->second.wake = at;
  if (at < next_wake_) {
    next_wake_ = at;
    changed_ = true;
  }
}

void CallRegistry::WakeAll() {
  absl::MutexLock lock(&mutex_);
  for (auto& [call, entry] : calls_) {
    if (entry.wake != absl::InfiniteFuture()) entry.wake = absl::InfinitePast();
  }
  changed_ = true;
}

std::vector<RoutedCall*> CallRegistry::TakeDue() {
  const absl::Time now = absl::Now();
  next_wake_ = absl::InfiniteFuture();
  std::vector<RoutedCall*> due;
  for (auto& [call, entry] : calls_) {
    if (entry.wake <= now) {
      entry.wake = absl::InfiniteFuture();
      call->Retain();
      due.push_back(call);
    }
    next_wake_ = std::min(next_wake_, entry.wake);
  }
  return due;
}

void CallRegistry::Run() {
  while (true) {
    std::vector<RoutedCall*> due;
    bool drained = false;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithDeadline(absl::Condition(&changed_), std::min(next_wake_, drain_deadline_));
      changed_ = false;
      if (stopping_) return;
      drained = absl::Now() >= drain_deadline_;
      if (drained) drain_deadline_ = absl::InfiniteFuture();
      due = TakeDue();
    }
    for (RoutedCall* call : due) {
      call->Wake();
      call->Release();
    }
    if (drained) EndAll(absl::UnavailableError("the coordinator is shutting down"));
  }
}

void CallRegistry::EndAll(const absl::Status& status) {
  for (RoutedCall* call : RetainAll()) {
    call->EndNow(status);
    call->Release();
  }
  absl::MutexLock lock(&mutex_);
  drained_ = true;
}

CallRegistry::Presence::Presence(CallRegistry& registry) : registry_(registry) {
  absl::MutexLock lock(&registry_.mutex_);
  ++registry_.num_present_;
}

CallRegistry::Presence::~Presence() {
  absl::MutexLock lock(&registry_.mutex_);
  --registry_.num_present_;
}

void CallRegistry::WaitUntilGone() {
  absl::MutexLock lock(&mutex_);
  const auto gone = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return num_present_ == 0; };
  mutex_.Await(absl::Condition(&gone));
}

std::vector<RoutedCall*> CallRegistry::RetainAll() {
  absl::MutexLock lock(&mutex_);
  std::vector<RoutedCall*> all;
  for (auto& [call, entry] : calls_) {
    call->Retain();
    all.push_back(call);
  }
  return all;
}

absl::Status CallRegistry::Abort(const std::string& request_id) {
  RoutedCall* call = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = ids_.find(request_id);
    if (found == ids_.end()) return absl::NotFoundError("no live request has this id");
    call = found->second;
    call->Retain();
  }
  call->Abort();
  call->Release();
  return absl::OkStatus();
}

void CallRegistry::AbortAll() {
  for (RoutedCall* call : RetainAll()) {
    call->Abort();
    call->Release();
  }
}

void CallRegistry::Drain(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, absl::Now() + timeout);
  changed_ = true;
}

void CallRegistry::WaitUntilDrained() {
  absl::MutexLock lock(&mutex_);
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return draining_ && (drained_ || calls_.empty());
  };
  mutex_.Await(absl::Condition(&over));
}

bool CallRegistry::WaitForNone(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return calls_.empty(); };
  return mutex_.AwaitWithDeadline(absl::Condition(&none), deadline);
}

int64_t CallRegistry::num_calls() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(calls_.size());
}

int64_t CallRegistry::num_waiting() const {
  absl::MutexLock lock(&mutex_);
  return absl::c_count_if(calls_, [](const auto& call) { return call.second.target.empty(); });
}

}  // namespace polystrate
