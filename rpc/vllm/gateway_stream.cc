#include "rpc/vllm/gateway_stream.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/grpc_status.h"

namespace polystrate {
namespace {

// Metadata that goes on to the engine, and what comes back from it. A key (authorization) does not:
// it was for the port.
constexpr const char* kForward[] = {"openengine-priority", "openengine-routing-key", "traceparent",
                                    "tracestate"};
constexpr const char* kBack[] = {"openengine-request-id", "traceparent", "tracestate"};

std::string Text(const grpc::string_ref& text) { return {text.data(), text.size()}; }

}  // namespace

// Reads are started by whoever finds that there is room, not only from within its callbacks; so it
// holds the call open until a read has failed.
class GatewayStream::Upstream final : public grpc::ClientReadReactor<pb::GenerateResponse> {
 public:
  explicit Upstream(GatewayStream& stream) : stream_(stream) {}

  grpc::ClientContext& context() { return context_; }

  void Begin(pb::Inference::Stub& engine, const pb::GenerateRequest& request) {
    engine.async()->Generate(&context_, &request, this);
    AddHold();
    StartCall();
  }
  void Read() { StartRead(&event_); }

  void OnReadInitialMetadataDone(bool /*ok*/) override { Read(); }
  void OnReadDone(bool ok) override {
    if (!ok) return RemoveHold();
    stream_.OnEvent(event_);
  }
  void OnDone(const grpc::Status& status) override { stream_.OnUpstreamDone(status); }

 private:
  GatewayStream& stream_;
  grpc::ClientContext context_;
  pb::GenerateResponse event_;
};

GatewayStream::GatewayStream(LiveCalls& calls, ReaderWatch<GatewayStream>& readers,
                             grpc::CallbackServerContext* context,
                             const gateway::GenerateRequest& request)
    : call_(calls), readers_(readers), context_(context), answer_(request) {}

GatewayStream::~GatewayStream() = default;

void GatewayStream::Start(pb::Inference::Stub& engine, const pb::GenerateRequest& request) {
  upstream_ = std::make_unique<Upstream>(*this);
  {
    absl::MutexLock lock(&context_mutex_);
    upstream_->context().set_deadline(context_->deadline());
    const auto& metadata = context_->client_metadata();
    for (const char* key : kForward) {
      const auto [begin, end] = metadata.equal_range(key);
      for (auto entry = begin; entry != end; ++entry) {
        upstream_->context().AddMetadata(key, Text(entry->second));
      }
    }
  }
  owners_ = 2;
  readers_.Add(this);
  upstream_->Begin(engine, request);
}

void GatewayStream::Refuse(const absl::Status& status) { Finish(ToGrpc(status)); }

void GatewayStream::PassMetadataBack() {
  const auto& metadata = upstream_->context().GetServerInitialMetadata();
  absl::MutexLock lock(&context_mutex_);
  if (context_ == nullptr) return;
  for (const char* key : kBack) {
    if (const auto found = metadata.find(key); found != metadata.end()) {
      context_->AddInitialMetadata(key, Text(found->second));
    }
  }
}

void GatewayStream::OnEvent(const pb::GenerateResponse& event) {
  // Not earlier: a gateway that has had metadata takes a failure for the stream's, not the
  // request's.
  if (!event.has_error() && !std::exchange(begun_, true)) PassMetadataBack();
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (!ended()) {
      if (event.has_error()) {
        end_ = ToGrpc(GatewayStatus(event.error()));
      } else {
        answer_.Take(event, &ready_);
        if (answer_.complete()) end_ = grpc::Status::OK;
      }
    }
  }
  Advance();
  ReadNext();
}

void GatewayStream::OnUpstreamDone(const grpc::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ended()) {
      end_ = status.ok() ? grpc::Status(grpc::StatusCode::INTERNAL,
                                        "the engine's stream ended without its last event")
                         : status;
    }
  }
  Advance();
  Release();
}

void GatewayStream::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    busy_ = false;
  }
  if (!ok) return EndNow({grpc::StatusCode::CANCELLED, "the stream is broken"});
  Advance();
  ReadNext();
}

void GatewayStream::OnCancel() { EndNow({grpc::StatusCode::CANCELLED, "the call was cancelled"}); }

void GatewayStream::EndNow(const grpc::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ended() || !ready_.empty()) end_ = status;  // otherwise all has been said
    ready_.clear();
  }
  if (upstream_ != nullptr) upstream_->context().TryCancel();
  Advance();
  ReadNext();
}

void GatewayStream::Advance() {
  std::optional<grpc::Status> end;
  const gateway::GenerateResponse* next = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (busy_) return;
    if (!ready_.empty()) {
      writing_ = std::move(ready_.front());
      ready_.pop_front();
      next = &writing_;
    } else if (ended()) {
      end = end_;
    } else {
      return;
    }
    busy_ = true;  // for good, when this is the end
    ++num_operations_;
  }
  if (next != nullptr) {
    StartWrite(next);
  } else {
    Finish(*end);
  }
}

void GatewayStream::ReadNext() {
  {
    absl::MutexLock lock(&mutex_);
    // What comes after the end is read for its status, so that the call is over.
    if (reading_ || (!ended() && !ready_.empty())) return;
    reading_ = true;
  }
  upstream_->Read();
}

std::optional<uint64_t> GatewayStream::PendingOperation() {
  absl::MutexLock lock(&mutex_);
  if (!busy_) return std::nullopt;
  return num_operations_;
}

void GatewayStream::GiveUpReader(absl::Duration stalled) {
  EndNow(
      ToGrpc(StalledReader(absl::StrCat("it took nothing for ", absl::FormatDuration(stalled)))));
}

void GatewayStream::Break() {
  absl::MutexLock lock(&context_mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

void GatewayStream::OnDone() {
  readers_.Remove(this);
  {
    absl::MutexLock lock(&context_mutex_);
    context_ = nullptr;
  }
  Release();
}

void GatewayStream::Release() {
  if (--owners_ == 0) delete this;
}

}  // namespace polystrate
