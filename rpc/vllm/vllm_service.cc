#include "rpc/vllm/vllm_service.h"

#include <functional>
#include <utility>

#include "absl/time/clock.h"
#include "rpc/grpc_status.h"
#include "rpc/vllm/gateway_control.h"
#include "rpc/vllm/gateway_request.h"

namespace polystrate {
namespace {

absl::Status NoBackend() { return absl::UnavailableError("the server is starting"); }

// A unary call to the engine.
template <typename Request, typename Response>
struct Asked {
  explicit Asked(LiveCalls& calls) : call(calls) {}
  const LiveCalls::Call call;
  grpc::ClientContext context;
  Request request;
  Response response;
};

// `call` begins the call, given what such a method of the stub's takes. `then` gets the answer; if
// there is none, `reactor` ends with the call's status.
template <typename Request, typename Response, typename Call, typename Then>
void Ask(LiveCalls& calls, const grpc::CallbackServerContext& context,
         grpc::ServerUnaryReactor* reactor, Call call, Then then) {
  auto asked = std::make_shared<Asked<Request, Response>>(calls);
  asked->context.set_deadline(context.deadline());
  call(&asked->context, &asked->request, &asked->response,
       std::function<void(grpc::Status)>([asked, reactor, then](const grpc::Status& status) {
         if (!status.ok()) return reactor->Finish(status);
         then(asked->response);
       }));
}

// One Abort at the engine after the other.
struct Aborting {
  LiveCalls* calls;
  grpc::CallbackServerContext* context;
  grpc::ServerUnaryReactor* reactor;
  const gateway::AbortRequest* request;
  pb::Control::Stub* control;
};

void AbortFrom(int next, const Aborting& aborting) {
  if (next == aborting.request->request_ids_size()) {
    return aborting.reactor->Finish(grpc::Status::OK);
  }
  Ask<pb::AbortRequest, pb::AbortResponse>(
      *aborting.calls, *aborting.context, aborting.reactor,
      [next, aborting](auto* context, auto* request, auto* response, auto done) {
        request->set_request_id(aborting.request->request_ids(next));
        aborting.control->async()->Abort(context, request, response, std::move(done));
      },
      [next, aborting](const pb::AbortResponse&) { AbortFrom(next + 1, aborting); });
}

}  // namespace

VllmService::VllmService() : start_(absl::Now()) {}

VllmService::~VllmService() { calls_.WaitForNone(); }

void VllmService::SetBackend(const std::shared_ptr<grpc::Channel>& engine,
                             absl::Duration reader_timeout) {
  inference_ = pb::Inference::NewStub(engine);
  control_ = pb::Control::NewStub(engine);
  reader_watch_.Start(reader_timeout);
  has_backend_ = true;
}

grpc::ServerWriteReactor<gateway::GenerateResponse>* VllmService::Generate(
    grpc::CallbackServerContext* context, const gateway::GenerateRequest* request) {
  auto* stream = new GatewayStream(calls_, reader_watch_, context, *request);  // owns itself
  absl::StatusOr<pb::GenerateRequest> engine_request =
      has_backend_ ? FromGateway(*request) : NoBackend();
  if (engine_request.ok()) {
    stream->Start(*inference_, *engine_request);
  } else {
    stream->Refuse(engine_request.status());
  }
  return stream;
}

template <typename Request, typename Response, typename Call, typename Then>
grpc::ServerUnaryReactor* VllmService::Relay(grpc::CallbackServerContext* context, Call call,
                                             Then then) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!has_backend_) {
    reactor->Finish(ToGrpc(NoBackend()));
    return reactor;
  }
  Ask<Request, Response>(calls_, *context, reactor, call,
                         [reactor, then](const Response& response) {
                           then(response);
                           reactor->Finish(grpc::Status::OK);
                         });
  return reactor;
}

grpc::ServerUnaryReactor* VllmService::HealthCheck(grpc::CallbackServerContext* context,
                                                   const gateway::HealthCheckRequest* /*request*/,
                                                   gateway::HealthCheckResponse* response) {
  return Relay<pb::HealthRequest, pb::HealthResponse>(
      context, [this](auto... call) { control_->async()->Health(std::move(call)...); },
      [response](const pb::HealthResponse& health) { ToGateway(health, response); });
}

grpc::ServerUnaryReactor* VllmService::Abort(grpc::CallbackServerContext* context,
                                             const gateway::AbortRequest* request,
                                             gateway::AbortResponse* /*response*/) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (has_backend_) {
    AbortFrom(0, {&calls_, context, reactor, request, control_.get()});
  } else {
    reactor->Finish(ToGrpc(NoBackend()));
  }
  return reactor;
}

grpc::ServerUnaryReactor* VllmService::GetModelInfo(grpc::CallbackServerContext* context,
                                                    const gateway::GetModelInfoRequest* /*request*/,
                                                    gateway::GetModelInfoResponse* response) {
  return Relay<pb::GetModelInfoRequest, pb::ModelInfo>(
      context, [this](auto... call) { control_->async()->GetModelInfo(std::move(call)...); },
      [response](const pb::ModelInfo& model) { ToGateway(model, response); });
}

grpc::ServerUnaryReactor* VllmService::GetServerInfo(
    grpc::CallbackServerContext* context, const gateway::GetServerInfoRequest* /*request*/,
    gateway::GetServerInfoResponse* response) {
  return Relay<pb::GetLoadRequest, pb::LoadInfo>(
      context, [this](auto... call) { control_->async()->GetLoad(std::move(call)...); },
      [this, response](const pb::LoadInfo& load) {
        ToGateway(load, absl::Now() - start_, response);
      });
}

grpc::ServerUnaryReactor* VllmService::GetLoads(grpc::CallbackServerContext* context,
                                                const gateway::GetLoadsRequest* /*request*/,
                                                gateway::GetLoadsResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!has_backend_) {
    reactor->Finish(ToGrpc(NoBackend()));
    return reactor;
  }
  const auto with_server = [this, context, reactor, response](const pb::ServerInfo& server) {
    Ask<pb::GetLoadRequest, pb::LoadInfo>(
        calls_, *context, reactor,
        [this](auto... call) { control_->async()->GetLoad(std::move(call)...); },
        [reactor, response, server](const pb::LoadInfo& load) {
          ToGateway(server, load, absl::Now(), response);
          reactor->Finish(grpc::Status::OK);
        });
  };
  Ask<pb::GetServerInfoRequest, pb::ServerInfo>(
      calls_, *context, reactor,
      [this](auto... call) { control_->async()->GetServerInfo(std::move(call)...); }, with_server);
  return reactor;
}

}  // namespace polystrate
