#include "rpc/coordinator/engine_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "rpc/coordinator/stable_hash.h"
#include "rpc/grpc_status.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(100);
constexpr absl::Duration kLongestBackoff = absl::Seconds(5);
// Who has served for so long and is lost begins with the first back-off again.
constexpr absl::Duration kSteady = kLongestBackoff;
constexpr absl::Duration kStagesInterval = absl::Seconds(1);

// It has answered, though it does not know the method.
bool Unknown(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNIMPLEMENTED;
}

}  // namespace

EngineLink::EngineLink(std::string target, EngineLinkOptions options)
    : target_(std::move(target)), options_(std::move(options)) {}

EngineLink::Happened EngineLink::Advance(absl::Time now, absl::Duration overslept) {
  Due due;
  Connection dropped;
  Happened happened;
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return {.next = absl::InfiniteFuture()};
    heard_ = std::min(heard_ + overslept, now);
    if (connection_ != nullptr && now - heard_ > options_.silence) {
      Lose(absl::UnavailableError(
          absl::StrCat("no answer in ", absl::FormatDuration(options_.silence))));
    }
    due = FindDue(now);
    dropped = std::exchange(dropped_, nullptr);
    happened = std::exchange(happened_, {});
    happened.next = connection_ == nullptr
                        ? next_try_
                        : std::min({heard_ + options_.silence, next_load_, next_stages_});
  }
  if (dropped != nullptr) dropped->Cancel();
  Start(due);
  return happened;
}

EngineLink::Due EngineLink::FindDue(absl::Time now) {
  Due due;
  if (connection_ == nullptr && now >= next_try_) {
    connection_ = std::make_shared<EngineConnection>(options_.connector, target_);
    told_ = {};
    heard_ = now;
    next_load_ = now;
    next_stages_ = now;
    load_asked_ = stages_asked_ = false;
    due.introduction = true;
    calls_ += 3;
  }
  if (connection_ == nullptr) return due;
  due.connection = connection_;
  if (now >= next_load_) {
    next_load_ = now + options_.load_interval;
    due.load = !std::exchange(load_asked_, true);
  }
  if (now >= next_stages_) {
    next_stages_ = now + kStagesInterval;
    due.stages = !std::exchange(stages_asked_, true);
  }
  calls_ += (due.load ? 1 : 0) + (due.stages ? 1 : 0);
  return due;
}

void EngineLink::Start(const Due& due) {
  if (due.introduction) Introduce(due.connection);
  if (due.load) AskLoad(due.connection);
  if (due.stages) AskStages(due.connection);
}

void EngineLink::Introduce(const Connection& connection) {
  const auto self = shared_from_this();
  connection->Watch(
      [self, connection](bool serving) { self->OnHealth(connection, serving); },
      [self, connection](const grpc::Status& status) { self->OnWatchEnd(connection, status); });
  // Longer than the silence that Advance() sees first and has words for.
  const absl::Duration timeout = 2 * options_.silence;
  connection->GetServerInfo(
      timeout, [self, connection](const grpc::Status& status, const pb::ServerInfo& server) {
        absl::MutexLock lock(&self->mutex_);
        if (!self->Ended(connection, status)) return;
        if (!status.ok() && !Unknown(status)) return self->Lose(FromGrpc(status));
        if (server.extra().fields().contains("coordinator")) {
          // Perhaps this very one: requests would go round.
          return self->Lose(absl::FailedPreconditionError("it is a coordinator, not an engine"));
        }
        self->server_ = server;
        self->told_.server = true;
        self->SeeInstance(server.instance_id());
        self->SetServing();
      });
  connection->GetModelInfo(
      timeout, [self, connection](const grpc::Status& status, const pb::ModelInfo& model) {
        absl::MutexLock lock(&self->mutex_);
        if (!self->Ended(connection, status)) return;
        if (!status.ok()) return self->Lose(FromGrpc(status));
        self->model_ = model;
        self->told_.model = true;
        self->SetServing();
      });
}

void EngineLink::AskLoad(const Connection& connection) {
  connection->GetLoad(options_.silence,
                      [self = shared_from_this(), connection, held = held_.load()](
                          const grpc::Status& status, const pb::LoadInfo& load) {
                        self->OnLoad(connection, held, status, load);
                      });
}

void EngineLink::AskStages(const Connection& connection) {
  connection->GetStages(options_.silence,
                        [self = shared_from_this(), connection](
                            const grpc::Status& status, const v1::GetStagesResponse& stages) {
                          absl::MutexLock lock(&self->mutex_);
                          if (!self->Ended(connection, status)) return;
                          self->stages_asked_ = false;
                          if (status.ok()) self->stages_ = stages;
                          if (Unknown(status)) self->next_stages_ = absl::InfiniteFuture();
                        });
}

