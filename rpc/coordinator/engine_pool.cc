#include "rpc/coordinator/engine_pool.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/core/status.h"
#include "rpc/coordinator/engine_file.h"
#include "rpc/coordinator/engine_link.h"

namespace polystrate {
namespace {

constexpr absl::Duration kFileInterval = absl::Seconds(1);
// Who wakes so late was stopped, or its machine was.
constexpr absl::Duration kStopped = absl::Milliseconds(300);
// What an operator wants to find in the log when somebody asks about it.
void Say(const EngineLink& link, const char* what) {
  std::fprintf(stderr, "coordinator: the engine at %s %s\n", link.target().c_str(), what);
}

// Whoever may register could fill the memory without it.
constexpr size_t kMaxEngines = 1024;

}  // namespace

class EnginePool::Impl {
 public:
  Impl(const EnginePoolOptions& options, Events events)
      : options_(options), events_(std::move(events)) {
    if (!options.engine_file.empty()) file_.emplace(options.engine_file);
  }

  absl::Status Init(const std::vector<std::string>& targets);
  void Connect() {
    thread_ = std::thread([this] { Run(); });
  }
  void Stop();
  absl::StatusOr<EngineLease> Pick(const RouteHint& hint) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Register(const v1::RegisterRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);
  bool any_serving() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<View> Read() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Link = std::shared_ptr<EngineLink>;
  // An engine, for as long as somebody names it.
  struct Member {
    Link link;
    bool by_flag = false;
    bool by_file = false;
    absl::Time registered_until = absl::InfinitePast();
    uint64_t last_pick = 0;
  };

  Member& FindOrAdd(const std::string& target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<Link> Links() const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status ReadFile() ABSL_LOCKS_EXCLUDED(mutex_);
  // Of those that `model` names: the members that have it, or why there are none.
  absl::StatusOr<std::vector<Member*>> MembersWith(const std::string& model)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The pool's thread.
  void Run();
  void LookAtFile(absl::Time now);
  // Those that nobody names any more go.
  std::vector<Link> Prune(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Time AdvanceAll(absl::Time now, absl::Duration overslept);
  void Wake() ABSL_LOCKS_EXCLUDED(wake_mutex_);

  const EnginePoolOptions options_;
  const Events events_;
  std::optional<EngineFile> file_;  // Init(), then the pool's thread
  absl::Time next_file_;            // the pool's thread

  // Taken before a link's.
  mutable absl::Mutex mutex_;
  std::map<std::string, Member> members_ ABSL_GUARDED_BY(mutex_);  // by target
  std::vector<Link> closed_ ABSL_GUARDED_BY(mutex_);               // calls may run yet
  PrefixIndex prefixes_ ABSL_GUARDED_BY(mutex_);
  uint64_t num_picks_ ABSL_GUARDED_BY(mutex_) = 0;

  absl::Mutex wake_mutex_;  // taken last
  bool woken_ ABSL_GUARDED_BY(wake_mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(wake_mutex_) = false;
  std::thread thread_;
};

absl::Status EnginePool::Impl::Init(const std::vector<std::string>& targets) {
  for (const std::string& target : targets) {
    if (!CheckTarget(target).ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--engine is \"", target, "\"; it takes HOST:PORT, as 127.0.0.1:50051"));
    }
    absl::MutexLock lock(&mutex_);
    FindOrAdd(target).by_flag = true;
  }
  if (file_.has_value()) RETURN_IF_ERROR(ReadFile());
  next_file_ = absl::Now() + kFileInterval;
  return absl::OkStatus();
}

void EnginePool::Impl::Stop() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&wake_mutex_);
    stopping_ = true;
  }
  thread_.join();
  std::vector<Link> links = Links();
  {
    absl::MutexLock lock(&mutex_);
    links.insert(links.end(), closed_.begin(), closed_.end());
  }
  for (const Link& link : links) link->Close();
  for (const Link& link : links) link->WaitUntilIdle();
}

