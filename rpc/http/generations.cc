#include "rpc/http/generations.h"

#include "engine/retry_delay.h"
#include "rpc/convert.h"
#include "rpc/grpc_status.h"

namespace polystrate {
namespace {

// An event has no room for the delay; "soon" is what is known.
absl::Status ErrorOf(const pb::EngineError& error) {
  const absl::Status status = FromWire(error);
  return error.retryable() ? WithRetryDelay(status, absl::Seconds(1)) : status;
}

}  // namespace

// One call. gRPC's threads say what has come; the reader's thread takes it and asks for more.
class Generations::Call final : public grpc::ClientReadReactor<pb::GenerateResponse> {
 public:
  Call(Generations& owner, int64_t index) : owner_(owner), index_(index) {}

  void Start(pb::Inference::Stub& stub, const pb::GenerateRequest& request,
             const Metadata& metadata) {
    for (const auto& [key, value] : metadata) context_.AddMetadata(key, value);
    stub.async()->Generate(&context_, &request, this);
    AddHold();  // reads are started from another thread
    StartRead(&event_);
    StartCall();
  }

  // The next three are for who was told Ready().
  bool done() const { return done_; }
  // Not done: the event that has come; the one after it is asked for.
  void Take(pb::GenerateResponse* event) {
    event->Swap(&event_);
    if (event->has_finished()) end_ = absl::OkStatus();
    if (event->has_error()) end_ = ErrorOf(event->error());
    StartRead(&event_);
  }
  // Not done: nobody wants the event; Ready() comes once more.
  void Drop() { RemoveHold(); }
  void Cancel() { context_.TryCancel(); }

  int64_t index() const { return index_; }
  absl::Status end() const { return status_.ok() ? end_ : FromGrpc(status_); }

  void OnReadDone(bool ok) override {
    if (!ok) return RemoveHold();
    owner_.Ready(this);
  }
  void OnDone(const grpc::Status& status) override {
    status_ = status;
    done_ = true;
    owner_.Ready(this);  // which may free this
  }

 private:
  Generations& owner_;
  const int64_t index_;
  grpc::ClientContext context_;
  pb::GenerateResponse event_;
  absl::Status end_ = absl::InternalError("the stream ended without its last event");
  grpc::Status status_;
  bool done_ = false;
};

Generations::Generations(pb::Inference::Stub& stub, std::vector<pb::GenerateRequest> requests,
                         Metadata metadata)
    : stub_(stub), requests_(std::move(requests)), metadata_(std::move(metadata)) {
  StartMore();
}

Generations::~Generations() {
  for (const auto& call : calls_) call->Cancel();
  while (num_running_ > 0) {
    Call* call = AwaitReady(absl::InfiniteDuration());
    if (call->done()) {
      --num_running_;
    } else {
      call->Drop();
    }
  }
}

Generations::Outcome Generations::Next(absl::Duration timeout, int64_t* index,
                                       pb::GenerateResponse* event) {
  while (num_running_ > 0 && status_.ok()) {
    Call* call = AwaitReady(timeout);
    if (call == nullptr) return Outcome::kTimeout;
    if (!call->done()) {
      call->Take(event);
      *index = call->index();
      return Outcome::kEvent;
    }
    --num_running_;
    status_ = call->end();
    if (status_.ok()) StartMore();
  }
  return Outcome::kEnd;
}

Generations::Call* Generations::AwaitReady(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto any = +[](std::deque<Call*>* ready) { return !ready->empty(); };
  if (!mutex_.AwaitWithTimeout(absl::Condition(any, &ready_), timeout)) return nullptr;
  Call* call = ready_.front();
  ready_.pop_front();
  return call;
}

void Generations::StartMore() {
  while (num_running_ < kMaxParallel && calls_.size() < requests_.size()) {
    const auto index = static_cast<int64_t>(calls_.size());
    calls_.push_back(std::make_unique<Call>(*this, index));
    ++num_running_;
    calls_.back()->Start(stub_, requests_[index], metadata_);
  }
}

void Generations::Ready(Call* call) {
  absl::MutexLock lock(&mutex_);
  ready_.push_back(call);
}

}  // namespace polystrate
