// ServedModels: what the backend says of its models.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

namespace pb = openengine::v1;

// Any thread. Asks each time: engines come and go.
class ServedModels {
 public:
  explicit ServedModels(const std::shared_ptr<grpc::Channel>& backend);

  absl::StatusOr<std::vector<std::string>> Names() const;
  // Empty: whichever is served. NOT_FOUND.
  absl::StatusOr<pb::ModelInfo> Info(const std::string& model) const;

 private:
  const std::unique_ptr<pb::Control::Stub> control_;
};

}  // namespace polystrate