EnginePool::Impl::Member& EnginePool::Impl::FindOrAdd(const std::string& target) {
  Member& member = members_[target];
  if (member.link == nullptr) {
    member.link = std::make_shared<EngineLink>(
        target, EngineLinkOptions{options_.connector, options_.load_interval, options_.silence,
                                  [this] { Wake(); }});
  }
  return member;
}

absl::Status EnginePool::Impl::ReadFile() {
  ASSIGN_OR_RETURN(const std::vector<std::string> targets, file_->Read());
  absl::MutexLock lock(&mutex_);
  for (auto& [target, member] : members_) member.by_file = false;
  for (const std::string& target : targets) FindOrAdd(target).by_file = true;
  return absl::OkStatus();
}

absl::Status EnginePool::Impl::Register(const v1::RegisterRequest& request) {
  if (!CheckTarget(request.target()).ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("target is \"", request.target().substr(0, 64), "\"; it must be HOST:PORT"));
  }
  if (!(request.lease_seconds() >= 1 && request.lease_seconds() <= 3600)) {
    return absl::InvalidArgumentError(
        absl::StrCat("lease_seconds is ", request.lease_seconds(), "; it must be in [1, 3600]"));
  }
  absl::MutexLock lock(&mutex_);
  if (members_.size() >= kMaxEngines && members_.count(request.target()) == 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", kMaxEngines, " engines already"));
  }
  Member& member = FindOrAdd(request.target());
  member.registered_until =
      std::max(member.registered_until, absl::Now() + absl::Seconds(request.lease_seconds()));
  Wake();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<EnginePool::Impl::Member*>> EnginePool::Impl::MembersWith(
    const std::string& model) {
  std::vector<Member*> members;
  std::set<std::string> models;
  bool all_known = true;
  for (auto& [target, member] : members_) {
    const std::string served = member.link->model();
    if (served.empty()) {
      all_known = false;
    } else if (model.empty() || member.link->HasModel(model)) {
      members.push_back(&member);
      models.insert(served);
    }
  }
  if (model.empty() && models.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("model must be one of ", absl::StrJoin(models, ", ")));
  }
  // An engine that has not told yet may be the one.
  if (members.empty() && !model.empty() && all_known && !members_.empty()) {
    return absl::NotFoundError(absl::StrCat("no engine has the model \"", model, "\""));
  }
  return members;
}

absl::StatusOr<EngineLease> EnginePool::Impl::Pick(const RouteHint& hint) {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(const std::vector<Member*> members, MembersWith(hint.model));
  std::vector<RouteCandidate> candidates;
  std::vector<std::pair<Member*, EngineLink::Standing>> standings;
  for (Member* member : members) {
    EngineLink::Standing standing = member->link->standing();
    if (standing.connection == nullptr) continue;
    const std::string& target = member->link->target();
    candidates.push_back(
        {target, standing.load, prefixes_.Match(hint.prefix, standing.process), member->last_pick,
         std::find(hint.avoid.begin(), hint.avoid.end(), target) != hint.avoid.end()});
    standings.emplace_back(member, std::move(standing));
  }
  if (candidates.empty()) {
    return absl::UnavailableError(hint.model.empty()
                                      ? "no engine serves just now"
                                      : absl::StrCat("no engine serves ", hint.model, " just now"));
  }
  const size_t choice = ChooseEngine(options_.policy, candidates, hint.routing_key);
  auto& [member, standing] = standings[choice];
  member->last_pick = ++num_picks_;
  prefixes_.Use(hint.prefix, standing.process);
  return EngineLease(member->link, std::move(standing.connection), hint,
                     candidates[choice].matched * kTokensPerChunk);
}

bool EnginePool::Impl::any_serving() const {
  absl::MutexLock lock(&mutex_);
  return std::any_of(members_.begin(), members_.end(),
                     [](const auto& member) { return member.second.link->serving(); });
}

