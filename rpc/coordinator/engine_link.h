// EngineLink: one engine as a coordinator sees it: whether it serves, what it has to do, and the
// connection to it, which is made anew whenever it breaks.
//
// It is connecting, serving, draining (it answers, but NOT_SERVING: also one that starts) or lost.
// A connection is tried at once, and again after 100 ms, doubled each time up to 5 s, until the
// engine has told what it is and that it serves.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "rpc/connector.h"
#include "rpc/coordinator/engine_connection.h"
#include "rpc/coordinator/engine_view.h"

namespace polystrate {

struct EngineLinkOptions {
  Connector connector;
  absl::Duration load_interval;
  absl::Duration silence;      // EnginePoolOptions
  std::function<void()> wake;  // Advance() is due; called under the link's lock, not after Close()
};

class EngineLink : public std::enable_shared_from_this<EngineLink> {
 public:
  EngineLink(std::string target, EngineLinkOptions options);

  const std::string& target() const { return target_; }

  struct Happened {
    bool lost = false;     // whoever is there has to go elsewhere
    bool serving = false;  // it is there for the first time, or again
    absl::Time next;       // when Advance() is due, if nothing wakes before
  };
  // One thread: starts the calls that are due. Tells what has happened since the last time. What
  // the thread has `overslept`, as when the whole process was stopped, is no silence of the engine.
  Happened Advance(absl::Time now, absl::Duration overslept) ABSL_LOCKS_EXCLUDED(mutex_);

  // What routing has to know.
  struct Standing {
    std::shared_ptr<EngineConnection> connection;  // null unless it serves
    uint64_t process = 0;                          // another number for each of its processes
    int64_t load = 0;                              // tokens to do
  };
  Standing standing() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool serving() const ABSL_LOCKS_EXCLUDED(mutex_);
  // "" until it has told.
  std::string model() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasModel(const std::string& name) const ABSL_LOCKS_EXCLUDED(mutex_);
  EngineView Read() const ABSL_LOCKS_EXCLUDED(mutex_);

  // What leases add up to. Any thread, without a lock.
  struct Work {
    int64_t streams = 0;
    int64_t outstanding = 0;  // tokens that the engine has still to do
    int64_t held = 0;         // tokens that it holds or has waiting, as GetLoad counts
  };
  void Count(const Work& change);

  // A stream over `connection` broke: nothing is sent there until a new connection says that the
  // engine serves.
  void Suspect(const EngineConnection* connection, const absl::Status& why)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends every call of its own, for good; streams go on. Not under a lock.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);
  // After Close(): whether they are all over, and until they are.
  bool idle() const ABSL_LOCKS_EXCLUDED(mutex_);
  void WaitUntilIdle() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Connection = std::shared_ptr<EngineConnection>;
  // What the engine has told over the connection that is up.
  struct Told {
    bool server = false;
    bool model = false;
    bool serving = false;
    bool draining = false;  // it has served before
  };
  // The calls that Advance() found to be due, each counted in calls_.
  struct Due {
    Connection connection;  // null: none
    bool introduction = false;
    bool load = false;
    bool stages = false;
  };

  Due FindDue(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Start(const Due& due);
  void Introduce(const Connection& connection);
  void AskLoad(const Connection& connection);
  void AskStages(const Connection& connection);

  // A call over `connection` has ended: true if that is still the one.
  bool Ended(const Connection& connection, const grpc::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnHealth(const Connection& connection, bool serving) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWatchEnd(const Connection& connection, const grpc::Status& status)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void OnLoad(const Connection& connection, int64_t held_before, const grpc::Status& status,
              const openengine::v1::LoadInfo& load) ABSL_LOCKS_EXCLUDED(mutex_);

  void SetHealth(bool serving) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetServing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SeeInstance(const std::string& instance_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration NextBackoff() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The connection is given up and made anew later, or at once if it is the first time in a while.
  void Drop(const absl::Status& why, bool at_once) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same for an engine that is gone.
  void Lose(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellLost() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string target_;
  const EngineLinkOptions options_;
  std::atomic<int64_t> streams_{0};
  std::atomic<int64_t> outstanding_{0};
  std::atomic<int64_t> held_{0};

  mutable absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  Connection connection_ ABSL_GUARDED_BY(mutex_);  // null between two of them
  Connection dropped_ ABSL_GUARDED_BY(mutex_);     // whose calls are to be cancelled
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;          // that run
  Told told_ ABSL_GUARDED_BY(mutex_);
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  // It has served, and whoever is there has not been told to go.
  bool in_use_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time serving_since_ ABSL_GUARDED_BY(mutex_);
  absl::Time heard_ ABSL_GUARDED_BY(mutex_);        // of an answer, or when the connection was made
  absl::Time next_try_ ABSL_GUARDED_BY(mutex_);     // without a connection
  absl::Time next_load_ ABSL_GUARDED_BY(mutex_);    // with one, as the next
  absl::Time next_stages_ ABSL_GUARDED_BY(mutex_);  // infinite for an engine that tells none
  bool load_asked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stages_asked_ ABSL_GUARDED_BY(mutex_) = false;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;  // in a row
  std::minstd_rand random_ ABSL_GUARDED_BY(mutex_){std::random_device()()};
  Happened happened_ ABSL_GUARDED_BY(mutex_);
  std::string problem_ ABSL_GUARDED_BY(mutex_) = "connecting";
  std::string instance_id_ ABSL_GUARDED_BY(mutex_);
  uint64_t process_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t times_lost_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t foreign_ ABSL_GUARDED_BY(mutex_) = 0;  // tokens there that are not this coordinator's
  openengine::v1::LoadInfo load_ ABSL_GUARDED_BY(mutex_);
  openengine::v1::ServerInfo server_ ABSL_GUARDED_BY(mutex_);
  openengine::v1::ModelInfo model_ ABSL_GUARDED_BY(mutex_);
  v1::GetStagesResponse stages_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
