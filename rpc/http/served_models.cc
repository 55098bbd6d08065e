#include "rpc/http/served_models.h"

#include <chrono>

#include "grpcpp/grpcpp.h"
#include "rpc/grpc_status.h"

namespace polystrate {
namespace {

constexpr std::chrono::seconds kTimeout(10);

}  // namespace

ServedModels::ServedModels(const std::shared_ptr<grpc::Channel>& backend)
    : control_(pb::Control::NewStub(backend)) {}

absl::StatusOr<std::vector<std::string>> ServedModels::Names() const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  pb::ServerInfo info;
  const grpc::Status status = control_->GetServerInfo(&context, {}, &info);
  if (!status.ok()) return FromGrpc(status);
  return std::vector<std::string>(info.supported_models().begin(), info.supported_models().end());
}

absl::StatusOr<pb::ModelInfo> ServedModels::Info(const std::string& model) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  pb::GetModelInfoRequest request;
  request.set_model(model);
  pb::ModelInfo info;
  const grpc::Status status = control_->GetModelInfo(&context, request, &info);
  if (!status.ok()) return FromGrpc(status);
  return info;
}

}  // namespace polystrate
