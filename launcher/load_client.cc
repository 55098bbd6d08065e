#include "launcher/load_client.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/core/check.h"
#include "rpc/convert.h"
#include "rpc/grpc_status.h"

namespace polystrate {

int64_t SteadyNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

class LoadClient::Stream final : public grpc::ClientReadReactor<pb::GenerateResponse> {
 public:
  Stream(LoadClient& client, int64_t index) : client_(client) { outcome_.index = index; }

  void Start(pb::Inference::Stub* stub, const pb::GenerateRequest& request) {
    outcome_.start_ns = SteadyNs();
    stub->async()->Generate(&context_, &request, this);  // which serializes the request
    StartRead(&event_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }
  // After OnDone.
  LoadOutcome TakeOutcome() { return std::move(outcome_); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.has_token()) {
      if (const int tokens = event_.token().tokens_size(); tokens > 0) {
        outcome_.arrivals.push_back({SteadyNs(), tokens});
      }
      outcome_.text += event_.token().text();
    }
    if (event_.has_usage()) {
      outcome_.prompt_tokens = event_.usage().prompt_tokens();
      outcome_.completion_tokens = event_.usage().completion_tokens();
      outcome_.cached_prompt_tokens = event_.usage().cached_prompt_tokens();
    }
    if (event_.has_finished()) outcome_.status = absl::OkStatus();
    if (event_.has_error()) outcome_.status = FromWire(event_.error());
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    outcome_.end_ns = SteadyNs();
    if (!status.ok()) outcome_.status = FromGrpc(status);
    client_.Finished(this);
  }

 private:
  LoadClient& client_;
  grpc::ClientContext context_;
  pb::GenerateResponse event_;
  LoadOutcome outcome_{.status = absl::InternalError("the stream ended without its last event")};
};

LoadClient::LoadClient(const std::vector<std::shared_ptr<grpc::Channel>>& channels) {
  CHECK(!channels.empty());
  for (const auto& channel : channels) stubs_.push_back(pb::Inference::NewStub(channel));
}

LoadClient::~LoadClient() {
  CancelAll();
  {
    absl::MutexLock lock(&mutex_);
    const auto none_runs = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
    mutex_.Await(absl::Condition(&none_runs));
  }
}

void LoadClient::Send(int64_t index, const pb::GenerateRequest& request) {
  auto stream = std::make_unique<Stream>(*this, index);
  Stream* const started = stream.get();
  streams_.emplace(started, std::move(stream));
  {
    absl::MutexLock lock(&mutex_);
    ++running_;
  }
  started->Start(stubs_[next_stub_++ % stubs_.size()].get(), request);
}

int64_t LoadClient::running() const {
  absl::MutexLock lock(&mutex_);
  return running_;
}

void LoadClient::Wait(int64_t due_ns, int64_t max_running) {
  const auto enough = [this, max_running]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return interrupted_ || running_ <= max_running;
  };
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithDeadline(absl::Condition(&enough),
                           absl::Now() + absl::Nanoseconds(due_ns - SteadyNs()));
}

std::vector<LoadOutcome> LoadClient::TakeFinished() {
  std::vector<Stream*> finished;
  {
    absl::MutexLock lock(&mutex_);
    finished.swap(finished_);
  }
  std::vector<LoadOutcome> outcomes;
  outcomes.reserve(finished.size());
  for (Stream* stream : finished) {
    outcomes.push_back(stream->TakeOutcome());
    streams_.erase(stream);
  }
  return outcomes;
}

void LoadClient::CancelAll() {
  for (const auto& [stream, owner] : streams_) stream->Cancel();
}

void LoadClient::Interrupt() {
  absl::MutexLock lock(&mutex_);
  interrupted_ = true;
}

bool LoadClient::interrupted() const {
  absl::MutexLock lock(&mutex_);
  return interrupted_;
}

// The stream's last act: from here on the sending thread may destroy it.
void LoadClient::Finished(Stream* stream) {
  absl::MutexLock lock(&mutex_);
  finished_.push_back(stream);
  --running_;
}

}  // namespace polystrate