bool EngineLink::Ended(const Connection& connection, const grpc::Status& status) {
  --calls_;
  if (closed_ || connection != connection_) return false;
  if (status.ok() || Unknown(status)) heard_ = absl::Now();
  return true;
}

void EngineLink::OnHealth(const Connection& connection, bool serving) {
  absl::MutexLock lock(&mutex_);
  if (closed_ || connection != connection_) return;
  heard_ = absl::Now();
  SetHealth(serving);
}

void EngineLink::OnWatchEnd(const Connection& connection, const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!Ended(connection, status)) return;
  // As gRPC's own clients have it: who has no health service is healthy while it answers.
  if (Unknown(status)) return SetHealth(true);
  Lose(status.ok() ? absl::UnavailableError("it ended the watch of its health") : FromGrpc(status));
}

// The report counts what this coordinator has sent as well as what others have. How much of it
// was ours when it was made lies between what it was when it was asked for and what it is now.
void EngineLink::OnLoad(const Connection& connection, int64_t held_before,
                        const grpc::Status& status, const pb::LoadInfo& load) {
  absl::MutexLock lock(&mutex_);
  if (!Ended(connection, status)) return;
  load_asked_ = false;
  // An answer that is late is Advance()'s to judge.
  if (Unknown(status) || status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) return;
  if (!status.ok()) return Lose(FromGrpc(status));
  load_ = load;
  const auto told = static_cast<int64_t>(load.running_tokens() + load.waiting_tokens());
  foreign_ = std::max<int64_t>(told - std::max(held_before, held_.load()), 0);
  SeeInstance(load.instance_id());
}

void EngineLink::SetHealth(bool serving) {
  told_.serving = serving;
  if (!serving) {
    told_.draining = in_use_;
    problem_ = told_.draining ? "draining: it says NOT_SERVING" : "it says NOT_SERVING as yet";
    serving_ = false;
  }
  SetServing();
}

void EngineLink::SetServing() {
  if (serving_ || !told_.server || !told_.model || !told_.serving) return;
  serving_ = in_use_ = happened_.serving = true;
  told_.draining = false;
  serving_since_ = absl::Now();
  problem_.clear();
  options_.wake();
}

void EngineLink::SeeInstance(const std::string& instance_id) {
  if (instance_id.empty() || instance_id == instance_id_) return;
  if (!instance_id_.empty()) TellLost();
  instance_id_ = instance_id;
  process_ = StableHash(instance_id, StableHash(target_, 0));
  in_use_ = serving_;
}

absl::Duration EngineLink::NextBackoff() {
  const absl::Duration backoff =
      std::min(kFirstBackoff * (1 << std::min(failures_, 10)), kLongestBackoff);
  return backoff * std::uniform_real_distribution<double>(0.8, 1.2)(random_);
}

void EngineLink::Drop(const absl::Status& why, bool at_once) {
  const absl::Time now = absl::Now();
  if (serving_ && now - serving_since_ > kSteady) failures_ = 0;
  next_try_ = at_once && failures_ == 0 ? now : now + NextBackoff();
  ++failures_;
  problem_ = absl::StrCat(in_use_ ? "lost: " : "not reached: ", std::string(why.message()));
  serving_ = false;
  dropped_ = std::exchange(connection_, nullptr);
  options_.wake();
}

void EngineLink::Lose(const absl::Status& why) {
  // One that drained and is empty has gone as it should.
  const bool missed = !told_.draining || streams_ > 0;
  Drop(why, /*at_once=*/false);
  if (missed) TellLost();
  in_use_ = false;
}

void EngineLink::TellLost() {
  if (!std::exchange(in_use_, false)) return;
  ++times_lost_;
  happened_.lost = true;
  options_.wake();
}

void EngineLink::Suspect(const EngineConnection* connection, const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  if (closed_ || connection != connection_.get()) return;
  // An engine that is lost may still say so; one that drains would have told its streams.
  if (!serving_) told_.draining = false;
  if (serving_) Drop(why, /*at_once=*/true);
}

void EngineLink::Close() {
  Connection connection;
  Connection dropped;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    serving_ = false;
    connection = std::exchange(connection_, nullptr);
    dropped = std::exchange(dropped_, nullptr);
  }
  if (connection != nullptr) connection->Cancel();
  if (dropped != nullptr) dropped->Cancel();
}

bool EngineLink::idle() const {
  absl::MutexLock lock(&mutex_);
  return calls_ == 0;
}

void EngineLink::WaitUntilIdle() {
  absl::MutexLock lock(&mutex_);
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return calls_ == 0; };
  mutex_.Await(absl::Condition(&idle));
}

}  // namespace polystrate
