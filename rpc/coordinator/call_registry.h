// CallRegistry: the calls that go through a coordinator: by id, by the engine they are on, and
// those that wait for an engine.
//
// One thread wakes who waits: at its time, or all of them when an engine has come.
#pragma once

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "rpc/coordinator/coordinator_stats.h"
#include "rpc/coordinator/engine_pool.h"
#include "rpc/coordinator/quarantine.h"
#include "rpc/reader_watch.h"
#include "rpc/request_log.h"

namespace polystrate {

class RoutedCall;

struct CarryOptions {
  absl::Duration timeout = absl::Seconds(60);  // that a request waits for an engine to go on
  // Attempts in a row that bring no new token, after which the request fails.
  int max_attempts = 8;
  absl::Duration reader_timeout = absl::Seconds(30);  // ReaderWatch
};

class CallRegistry {
 public:
  explicit CallRegistry(const CarryOptions& options);
  ~CallRegistry();

  // Before the first call: who is told of every call that ends. It must outlive the registry.
  void SetLog(RequestLog* log) { log_ = log; }
  // Once, before the first call. The pool's events are to be given to the two below.
  void SetPool(EnginePool* pool) { pool_ = pool; }
  void OnEngineServing();
  // Every call there gets its strike and leaves. Nothing when this has been told already: when the
  // engine was lost after `losses`.
  void OnEngineLost(const std::string& target, uint64_t losses);

  // ALREADY_EXISTS: a live call has this id. UNAVAILABLE once the drain has begun.
  absl::Status Add(RoutedCall* call);
  void Remove(RoutedCall* call);
  // How often an engine was lost so far.
  uint64_t losses() const;
  // The call is on that engine from now on; empty: on none. False, and it is not: the engine was
  // lost after `losses`.
  bool Place(RoutedCall* call, const std::string& target, uint64_t losses);
  // RoutedCall::Wake is called once, at `at` at the latest; nothing when it has been removed by
  // then.
  void WakeLater(RoutedCall* call, absl::Time at);
  void WakeAll();

  // NOT_FOUND when no live call has this id.
  absl::Status Abort(const std::string& request_id);
  void AbortAll();
  // No new calls; those that still live after `timeout` end UNAVAILABLE. The earliest time wins.
  void Drain(absl::Duration timeout);
  // Until a drain has begun and no call is left, or its time has passed.
  void WaitUntilDrained();
  // Whether none is left by then.
  bool WaitForNone(absl::Time deadline);

  // While it lives, so does something that holds one of gRPC's channels and may outlive its stream.
  class Presence {
   public:
    explicit Presence(CallRegistry& registry);
    ~Presence();
    Presence(const Presence&) = delete;
    Presence& operator=(const Presence&) = delete;

   private:
    CallRegistry& registry_;
  };
  // Until there is none; streams must have ended.
  void WaitUntilGone();

  EnginePool& pool() { return *pool_; }
  RequestLog* log() { return log_; }  // null: nobody is told
  Quarantine& quarantine() { return quarantine_; }
  ReaderWatch<RoutedCall>& readers() { return readers_; }
  CoordinatorStats& stats() { return stats_; }
  const CarryOptions& options() const { return options_; }
  int64_t num_calls() const;
  int64_t num_waiting() const;

 private:
  struct Entry {
    std::string target;
    absl::Time wake = absl::InfiniteFuture();
  };
  void Run();
  bool Has(RoutedCall* call) const ABSL_LOCKS_EXCLUDED(mutex_);
  void EndAll(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Those whose time has come, retained.
  std::vector<RoutedCall*> TakeDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of the calls, which cannot go away before they are released.
  std::vector<RoutedCall*> RetainAll() ABSL_LOCKS_EXCLUDED(mutex_);

  const CarryOptions options_;
  EnginePool* pool_ = nullptr;
  RequestLog* log_ = nullptr;
  Quarantine quarantine_;
  ReaderWatch<RoutedCall> readers_;
  CoordinatorStats stats_;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<RoutedCall*, Entry> calls_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, RoutedCall*> ids_ ABSL_GUARDED_BY(mutex_);
  uint64_t losses_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, uint64_t> last_loss_ ABSL_GUARDED_BY(mutex_);  // by target
  absl::Time next_wake_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();         // of calls_
  absl::Time drain_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;  // its time has passed
  int64_t num_present_ ABSL_GUARDED_BY(mutex_) = 0;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;  // for the thread to look at
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace polystrate