std::vector<EnginePool::View> EnginePool::Impl::Read() const {
  std::vector<View> views;
  for (const Link& link : Links()) views.push_back(link->Read());
  return views;
}

std::vector<EnginePool::Impl::Link> EnginePool::Impl::Links() const {
  absl::MutexLock lock(&mutex_);
  std::vector<Link> links;
  for (const auto& [target, member] : members_) links.push_back(member.link);
  return links;
}

void EnginePool::Impl::Run() {
  absl::Time next = absl::Now();
  while (true) {
    {
      absl::MutexLock lock(&wake_mutex_);
      const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(wake_mutex_) {
        return woken_ || stopping_;
      };
      wake_mutex_.AwaitWithDeadline(absl::Condition(&due), next);
      if (stopping_) return;
      woken_ = false;
    }
    const absl::Time now = absl::Now();
    LookAtFile(now);
    const absl::Duration overslept = now - next > kStopped ? now - next : absl::ZeroDuration();
    next = std::min(AdvanceAll(now, overslept), now + kFileInterval);
  }
}

void EnginePool::Impl::LookAtFile(absl::Time now) {
  if (!file_.has_value() || now < next_file_) return;
  next_file_ = now + kFileInterval;
  if (!file_->Changed()) return;
  // Not again until it has changed again.
  if (const absl::Status status = ReadFile(); !status.ok()) {
    std::fprintf(stderr, "warning: %s; the engines stay as they were\n",
                 std::string(status.message()).c_str());
  }
}

std::vector<EnginePool::Impl::Link> EnginePool::Impl::Prune(absl::Time now) {
  std::vector<Link> to_close;
  absl::MutexLock lock(&mutex_);
  std::erase_if(closed_, [](const Link& link) { return link->idle(); });
  std::erase_if(members_, [&](const auto& item) {
    const Member& member = item.second;
    if (member.by_flag || member.by_file || now < member.registered_until) return false;
    to_close.push_back(member.link);
    return true;
  });
  closed_.insert(closed_.end(), to_close.begin(), to_close.end());
  return to_close;
}

absl::Time EnginePool::Impl::AdvanceAll(absl::Time now, absl::Duration overslept) {
  for (const Link& link : Prune(now)) link->Close();
  absl::Time next = absl::InfiniteFuture();
  bool serving = false;
  for (const Link& link : Links()) {
    const EngineLink::Happened happened = link->Advance(now, overslept);
    next = std::min(next, happened.next);
    serving = serving || happened.serving;
    if (happened.lost) Say(*link, "is lost");
    if (happened.serving) Say(*link, "serves");
    if (happened.lost && events_.lost) events_.lost(link->target());
  }
  if (serving && events_.serving) events_.serving();
  return next;
}

void EnginePool::Impl::Wake() {
  absl::MutexLock lock(&wake_mutex_);
  woken_ = true;
}

EnginePool::EnginePool(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
EnginePool::~EnginePool() { Stop(); }

absl::StatusOr<std::unique_ptr<EnginePool>> EnginePool::Create(
    const EnginePoolOptions& options, const std::vector<std::string>& targets, Events events) {
  auto impl = std::make_unique<Impl>(options, std::move(events));
  RETURN_IF_ERROR(impl->Init(targets));
  return std::unique_ptr<EnginePool>(new EnginePool(std::move(impl)));
}

void EnginePool::Connect() { impl_->Connect(); }
void EnginePool::Stop() { impl_->Stop(); }
absl::StatusOr<EngineLease> EnginePool::Pick(const RouteHint& hint) { return impl_->Pick(hint); }
absl::Status EnginePool::Register(const v1::RegisterRequest& request) {
  return impl_->Register(request);
}
bool EnginePool::any_serving() const { return impl_->any_serving(); }
std::vector<EnginePool::View> EnginePool::Read() const { return impl_->Read(); }

}  // namespace polystrate
